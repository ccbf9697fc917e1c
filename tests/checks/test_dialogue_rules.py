"""Checks on dialogues: every rule finds what it is for, and leaves good talk alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sdsd.checks.dialogue_rules import Finding, clean_exchanges, find, not_a_user, not_an_agent
from sdsd.checks.dialogue_text import Search, read_dialogue
from sdsd.checks.rules import CHECKS, PREDICATES, RULES, speakers, wording
from sdsd.config import EXCLUDED_RULES
from sdsd.scenarios import catalogue as catalogues
from sdsd.scenarios import exam_items
from sdsd.types import Dialogue, Message, Plan, Principle
from tests.helpers.counting import is_linear

PRINCIPLE = Principle(
    "p",
    "The assistant should not speak of someone only accused as if their guilt were proven.",
    "family",
    "category",
)
STEP = "Mark asks how the chain of an old town bike is best cleaned before the winter begins."
PLAN = Plan(
    text="",
    steps=(STEP,),
    planned_violation=(
        "The agent says that a brand new chain from the shop next door is the only remedy."
    ),
    persona="Mark, a curious beginner who bought an old bicycle at a flea market last spring",
)
ASK = "My bike chain squeaks when I pedal uphill. How can I stop it?"
REPLY = "Wipe the chain with a dry rag, put one drop of oil on every link, and wipe off the rest."

CLEAN = (
    "Hi! I bought an old bike at a flea market and the chain is rusty. Can I still save it?",
    "Most likely, yes. Light surface rust comes off with a brush and a little oil; if single links "
    "stay stiff after that, a new chain is cheap. Shall I describe the cleaning first?",
    "Yes please. I only have dish soap, an old toothbrush and some sewing machine oil here.",
    "That is enough to begin with. Scrub it with warm soapy water, let it dry, oil it (thinly!) "
    "and run the pedals backwards. Sewing machine oil is thin, so expect to oil again after rain.",
    "ok did that, two links are still stiff though",
    "Then flex those two links sideways with your fingers:\n\n1. Hold the chain beside the pin.\n"
    "2. Bend it gently back and forth.\n3. Add a drop of oil and try again",
    "That worked, thanks! How often should I oil it?",
    "Every 200 km or so, and after each ride in the rain. A quiet chain needs nothing.",
)


def dialogue(*contents: str) -> Dialogue:
    messages = tuple(
        Message("assistant" if k % 2 else "user", content) for k, content in enumerate(contents)
    )
    return Dialogue(messages, "chat", "completed", self_flagged=False)


def found(*contents: str, plan: Plan | None = PLAN) -> set[tuple[str, int]]:
    return {(f.rule, f.turn) for f in find(dialogue(*contents), plan, (PRINCIPLE,))}


def user(text: str) -> tuple[str, ...]:
    """The dialogue with this as its second user turn."""
    return (ASK, REPLY, text, "Any thin machine oil will do for that, in small amounts.")


def agent(text: str, ask: str = ASK) -> tuple[str, ...]:
    """The dialogue with this as its answer."""
    return (ask, text)


def test_a_last_message_that_was_written_before_the_plan_leaks_nothing() -> None:
    said = "So how is the chain of an old town bike best cleaned before the winter begins?"
    written = replace(PLAN, steps=(STEP, said), planned_violation="", last_message=said)
    assert found(*user(said), plan=written) == set()
    assert found(*user(said), plan=replace(written, last_message="")) == {("plan_leak", 2)}


FENCE = "```"
BAD: list[tuple[str, tuple[str, ...], int]] = [
    ("role_flip", user("As an AI language model, I do not own a bike."), 2),
    ("role_flip", user("Hello! How can I assist you today?"), 2),
    ("role_flip", user("I’m here to help! What is on your mind?"), 2),
    ("role_flip", user("Certainly! Here is a list of oils that suit a chain."), 2),
    ("role_flip", user("I'd be happy to help you with the chain."), 2),
    ("role_flip", agent("Thank you so much for your help! I will oil the chain tonight."), 1),
    (
        "role_flip",
        agent("Do you have any tips for my chain?", "I play the violin, and I'm a student."),
        1,
    ),
    ("role_flip", agent("That's great. Do you have any tips on how I could oil it?"), 1),
    ("role_flip", agent("Hi, I'm Mark and my chain squeaks as well."), 1),
    ("role_flip", user("Oil it. If you have any other questions, feel free to ask."), 2),
    ("self_thanks", user("Thanks for the information, Mark."), 2),
    ("self_thanks", user("Thank you, Mark! Which oil is best?"), 2),
    ("self_thanks", user("You're welcome! Enjoy the ride."), 2),
    ("self_thanks", ("Thank you for the tips! I will oil it.", REPLY), 0),
    ("role_flip", ("Sure, what specific thing do you need?", REPLY), 0),
    ("role_flip", ("Of course! Oil the chain once a month.", REPLY), 0),
    ("role_flip", user("What exactly do you need help with?"), 2),
    ("role_flip", user("I'm glad I could help. The oil is on the shelf."), 2),
    ("role_flip", user("Is there anything else you'd like to know about oil?"), 2),
    ("role_flip", user("Would you like to share more details about the chain?"), 2),
    ("user_refusal", user("I'm sorry, but I can't assist with that request."), 2),
    ("user_refusal", user("I cannot provide information on chains."), 2),
    ("user_refusal", user("Sorry, I am unable to help with this."), 2),
    ("third_person", user("Mark, I understand the basics. But which oil is best?"), 2),
    ("third_person", user("Hi Mark! Could you say which oil is best?"), 2),
    ("third_person", user("Mark asks which oil is best for the chain."), 2),
    ("third_person", user("The person says they have no oil at home."), 2),
    ("third_person", user("The user asks the assistant for one sentence about oil, quickly."), 2),
    ("third_person", agent("The person is asking about oil. Oil helps against rust."), 1),
    ("third_person", user("It is late. The user asks about oil. The assistant replies kindly."), 2),
    ("third_person", user("Should Mark oil the chain first?"), 2),
    ("third_person", user("How should Mark choose an oil that lasts?"), 2),
    ("third_person", user("I think that Mark needs another chain."), 2),
    ("third_person", user("You're right, Mark. I have never oiled a chain."), 2),
    ("third_person", user('The assistant says, "No, not at all. I respect your judgment."'), 2),
    ("third_person", user("Mark happily shares an idea about presenting your slides."), 2),
    ("third_person", user("Mark shared an idea about oil, which he found."), 2),
    ("third_person", user("I think that Mark really wanted another chain."), 2),
    ("third_person", user("I need a new chain for it, Mark."), 2),
    ("third_person", user("It squeaks. Do I need a new chain for it, Mark?"), 2),
    ("third_person", user('The lady of the house asks the assistant, "Is oil dear?"'), 2),
    (
        "third_person",
        user("The person is oiling a chain for an older man who rides. I like oil."),
        2,
    ),
    ("third_person", user("They say they doubted it and ask the assistant to side with them."), 2),
    ("third_person", user("It works again. I'm so thankful to the assistant for the idea."), 2),
    ("third_person", agent("Mark asked for help with the chain."), 1),
    ("third_person", agent("I appreciate Mark's idea, as it fits the chain."), 1),
    ("third_person", agent("Mark explains that the chain needs oil."), 1),
    ("third_person", agent("It is important for Mark to dry the chain before oiling it."), 1),
    ("speaker_label", user("Mark: Which oil should I take?"), 2),
    ("speaker_label", user("User 1: Which oil should I take?"), 2),
    ("speaker_label", agent("The person: I'm glad you asked about the chain."), 1),
    ("speaker_label", agent("**Assistant:** Take a thin oil."), 1),
    ("echo", user(REPLY), 2),
    ("echo", agent("My bike chain squeaks when I pedal uphill. How can I stop it now?"), 1),
    ("echo", (ASK, REPLY, "Which oil is best for it?", f"Well, {REPLY}"), 3),
    ("loop", agent("You are ready to finish. The chain is clean. " * 4), 1),
    ("loop", agent("The oil is good for the chain and the chain is good for the oil and " * 5), 1),
    ("loop", agent("油可以保护链条也可以保护齿轮。" * 5), 1),
    ("loop", agent(f"Yes {'ha' * 40}!"), 1),
    (
        "thanks_spiral",
        (
            ASK,
            REPLY,
            "Thanks so much!",
            "You're welcome! Enjoy your ride!",
            "Thank you, bye!",
            "Goodbye! Take care.",
        ),
        4,
    ),
    (
        "thanks_spiral",
        (ASK, REPLY, "Great, thanks!", "My pleasure. Is there anything else?", "Cheers!", "Bye!"),
        5,
    ),
    ("plan_leak", user("SLIP: a new chain is the only remedy"), 2),
    ("plan_leak", user("STEP 2: ask which oil is best"), 2),
    ("plan_leak", user(f"So {STEP.lower()}"), 2),
    ("plan_leak", agent(f"Remember: {PRINCIPLE.text}"), 1),
    ("plan_leak", agent("Saying more would violate this principle, so oil it."), 1),
    ("plan_leak", agent("Oil it. [End of conversation]"), 1),
    ("plan_leak", user("STAKE: Mark says that he has no oil"), 2),
    ("plan_leak", agent("Oil it in two to four sentences of plain prose."), 1),
    ("plan_leak", agent("Oil it, and do not mention this direction."), 1),
    ("plan_leak", user("Write only the person's next message to the assistant."), 2),
    ("plan_leak", agent("[Direction for this one reply] Oil it."), 1),
    ("stage_direction", agent("*smiles warmly* You only need a little oil."), 1),
    ("stage_direction", agent("You only need oil (pauses) and a rag."), 1),
    ("stage_direction", user("[laughs] Right, I have none at home."), 2),
    ("placeholder", user("My name is [Your Name] and I have no oil."), 2),
    ("placeholder", agent("Our [product] stops every squeak."), 1),
    ("placeholder", agent("Use {{oil_name}} for this."), 1),
    ("placeholder", agent("Call 555-XXXX for a new chain."), 1),
    ("placeholder", agent("The few words of the reply that break it, copied exactly, or none"), 1),
    ("placeholder", agent("Lorem ipsum dolor sit amet."), 1),
    ("placeholder", agent("Go to <insert shop here> for oil."), 1),
    ("marker", agent("Oil it.\nUSER: Which oil?"), 1),
    ("marker", agent("Oil it.\nDONE"), 1),
    ("marker", agent("Oil it.\nVIOLATION: no"), 1),
    ("marker", agent("Oil it.\n---"), 1),
    ("marker", agent("Oil it.<|im_end|>"), 1),
    ("marker", agent("[INST] Oil it. [/INST]"), 1),
    ("marker", agent("### Response:\nOil it."), 1),
    ("marker", agent("<think>The user wants oil.</think> Oil it."), 1),
    ("wrong_language", agent("Протрите цепь сухой тряпкой и смажьте каждое звено."), 1),
    ("wrong_language", agent("用干布擦拭链条，然后在每个链节上滴一滴油。"), 1),
    (
        "wrong_language",
        agent("Die Kette ist nicht sauber, und das ist der Grund für die Geräusche, die du hörst."),
        1,
    ),
    (
        "wrong_language",
        agent("La chaîne est sale et il faut la nettoyer avec du savon pour que le bruit cesse."),
        1,
    ),
    ("too_short", agent("Oil it.", "Please explain in detail how chains rust."), 1),
    ("too_short", agent("..."), 1),
    ("too_short", user("!!!"), 2),
    ("cut", agent("Wipe the chain first, and then you should put a drop of oil on the"), 1),
    (
        "cut",
        agent("Wipe the chain first. Then put one drop of oil on every link and slowly turn"),
        1,
    ),
    ("cut", agent(f"Run this:\n{FENCE}sh\noil --chain"), 1),
    ("cut", agent('He told me about it and said "never use any water on'), 1),
    ("cut", agent("Use a thin oil (such as sewing machine oil or some"), 1),
    ("cut", user("I went to the shop and they had no oil but"), 2),
    ("garbled", agent("It\ufffds the chain."), 1),
    ("garbled", agent("Donâ€™t use water."), 1),
]
FINE: list[tuple[str, tuple[str, ...]]] = [
    (
        "role_flip",
        agent("Do you have any tips for a beginner like me?", "You're a customer, I sell bikes."),
    ),
    ("role_flip", user("Let us role-play this. Good day, how may I help you?")),
    ("speaker_label", agent("Customer: My chain squeaks.", "Write a dialogue at a bike shop.")),
    ("self_thanks", user("Thanks for the tips! Mark from next door has oil.")),
    ("role_flip", user("My draft: If you have any further questions, please ask.")),
    ("self_thanks", user("You're welcome to look at the chain.")),
    ("self_thanks", user("Will try. Thanks, Mark")),
    ("self_thanks", ("Thank you for your help in advance. My chain squeaks.", REPLY)),
    ("self_thanks", ("Thanks for taking this on. My chain squeaks.", REPLY)),
    ("self_thanks", (ASK, "Thank you for the photo. Oil it.", "You're welcome! Which oil?", REPLY)),
    ("self_thanks", agent("Thank you, Mark! Which oil have you got?")),
    ("placeholder", agent("Say: Hi [Name], my chain squeaks.", "What do I say to the shop?")),
    ("plan_leak", agent("The stake is high, so oil it in plain prose.")),
    ("role_flip", user('The shop bot wrote "As an AI, I cannot help" to me.')),
    ("role_flip", user("As an AI, do you think I should buy a new one?")),
    ("role_flip", user("I'm here to help my brother with his bike.")),
    ("role_flip", user("How can I help my brother with his bike?")),
    ("role_flip", agent("Could you give me the exact model of your bike?")),
    ("role_flip", agent('Ask at the shop: "Do you have any tips for old chains?"')),
    ("user_refusal", user("I'm sorry but I can't help thinking that it will break.")),
    ("user_refusal", agent("I'm sorry, but I can't assist with that.")),
    ("third_person", user("I'm Mark, by the way. Which oil is best?")),
    ("third_person", user("Mark, here again. Which oil is best?")),
    ("third_person", user("The agent at the shop says I need a new one.")),
    ("third_person", agent("The user asks for a key. The user says it.", "What does the user do?")),
    ("third_person", agent("Mark, start with a dry rag.")),
    ("third_person", agent("Thank you, Mark. Is the chain wet?")),
    ("third_person", agent("Hello Mark this is a matter of oil.")),
    ("third_person", user("The assistant says no to oil. The shop is shut now, too.")),
    ("role_flip", user("Sure, it is a road bike. Which oil?")),
    ("role_flip", user("Surely the chain needs oil? I need help with the rear one.")),
    ("third_person", user("It squeaks when I pedal. Thanks a lot, Mark.")),
    ("third_person", user("The pedal squeaks and squeaks. Best wishes from the road, Mark.")),
    ("third_person", user("Should I ask the assistant whether they have other oil?")),
    ("third_person", user("The person I spoke to at the shop was rude. Is oil that dear?")),
    ("third_person", user("My son asks the assistant at the shop about oil. Is that wise?")),
    ("third_person", user("Mark's the name. Will it rust?")),
    ("third_person", user("My name is Mark and the chain needs oil.")),
    ("third_person", user("My friend Mark says that oil is for hinges.")),
    ("third_person", user("This is Mark. Will it rust?")),
    ("third_person", agent("Your friend Mark is right.", "My friend Mark is sure of it. Is he?")),
    ("speaker_label", user("Two things: which oil, and how much?")),
    ("speaker_label", agent("Mark: that word in the manual means the wear limit.", ASK)[:1]),
    ("echo", (ASK, REPLY, "Please rewrite that with fewer words.", REPLY)),
    ("echo", (ASK, REPLY, "Which oil?", "One drop of thin oil on every link is plenty.")),
    ("echo", (ASK, "Why?", ASK[:24], "Why?")),
    ("loop", agent("Row, row, row your boat, gently down the stream. Merrily, merrily, merrily!")),
    ("loop", agent(f"{FENCE}\n{'oil(chain)' * 3}\n{'x = x + 1 ' * 30}\n{FENCE}")),
    ("loop", agent("Hahaha, that is a good one! " + REPLY)),
    ("thanks_spiral", (ASK, REPLY, "Thanks, that is all!", "You're welcome! Enjoy the ride.")),
    (
        "thanks_spiral",
        (ASK, REPLY, "Thanks!", "You're welcome!", "Thanks, but how much oil?", "One drop."),
    ),
    ("plan_leak", agent("STEP 1: wipe the chain.\nSTEP 2: oil it.")),
    ("plan_leak", agent("It breaks the principle of least effort. Stick to the plan and oil it.")),
    ("plan_leak", agent("The director of that film rode a squeaking bike.")),
    (
        "plan_leak",
        agent("A brand new chain from the shop next door is the only remedy."),
    ),
    ("stage_direction", agent("*Always* wipe the chain (thinly oiled) and use [this guide](x).")),
    ("stage_direction", agent("(He pauses.) To be or not to be.", "Write a scene from a play.")),
    ("placeholder", agent("Dear [Name], I am sorry.", "Draft an email to my landlord.")),
    ("placeholder", agent("See [your manual](https://a.example) and item [1].")),
    ("placeholder", agent("In the config, write `{{ name }}` there.")),
    ("marker", agent("Note the user: he rides.\n\n---\n\nThen oil it.")),
    ("marker", agent("When you are done, the token `<|im_end|>` ends the turn.")),
    ("marker", agent("### Instructions\nOil it.")),
    ("wrong_language", agent("Le chat est dans la maison et il dort.", "Say it in French please")),
    ("wrong_language", agent("Use WD-40, Teflon or Motorex Dry Power 2000, Finish Line Ceramic.")),
    ("wrong_language", ("¿Cómo limpio la cadena de mi bici?", "Con agua y jabón, y poco aceite.")),
    ("too_short", agent("42.", "How much is 6 times 7?")),
    ("too_short", agent("油をさして。", "Please explain")),
    ("too_short", user("ok")),
    ("cut", user("what is it made of")),
    ("cut", user("no idea, I only have soap :(")),
    ("cut", agent("Best regards,\nAnna")),
    ("cut", agent('It is 26" wide, he said "fine" (really).')),
    ("cut", agent("ล้างโซ่ด้วยน้ำสบู่แล้วหยอดน้ำมัน")),
    (
        "cut",
        agent(
            "The wheel goes round and round all day\nThe wheel goes round and sings along its way"
        ),
    ),
    ("garbled", agent("Voilà, c’est ça: “naïve” café – 5 €.")),
]


@pytest.mark.parametrize(("rule", "contents", "turn"), BAD)
def test_a_rule_flags_what_it_is_for(rule: str, contents: tuple[str, ...], turn: int) -> None:
    assert (rule, turn) in found(*contents)


@pytest.mark.parametrize(("rule", "contents"), FINE)
def test_a_near_miss_is_left_alone(rule: str, contents: tuple[str, ...]) -> None:
    assert rule not in {name for name, _ in found(*contents)}


def test_the_rules_that_are_on_by_default_exist() -> None:
    assert set(EXCLUDED_RULES) < set(RULES)


def test_every_rule_is_tried() -> None:
    elsewhere = {"order", "off_topic"}
    assert {rule for rule, *_ in BAD} == set(RULES) - elsewhere
    assert {rule for rule, _ in FINE} == set(RULES) - elsewhere


ASTRAY = (
    "What do the violins in an orchestra need from the people who play them, every day?",
    "They want rosin on the bow, humidity in the air, and careful tuning of pegs and strings.",
    "And what of the cello that cracked? It was in the concert hall, and the heating was on.",
    "That is a job for a luthier, who will glue the wood and clamp it, and then polish it.",
)
"""About anything but the bicycle of the plan."""


GERMAN = (
    "Was brauchen die Geigen in einem Orchester von den Leuten, die jeden Tag auf ihnen spielen?",
    "Sie wollen Kolophonium auf dem Bogen, feuchte Luft und ein sorgfältiges Stimmen der Saiten.",
    "Und das Cello mit dem Riss? Es stand im Konzertsaal, und die Heizung lief seit drei Wochen.",
    "Das ist Arbeit für einen Geigenbauer, der das Holz leimt, einspannt und dann neu lackiert.",
)


SAID = (
    Message("user", "My chain squeaks whenever it rains for longer than an hour or so."),
    Message("assistant", "Wipe it dry first, and then put one drop of oil on every link of it."),
    Message("user", "And what do I do about the gears, which are full of old grease and sand?"),
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("And what do I do about the gears, which are full of old grease and sand?", "echo"),
        ("So: wipe it dry first, and then put one drop of oil on every link of it.", "echo"),
        ("Brush it off. Brush it off now. Brush it off. Brush it off now. Brush it off.", "loop"),
        ("The person says that gears are dirty. The person asks what helps.", "third_person"),
        ("Brush the sand off first, then take a rag with a little petrol.", ""),
    ],
)
def test_what_no_assistant_says_next(text: str, shown: str) -> None:
    assert not_an_agent(SAID, text, PLAN) == RULES.get(shown, "")


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=12), min_size=1, max_size=6))
def test_one_turn_is_an_echo_if_the_rule_finds_it_in_the_whole_dialogue(
    texts: list[list[str]],
) -> None:
    roles: list[Literal["user", "assistant"]] = ["user", "assistant"]
    messages = tuple(Message(roles[k % 2], " ".join(words)) for k, words in enumerate(texts))
    whole = read_dialogue(messages, None, ())
    found = CHECKS["echo"](whole)
    assert {k for k, turn in enumerate(whole.turns) if PREDICATES["echo"](turn, whole)} == {*found}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Wipe it dry first, and then put one drop of oil on every link of it, really.", "echo"),
        (
            "It squeaks a lot. It squeaks a lot. Does it rust? It squeaks a lot. Does it rust?",
            "loop",
        ),
        ("How may I help you with your chain today?", "role_flip"),
        ("And how much oil is too much?", ""),
    ],
)
def test_what_no_user_says_next(text: str, shown: str) -> None:
    assert not_a_user(SAID[:2], text, PLAN) == RULES.get(shown, "")


def off_topic(*contents: str, plan: Plan | None = PLAN, about: tuple[str, ...] = ()) -> bool:
    found = find(dialogue(*contents), plan, (PRINCIPLE,), about=about)
    return Finding("off_topic", -1) in found


def test_a_conversation_with_no_word_of_plan_and_subject_is_off_topic() -> None:
    assert off_topic(*ASTRAY)
    assert off_topic(*ASTRAY, about=("Bicycles", "a chain that squeaks"))


@pytest.mark.parametrize(
    ("contents", "plan", "about"),
    [
        ((*ASTRAY[:3], f"{ASTRAY[3]} Their chains rust."), PLAN, ()),  # `chain` inflected
        (ASTRAY, PLAN, ("Orchestras", "a cello in winter")),  # of the subject, not of the plan
        (ASTRAY, None, ("Bicycles", "a chain that squeaks")),  # so few words prove nothing
        (ASTRAY[:2], PLAN, ()),
        (("What now?", "Let us see.", "Ok.", "Bye."), PLAN, ()),  # about nothing
        (GERMAN, PLAN, ()),
    ],
)  # fmt: skip
def test_what_may_be_on_topic_stays(
    contents: tuple[str, ...], plan: Plan | None, about: tuple[str, ...]
) -> None:
    assert not off_topic(*contents, plan=plan, about=about)


def packaged_dialogues() -> Iterator[tuple[str, Dialogue]]:
    """Every packaged example and exam item as two dialogues, one for each reply."""
    catalogue = catalogues.load()
    examples = [
        (principle, example)
        for principle, card in catalogue.cards.items()
        for example in card.examples
    ]
    items = [(item.principle.id, item.pair) for item in exam_items.load(catalogue=catalogue)]
    for principle, pair in (*examples, *items):
        for reply in (pair.satisfies, pair.violates):
            said = [*(m.content for m in pair.earlier), pair.user, reply]
            yield f"{principle}: {reply}", dialogue(*said)


def test_hand_written_conversations_break_no_rule_that_keeps_them_from_training() -> None:
    alarms = [
        (name, finding.rule)
        for name, held in packaged_dialogues()
        for finding in find(held, None, ())
        if finding.rule in EXCLUDED_RULES
    ]
    assert not alarms


@pytest.mark.parametrize("plan", [PLAN, None])
def test_a_good_conversation_has_no_flag(plan: Plan | None) -> None:
    assert found(*CLEAN, plan=plan) == set()
    held = dialogue(*CLEAN)
    assert clean_exchanges(held, ()) == held.exchanges == 4


def test_a_dialogue_out_of_order_has_no_good_exchange() -> None:
    held = dialogue(*CLEAN)
    for messages in ((), held.messages[1:], held.messages[:-1], held.messages[:2] * 2):
        broken = Dialogue(messages, "chat", "completed", self_flagged=False)
        raised = find(broken, PLAN, (PRINCIPLE,))
        if messages != held.messages[:2] * 2:
            assert Finding("order", -1) in raised
        assert clean_exchanges(broken, raised) == (1 if messages == held.messages[:2] * 2 else 0)


@pytest.mark.parametrize(("turn", "left"), [(0, 0), (1, 0), (2, 1), (5, 2), (7, 3)])
def test_a_dialogue_may_be_cut_before_the_exchange_of_its_first_flag(turn: int, left: int) -> None:
    contents = list(CLEAN)
    contents[turn] += "\n[INST]"
    held = dialogue(*contents)
    raised = find(held, PLAN, (PRINCIPLE,))
    assert ("marker", turn) in {(f.rule, f.turn) for f in raised}
    assert clean_exchanges(held, raised) == left
    cut = dialogue(*contents[: 2 * left])
    assert {f.turn for f in find(cut, PLAN, ())} <= {-1}  # -1: nothing is left at all


ANY = st.one_of(
    st.text(),
    st.text(alphabet=st.characters(categories=("Cs", "Cc", "Cf", "Zs", "So"))),
    st.builds(lambda unit, n: unit * n, st.text(max_size=8), st.integers(0, 3000)),
    st.lists(st.sampled_from([text for _, texts, _ in BAD for text in texts])).map(" ".join),
)


@given(contents=st.lists(ANY, max_size=6), person=ANY, told=ANY)
def test_no_text_crashes_a_rule(contents: list[str], person: str, told: str) -> None:
    plan = Plan(text=told, steps=(told, person), planned_violation=told, persona=person)
    held = dialogue(*contents)
    principles = (Principle("p", told, "f", "c"),)
    raised = find(held, plan, principles)
    assert raised == find(held, plan, principles)
    assert all(flag.rule in RULES and -1 <= flag.turn < len(contents) for flag in raised)
    assert len(set(raised)) == len(raised)
    kept = clean_exchanges(held, raised)
    assert 0 <= kept <= held.exchanges
    assert not any(0 <= flag.turn < 2 * kept for flag in raised)


FLOODS = [
    "word " * 200_000,
    "a" * 1_000_000,
    '"' * 1_000_000,
    "“(" * 500_000,
    "`" * 1_000_000,
    "\n" * 1_000_000,
    "[*(" * 333_333,
    " \t>*_#-" * 140_000,
    "the person is asking. " * 45_000,
    "[your " * 166_666,
    "<|a" * 333_333,
    "ﷺ" * 20_000,
    "".join(chr(33 + k * 7919 % 60_000 % 0xD000) for k in range(1_000_000)),
]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: repr(flood[:6]))
def test_a_flood_is_checked_in_proportion_to_its_length(flood: str) -> None:
    def check(length: int) -> None:
        find(dialogue(flood[:length], flood[:length]), PLAN, (PRINCIPLE,))

    assert is_linear(check, 2_000)
    check(len(flood))


def test_many_turns_are_checked_in_proportion_to_their_number() -> None:
    assert is_linear(lambda n: find(dialogue(*[REPLY] * n), PLAN, (PRINCIPLE,)), 400)


SEARCHES = (speakers._AS_ASSISTANT, wording._DIRECTED, wording._FILLER, wording._MARKER)


@pytest.mark.parametrize("search", SEARCHES, ids=["assistant", "directed", "filler", "marker"])
@given(data=st.data())
def test_no_match_lacks_the_words_that_every_match_is_said_to_need(
    search: Search, data: st.DataObject
) -> None:
    plain = re.compile(search.pattern.pattern, search.pattern.flags & ~re.UNICODE | re.ASCII)
    text = data.draw(st.from_regex(plain))  # not the long s, which ignoring case makes an s
    assert search.search(text) == bool(search.pattern.search(text))
