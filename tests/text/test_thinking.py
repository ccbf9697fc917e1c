"""Thinking is taken out of replies whatever its marks, and the marks of templates end the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsd.text.template_marks import template_mark
from sdsd.text.thinking import lacks_opening, opens_thinking, spoken, without_thinking

PAIRS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<THINK>", "</THINK>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),
    ("Here is my thought process:", "Here is my response:"),
    # Neighbours that no list of names had.
    ("< think >", "</ think >"),
    ('<think type="deep">', "</think >"),
    ("<mm:think>", "</mm:think>"),
    ("<xai:thinking>", "</xai:thinking>"),
    ("<inner_thoughts>", "</inner_thoughts>"),
    ("<chain-of-thought>", "</chain-of-thought>"),
    ("<thought_process>", "</thought_process>"),
    ("<reason>", "</reason>"),
    ("<internal_monologue>", "</internal_monologue>"),
    ("[REASONING]", "[/REASONING]"),
    ("[thinking]", "[/thinking]"),
    ("[BEGIN_THINKING]", "[END_THINKING]"),
    ("<|thinking|>", "<|/thinking|>"),
    ("<|think_start|>", "<|think_end|>"),
    ("<|begin_of_reasoning|>", "<|end_of_reasoning|>"),
    ("<｜begin▁of▁thinking｜>", "<｜end▁of▁thinking｜>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("\\<think\\>", "\\</think\\>"),
    ('<details type="reasoning" done="true">', "</details>"),
    ("<s><think>", "</think>"),
    ("> <think>", "</think>"),
    # Another closing mark than the opening one has.
    ("<think>", "</thinking>"),
    ("<reasoning>", "</think>"),
    # Channels, more or less stripped.
    ("<|channel|>Analysis<|message|>", "<|end|><|start|>assistant<|channel|>Final<|message|>"),
    ("<|channel|>thought<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis", "<|end|><|start|>assistant<|channel|>final"),
    ("commentary", "assistantfinal"),
    ("assistantanalysis", "assistantfinal"),
]
pairs = pytest.mark.parametrize(("opening", "closing"), PAIRS)
THOUGHT = "Well, the user wants a short answer.\n\nSo be it."
plain = st.text("abc é.\n#*:-", max_size=60)


@pairs
def test_what_is_between_marks_is_thinking(opening: str, closing: str) -> None:
    found = spoken(f"\n{opening}{THOUGHT}{closing}\n\nTake the train.\n")
    assert (found.text, found.closed) == ("Take the train.", True)
    assert THOUGHT in found.thinking


@pairs
def test_thinking_that_never_ends_leaves_no_text(opening: str, closing: str) -> None:
    found = spoken(f"{opening}{THOUGHT}")
    assert (found.text, found.closed) == ("", False)
    assert THOUGHT in found.thinking


@pytest.mark.parametrize(
    "closing",
    ["</think>", "</thinking>", "[/THINK]", "◁/think▷", "<|END_THINKING|>", "</mm:think>",
     "</reasoning>", "</inner_thoughts>"],
)  # fmt: skip
def test_the_opening_mark_may_have_been_in_the_prompt(closing: str) -> None:
    found = spoken(f"{THOUGHT}\n{closing}\n\nTake the train.")
    assert (found.text, found.closed) == ("Take the train.", True)
    assert lacks_opening(found.thinking)
    assert not lacks_opening(f"<think>{found.thinking}")
    assert not lacks_opening(THOUGHT)


def test_a_prompt_that_begins_the_thinking_makes_an_unmarked_reply_thinking() -> None:
    assert spoken(THOUGHT, opened=True).closed is False
    assert spoken(f"{THOUGHT}</reasoning>Hi.", opened=True).text == "Hi."
    assert opens_thinking("<|im_start|>assistant\n<think>\n")
    assert not opens_thinking("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not opens_thinking("What does <think> mean?")


@pytest.mark.parametrize(
    ("opening", "closed"),
    [
        ("<think>", "<think>\n\n</think>\n\n"),
        ("\n<think>\n", "<think>\n\n</think>\n\n"),
        ("<THINK>\n", "<THINK>\n\n</THINK>\n\n"),
        ("<Seed:Think>", "<Seed:Think>\n\n</Seed:Think>\n\n"),
        ("[think]", "[think]\n\n[/think]\n\n"),
        ("◁think▷", "◁think▷\n\n◁/think▷\n\n"),
        ("<|start_thinking|>", "<|start_thinking|>\n\n<|end_thinking|>\n\n"),
        ("Reasoning is on.\n<think>\n", "Reasoning is on.\n<think>\n\n</think>\n\n"),
        ("What does <think> mean?\n", "What does <think> mean?\n"),
        ("\n", "\n"),
        ("", ""),
    ],
)
def test_thinking_that_a_turn_opens_is_closed(opening: str, closed: str) -> None:
    assert without_thinking(opening) == closed
    assert not opens_thinking(without_thinking(opening))


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("<think>a</think>One.<think>b</think> Two.", "One. Two."),
        ("<think>a</think>One.</think>", "One."),
        ("<think>a</think>b</think>One.", "One."),
        ("One.\n<think>a", "One."),
        ("<think></think>One.", "One."),
        ("<think>\n\n</think>\n\nOne.", "One."),
        ("<|channel|>final<|message|>One.<|return|>", "One."),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=f "
         "<|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>One.",
         "One."),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>One.<|END_RESPONSE|>", "One."),
        ("<think>a</think>\n<answer>One.</answer>", "One."),
        ("<think>a</think><response>\nOne.\n</response>\n", "One."),
        ("<think>a</think><output>One.", "One."),
        ("<answer>One.</answer>", "One."),
        ("One.</answer>", "One."),
        ("<thinking>a<reflection>b</reflection>c</thinking>One.", "One."),
        ("<thinking>a</thinking><reflection>b</reflection>One.", "One."),
        ("<seed:think>a<seed:cot_budget_reflect>b</seed:cot_budget_reflect>c</seed:think>One.",
         "One."),
        ("analysis\na.\nassistantfinal\nOne.", "One."),
        ("analysisa.assistantcommentaryb.assistantfinal One.", "One."),
        ("a.assistantfinalOne.", "One."),
        ("a<|end|><|start|>assistant<|channel|>final<|message|>One.<|return|>", "One."),
        ("<think>They wrote `</think>`.</think>One.", "One."),
        ("<think>```\nx = 1\n</think>One.\n```\ny = 2\n```", "One.\n```\ny = 2\n```"),
    ],
)  # fmt: skip
def test_texts_between_and_after_thinking(reply: str, text: str) -> None:
    assert spoken(reply).text == text


def test_marks_around_nothing_are_no_thinking() -> None:
    assert spoken("<think>\n\n</think>\n\nOne.").thinking == ""


MARKS = [
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<|return|>", "</s>", "<end_of_turn>",
    "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "[|endofturn|]", "<eos>", "<|user|>",
    "<extra_id_1>", "[INST]", "<SPECIAL_12>", "[e~[",
]  # fmt: skip


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_of_a_template_ends_the_text(mark: str) -> None:
    found = spoken(f"Take the train. {mark}")
    assert (found.text, found.ended, found.thinking) == ("Take the train.", True, "")
    assert template_mark(f"Take the train. {mark}") == mark


@pytest.mark.parametrize(
    "header",
    [
        "<|im_start|>assistant\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<start_of_turn>model\n",
        "<|assistant|>\n",
        "<｜Assistant｜>",
        "<s>",
        "[/INST] ",
    ],
)
def test_the_header_of_its_own_turn_is_no_text(header: str) -> None:
    reply = f"{header}Take the train.<|im_end|>\n<|im_start|>user\nThanks!"
    assert spoken(reply).text == "Take the train."


def test_a_reply_that_begins_as_the_user_says_nothing() -> None:
    assert spoken("<|im_start|>user\nThanks!<|im_end|>").text == ""


@pytest.mark.parametrize(
    "text",
    [
        "Use `<think>` to open it, and `</think>` to close it.",
        'They call it "<think>".',
        "The price is <s>20</s> 10 euros.",
        "a <| b |> c, [1] and <b>bold</b>",
        "analysis of the data",
        "Here is my plan.",
        "An answer in <reasoning> tags is what you want.",
        "First <reasoning>why</reasoning>, and then the answer.",
        "Close it with </reasoning> and go on.",
        "Das Zeichen «<think>» öffnet, „</think>“ schließt.",
        "「<think>」で始まる。",
        "Write `<think>steps</think>` here.",
        "Use this:\n```xml\n<think>\nsteps\n</think>\n```\nThat is it.",
        "Split there:\n```\nA<|endoftext|>B\n```\nThat is it.",
        "In <answer> goes the answer, then </answer> ends it.",
        "<details><summary>More</summary>Text.</details>",
        "[thinking about it] Yes.",
        "We have <no_think> as a switch.",
        "commentary on the match",
        "He was the assistantfinally.",
    ],
)
def test_other_texts_are_left_alone(text: str) -> None:
    assert spoken(text).text == text
    assert spoken(text).thinking == ""


@given(plain, st.sampled_from(PAIRS), plain)
def test_no_thinking_reaches_the_text(thought: str, marks: tuple[str, str], text: str) -> None:
    opening, closing = marks
    found = spoken(f"{opening}T{thought}{closing}{text}")
    assert found.text == text.strip()
    assert f"T{thought}".strip() in found.thinking


@given(st.text(max_size=80))
def test_a_text_without_marks_is_returned_as_it_is(text: str) -> None:
    if not any(c in text for c in "<[◁&") and not text.lstrip().startswith(("analysis", "Here")):
        assert spoken(text).text == text


@pytest.mark.parametrize(
    "piece",
    ["<think>", "</think>", "<|channel|>analysis", f"<|start|>{'a' * 39}", "[|a", "</s> ",
     "<thoughts>", "```\n<think>", "<a_a_a_think", "<think a=",
     "a [reason] ", "a </reason>\n"],
)  # fmt: skip
def test_a_hostile_reply_is_read_in_linear_time(piece: str) -> None:
    # Quadratic time would be many minutes.
    assert not template_mark(spoken(piece * (300_000 // len(piece))).text)
