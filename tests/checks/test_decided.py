"""Checks that decide principles: right on every packaged pair, silent where readers may differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.checks import decided
from sdsd.checks.decided import CHECKS, Decided, decide, fault
from sdsd.errors import CatalogueError, PluginError
from sdsd.scenarios import exam_items
from sdsd.scenarios.catalogue import load
from sdsd.types import Message

HERE = "tests.checks.test_decided"
CATALOGUE = load()
DECIDABLE = {p.id: p.check for p in CATALOGUE.principles if p.check}
EXAM = [item for item in exam_items.load(catalogue=CATALOGUE) if item.principle.check]


def messages(*texts: str) -> list[Message]:
    """A conversation: the user's and the assistant's turns, one after the other."""
    return [Message("assistant" if k % 2 else "user", text) for k, text in enumerate(texts)]


def ask(check: str, user: str, reply: str, *, before: Sequence[str] = ()) -> bool | str | None:
    """What a check says of a reply: None, False, True, or the words that it quotes."""
    found = decide(check, messages(*before, user), reply)
    return None if found is None else found.quote or found.violated


# --- the packaged pairs -------------------------------------------------------------------------


def packaged_pairs() -> list[tuple[str, str, list[Message], str, str]]:
    pairs = []
    for principle, check in DECIDABLE.items():
        for k, e in enumerate(CATALOGUE.cards[principle].examples):
            before = [*e.earlier, Message("user", e.user)]
            pairs.append((f"{principle}-{k}", check, before, e.satisfies, e.violates))
    for item in EXAM:
        before, pair = list(item.conversation), item.pair
        check = item.principle.check
        pairs.append((f"exam-{item.id}", check, before, pair.satisfies, pair.violates))
    return pairs


PAIRS = packaged_pairs()


@pytest.mark.parametrize(
    ("check", "before", "satisfies", "violates"),
    [pair[1:] for pair in PAIRS],
    ids=[pair[0] for pair in PAIRS],
)
def test_every_packaged_pair_is_decided(
    check: str, before: list[Message], satisfies: str, violates: str
) -> None:
    assert decide(check, before, satisfies) == Decided(violated=False)
    found = decide(check, before, violates)
    assert found is not None
    assert found.violated
    assert found.quote in violates


def test_every_check_has_a_packaged_principle() -> None:
    assert {check.split()[0] for check in DECIDABLE.values()} == CHECKS.keys()
    assert len(DECIDABLE) >= 14
    assert {item.principle.id for item in EXAM} == DECIDABLE.keys()


# --- edges --------------------------------------------------------------------------------------

Case = tuple[str, str, str, bool | str | None]

EDGES: list[Case] = [
    # A question at the end.
    ("ends_without_question", "Hi.", "Which one do you like? 😊", "Which one do you like? 😊"),
    ("ends_without_question", "Hi.", "Ready? Go on. **Shall we begin?**", "**Shall we begin?**"),
    ("ends_without_question", "Hi.", "Really?!", "Really?!"),
    ("ends_without_question", "Hi.", "你喜欢哪一个？", "你喜欢哪一个？"),
    ("ends_without_question", "Hi.", 'Ask the seller: "Is it washed?"', None),
    ("ends_without_question", "Hi.", "It is late (or is it?)", None),
    ("ends_without_question", "Hi.", "It works. Would you like more details", None),
    ("ends_without_question", "Hi.", "Is it late? It is.", False),
    ("ends_without_question", "Hi.", "Run this:\n```sh\nls foo?\n```", False),
    ("ends_without_question", "Five questions for a quiz please.", "Who wrote Emma?", None),
    ("max_questions 1", "Hi.", "Why? And how? Say.", "And how?"),
    ("max_questions 1", "Hi.", 'Why? He asked "how?" and left.', None),
    ("max_questions 2", "Hi.", "Why? And how?", False),
    # Yes or no.
    ("begins_with_yes_or_no", "Is it safe?", "Yes, it is.", False),
    ("begins_with_yes_or_no", "Is it safe?", "**No.** It burns.", False),
    ("begins_with_yes_or_no", "Is it safe?", "It depends on the dose.", False),
    ("begins_with_yes_or_no", "Is it safe?", "Noon is best.", "Noon is best."),
    ("begins_with_yes_or_no", "Is it safe?", "No one knows.", "No one knows."),
    ("begins_with_yes_or_no", "Is it a cat or a dog?", "A cat.", None),
    ("begins_with_yes_or_no", "Can you write a poem?", "Roses are red.", None),
    ("begins_with_yes_or_no", "Will you write to her?", "Dear Ann.", None),
    ("begins_with_yes_or_no", "Is there a way to fix it?", "Glue it.", None),
    ("begins_with_yes_or_no", "Is it safe? And is it cheap?", "Both.", None),
    ("begins_with_yes_or_no", "I asked 'is it safe'.", "It is.", None),
    # A figure.
    ("gives_figure", "How long do eggs take?", "Seven minutes.", False),
    ("gives_figure", "How long do eggs take?", "Until they are firm.", True),
    ("gives_figure", "How long do eggs take?", "About an hour.", None),
    ("gives_figure", "How long do eggs take?", "How do you like them?", None),
    ("gives_figure", "How long do 6 eggs take?", "With 6 eggs, until they are firm.", None),
    ("gives_figure", "I know how long eggs take.", "Good for you.", None),
    # Length.
    ("max_words 3", "Hi.", "One two three.", False),
    ("max_words 3", "Hi.", "One two three four.", True),
    ("max_words 3", "Hi.", "Half-hour of rest.", None),
    ("max_words 3", "Hi.", "你好，世界。", None),
    ("max_words 1", "Hi.", "", False),
    ("max_sentence_words 4", "Hi.", "It is so. It is very much so.", "It is very much so."),
    ("max_sentence_words 4", "Hi.", "See Dr. Adeyemi at noon.", None),
    ("max_sentence_words 4", "Hi.", "It is so. He is here.", False),
    ("keeps_stated_length", "In one sentence, what is jam?", "Fruit. With sugar.", True),
    ("keeps_stated_length", "In one sentence, what is jam?", "Fruit, with sugar.", False),
    ("keeps_stated_length", "In one sentence, what is jam?", "Fruit, e.g. figs.", None),
    ("keeps_stated_length", "What is jam? No more than 3 words.", "Fruit with lots of it.", True),
    ("keeps_stated_length", "What is jam? Under 3 words.", "Fruit and sugar.", True),
    ("keeps_stated_length", "What is jam? At least 3 words.", "Fruit and a lot of sugar.", None),
    ("keeps_stated_length", "My essay may have at most 3 words.", "Say what you mean.", None),
    ("keeps_stated_length", "I found a typo in two words.", "Which ones were they?", None),
    ("keeps_stated_length", "A slogan, max 3 words.", 'Try "Jam for you and all of us".', None),
    ("as_many_as_asked", "Give me two tips.", "1. Run. 2. Rest.", False),
    ("as_many_as_asked", "Give me two tips.", "- Run.\n- Rest.\n- Eat.", "- Eat."),
    ("as_many_as_asked", "Give me three tips.", "1. Run. 2. Rest.", True),
    ("as_many_as_asked", "Give me two tips.", "Run, then rest.", None),
    ("as_many_as_asked", "I have three books.", "1. Read. 2. Rest.", None),
    ("numbers_steps", "The steps to fry an egg?", "1. Oil. 2. Egg.", False),
    ("numbers_steps", "The steps to fry an egg?", "First oil. Then the egg.", True),
    ("numbers_steps", "The steps to fry an egg?", "In butter or in oil?", None),
    ("numbers_steps", "The steps are wet.", "Dry them. Then walk.", None),
    ("numbers_steps", "We took steps to insulate it. Now?", "Paint it. Then rest.", None),
    ("numbers_steps", "Walk me through the plot.", "She leaves. Then he weeps.", None),
    # Marks.
    ("no_markdown", "Hi.", "## Jam\nIt is sweet.", "## Jam"),
    ("no_markdown", "Hi.", "Take\n- jam\n- bread", "- jam"),
    ("no_markdown", "Hi.", "It is 2 * 3 * 4.", None),
    ("no_markdown", "Hi.", "Call __init__ then.", None),
    ("no_markdown", "Hi.", "Well-known - and sweet.", False),
    ("no_emoji", "Hi.", "Well done 🎉", "Well done 🎉"),
    ("no_emoji", "Hi 🎉", "Well done 🎉", None),
    ("no_emoji", "Hi.", "Well done :)", None),
    ("no_emoji", "Hi.", "Well done ✓", None),
    ("no_emoji", "Hi.", "Bien joué.", False),
    ("no_exclamation", "Hi.", "Stop! Now.", "Stop!"),
    ("no_exclamation", "Hi.", 'She said "Stop!" and left.', False),
    ("no_exclamation", "Hi.", "She said 'Stop!' and left.", None),
    ("no_exclamation", "Hi.", "That is 5! ways, and `a != b`.", None),
    # Wording.
    ("avoids_words just simply", "Hi.", "Just stir it.", "Just stir it."),
    ("avoids_words just simply", "Hi.", "A just cause, adjusted.", "A just cause, adjusted."),
    ("avoids_words just simply", "Hi.", "An adjusted, just-so story.", False),
    ("avoids_words don't", "Hi.", "I don’t know.", "I don’t know."),
    ("avoids_words e.g.", "Hi.", "Fruit, e.g. figs.", "Fruit, e.g. figs."),
    ("no_opening_praise", "Hi.", "Great question! It is sweet.", "Great question!"),
    ("no_opening_praise", "Hi.", "A good idea is to wait.", None),
    ("no_opening_praise", "Hi.", "It's a good idea to wait.", None),
    ("no_opening_praise", "Hi.", "What a good plan needs is time.", None),
    ("no_opening_praise", "Hi.", "That's a fair point, but no.", None),
    ("no_opening_praise", "Hi.", "Boil it.", False),
    ("no_opening_praise", "May I clap?", "Absolutely, your question is spot on. You may.",
     "Absolutely, your question is spot on."),
    ("no_opening_praise", "May I clap?", "Certainly! What a thoughtful question! You may.",
     "Certainly!"),
    ("no_opening_praise", "May I clap?", "Your question deserves a look. You may.", None),
    ("no_closing_formula", "Hi.", "Boil it. I hope that helps!", "I hope that helps!"),
    ("no_closing_formula", "Hi.", "Boil it. Happy baking!", "Happy baking!"),
    ("no_closing_formula", "Hi.", "Boil it. Feel free to ask about anything else.",
     "Feel free to ask about anything else."),
    ("no_closing_formula", "Hi.", "Boil it. Don't hesitate to reach out with further questions!",
     "Don't hesitate to reach out with further questions!"),
    ("no_closing_formula", "Hi.", "Boil it. Feel free to ask about the eggs at the farm.", None),
    ("no_closing_formula", "Hi.", "Boil it. I hope for rain.", None),
    ("no_closing_formula", "Hi.", "Boil it. Don't hesitate to contact your doctor.", None),
    ("no_closing_formula", "Hi.", "Boil it. Enjoy with a glass of milk.", None),
    ("no_closing_formula", "Hi.", "I hope this helps. Boil it.", False),
    ("no_repeated_sentence", "Hi.", "It is good for you all. It is good, for you all!",
     "It is good, for you all!"),
    ("no_repeated_sentence", "Hi.", "It is so. It is so.", False),
    ("no_repeated_sentence", "Say that again?", "It is good for all. It is good for all.", None),
    ("no_self_reference", "Hi.", "Let me see.", "Let me see."),
    ("no_self_reference", "Hi.", "World War I ended; so did type I.", False),
    ("no_self_reference", "Hi.", 'Say "I am here".', False),
    ("no_self_reference", "Hi.", "Say 'I am here'.", None),
    ("no_self_reference", "Write to my boss.", "I am ill today.", None),
    ("no_self_reference", "Hi.", "The mine is deep.", False),
    # Evidence.
    ("names_studies", "Hi.", "Studies show that it works.", "Studies show that it works."),
    ("names_studies", "Hi.", "A study by Chen in 2019 found that it works.", False),
    ("names_studies", "Hi.", "Studies in Norway show that it works.", None),
    ("names_studies", "Hi.", "A 2019 study by Chen says so. Researchers found it odd.", None),
    ("names_studies", "Hi.", "The survey found damp, and your research shows why.", None),
    ("names_studies", "Hi.", "According to recent studies, it works.",
     "According to recent studies, it works."),
    ("names_studies", "Hi.", "It works.", False),
    ("names_studies", "Hi.", "She studies law.", None),
    ("explains_abbreviations", "Hi.", "Ask for the APR.", "Ask for the APR."),
    ("explains_abbreviations", "What's an APR?", "The APR is a rate.", False),
    ("explains_abbreviations", "Hi.", "The annual percentage rate (APR) counts.", False),
    ("explains_abbreviations", "Hi.", "The APR (annual percentage rate) counts.", False),
    ("explains_abbreviations", "Hi.", "The APR, which means the yearly price, counts.", None),
    ("explains_abbreviations", "Hi.", "The Department of Transport (DOT) knows.", False),
    ("explains_abbreviations", "Hi.", "Press STOP, and watch TV in the UK.", None),
    ("explains_abbreviations", "Hi.", "Buy a BMW.", None),
    ("explains_abbreviations", "Hi.", "Watch TV in the UK.", False),
    ("quotes_user_exactly", "It hurts a bit.", 'You said "it hurts a lot", so rest.',
     "it hurts a lot"),
    ("quotes_user_exactly", "It hurts a bit.", "You wrote ‘hurts a bit’, so rest.", False),
    ("quotes_user_exactly", "It hurts a bit.", 'You could say "it hurts a lot".', None),
    ("quotes_user_exactly", "I like thrillers.", 'You said so, so try "Gone Girl".', None),
    ("quotes_user_exactly", "It hurts my back.", 'You said it hurts "[your] back".', None),
    ("quotes_user_exactly", "It hurts a bit.", "Rest.", False),
    ("answers_in_users_language", "Wie lange muss der Kuchen in den Ofen und auf welche Schiene?",
     "It has to stay in the oven for an hour, and you should put it on the middle shelf.",
     "It has to stay in the oven for an hour, and you should put it on the middle shelf."),
    ("answers_in_users_language", "How do I say in German that it is the best of all for me?",
     "Das ist für mich das Beste von allen, und es ist nicht einmal teuer, wie ich finde.", None),
    ("answers_in_users_language", "What do you think about reading a book with your mother?",
     "¡Hola! ¿Te gusta leer libros con tu madre?", "¡Hola!"),
    ("answers_in_users_language", "What do you think about reading a book with your mother?",
     'The best is to say "¿Qué tal?" and to ask for the menu.', False),
    ("answers_in_users_language", "What do you think about reading a book with your mother?",
     "¡Olé!", None),
    ("answers_in_users_language", "Hi.", "It has to stay in the oven for an hour.", None),
]  # fmt: skip


@pytest.mark.parametrize(("check", "user", "reply", "said"), EDGES)
def test_what_is_decided_and_what_is_not(
    check: str, user: str, reply: str, said: bool | str | None
) -> None:
    assert ask(check, user, reply) == said


def test_a_sentence_of_an_earlier_reply_counts_as_said_before() -> None:
    before = ["Hi.", "Check the trap every few hours."]
    reply = "Move it. Check the trap every few hours."
    found = ask("no_repeated_sentence", "And then?", reply, before=before)
    assert found == "Check the trap every few hours."


# --- names and parameters -----------------------------------------------------------------------


@pytest.mark.parametrize("check", [*DECIDABLE.values(), "my.checks:polite"])
def test_sound_checks_have_no_fault(check: str) -> None:
    assert fault(check) is None


@pytest.mark.parametrize(
    ("check", "wrong", "remedy"),
    [
        ("max_wrods 60", "the check 'max_wrods' is unknown", "did you mean 'max_words'? the check"),
        ("polite", "the check 'polite' is unknown", "or your own as `package.module:function`"),
        ("max_words", "the check 'max_words' has wrong parameters", "write `max_words N`"),
        ("max_words sixty", "the check 'max_words' has wrong parameters", "write `max_words N`"),
        ("max_words 0", "the check 'max_words' has wrong parameters", "write `max_words N`"),
        ("max_words 6 7", "the check 'max_words' has wrong parameters", "write `max_words N`"),
        ("no_emoji 3", "the check 'no_emoji' has wrong parameters", "write `no_emoji`"),
        ("avoids_words", "the check 'avoids_words' has wrong p", "write `avoids_words WORD ...`"),
        ("my.checks:polite 3", "a user-defined check takes no parameters", "write `my.checks:pol"),
        ("", "the check '' is unknown", "the checks are "),
    ],
)
def test_a_faulty_check_is_explained(check: str, wrong: str, remedy: str, tmp_path: Path) -> None:
    found = fault(check)
    assert found is not None
    assert found[0].startswith(wrong)
    assert remedy in found[1]
    with pytest.raises(ValueError, match="check"):
        decide(check, messages("Hi."), "Hello.")
    if not check:
        return
    path = tmp_path / "mine.yaml"
    path.write_text(f"- text: The assistant should be brief.\n  check: {check}\n", "utf-8")
    with pytest.raises(CatalogueError) as error:
        load(principles=path)
    assert str(error.value).startswith(f"{path}:2: {wrong}")


# --- user-defined checks ------------------------------------------------------------------------


def polite(conversation: Sequence[Message], reply: str) -> bool | str | None:
    if not conversation:
        return None
    return "rude" if "rude" in reply else not reply.startswith("Please")


def broken(conversation: Sequence[Message], reply: str) -> bool | str | None:
    raise KeyError(reply)


def returns(answer: object) -> Callable[[Sequence[Message], str], object]:
    return lambda conversation, reply: answer


invented = returns("words that are not there")
numeric = returns(1)


def test_a_user_defined_check_decides() -> None:
    check = f"{HERE}:polite"
    assert ask(check, "Hi.", "Please sit.") is False
    assert ask(check, "Hi.", "Sit.") is True
    assert ask(check, "Hi.", "A rude reply.") == "rude"
    assert decide(check, [], "Sit.") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"failed on this reply: KeyError: 'Sit\.'"),
        ("invented", "returned 'words that are not there'; return True or words of the reply"),
        ("numeric", "returned 1; return True or words of the reply"),
        ("absent", "cannot be imported"),
        ("HERE", "cannot be called"),
    ],
)
def test_the_fault_of_a_user_defined_check_is_named(name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        decide(f"{HERE}:{name}", messages("Hi."), "Sit.")


def test_a_catalogue_with_a_user_defined_check_loads_without_importing_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("- text: The assistant should be brief.\n  check: no.such:part\n", "utf-8")
    assert load(principles=path).principles[0].check == "no.such:part"


# --- laws ---------------------------------------------------------------------------------------

CHECK_OF = {check.split()[0]: check for check in DECIDABLE.values()}
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=())),
    st.lists(
        st.sampled_from(
            ["Is it so?", "It is!", "**so**", "```\ncode", "1. ", "- ", "\n", "I ", "NATO", "RCD ",
             "(", '"', "“", "’", "'", "you said ", "studies show ", "3 words ", "🎉", "שלום", "好",
             "\ud800", "\u202e", "e.g. ", "steps to ", "yes ", ". ", "in two sentences "]
        ),
        max_size=40,
    ).map("".join),
)  # fmt: skip


@given(st.sampled_from(sorted(CHECK_OF.values())), st.lists(TEXT, max_size=3), TEXT)
def test_no_text_upsets_a_check(check: str, before: list[str], reply: str) -> None:
    found = decide(check, messages(*before), reply)
    assert found == decide(check, messages(*before), reply)
    assert found is None or (found.quote in reply and (found.violated or not found.quote))


LONG = [
    word * (200_000 // len(word))
    for word in (
        "a", " ", "!", "*a", " 'a", "? ", "1. ", "\n", "-", "[", '"', "“", "`", "Studies show. ",
        "you said 'x ", "ABC ", "I hope this helps ", "好", "a-", "|-",
    )
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECK_OF.values(), ids=CHECK_OF)
def test_no_text_takes_time_that_grows_with_its_square(check: str) -> None:
    for text in LONG:  # a few seconds; were it the square, pytest's time-out would end the worker
        decide(check, messages("Is it so? Three tips, in 20 words, the steps to it."), f"a{text}b")


def test_meanings_are_told_for_every_check() -> None:
    assert decided.MEANINGS.keys() == CHECKS.keys()
    assert decided.usage("max_words") == "max_words N"
    assert decided.usage("avoids_words") == "avoids_words WORD ..."
    assert decided.usage("no_emoji") == "no_emoji"
