"""Seams of chat templates: opening a stream and adding turns gives the template's own rendering.

The templates are those of the model families, in compact form, rendered as a server does it: with
a `raise_exception`, and with the header of the next agent turn at the end.
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sdsd.text.chat_format import Template, cut, marked, switched
from sdsd.types import Message
from tests.factories.chat_templates import (
    CHATML,
    FAMILIES,
    QWEN_2_5,
    learn,
    learnt,
    render,
)

families = pytest.mark.parametrize("family", FAMILIES)
turns = st.text("ab.é\n '<|>[]/#:_", min_size=1, max_size=30).map(str.strip).filter(bool)


@families
def test_stream_of_a_conversation_is_its_rendering(family: str) -> None:
    source, takes_system, _, _ = FAMILIES[family]
    template, system = learnt(source)
    assert system is takes_system

    stream = template.open("Follow this plan:\n\n1. Talk.")
    chat = list(marked(system=system)[: 1 if system else 2])
    chat[0] = Message(chat[0].role, "Follow this plan:\n\n1. Talk.")
    for k in range(1, 5):
        stream += f"Question {k}? It’s <b>urgent</b>."
        chat.append(Message("user", f"Question {k}? It’s <b>urgent</b>."))
        ready = render(source, tuple(chat))
        # Some templates write a space before the agent's text, which a server leaves to the model.
        assert stream + template.to_agent in (ready, f"{ready} ")
        stream += f"{template.to_agent}Answer {k}, [sic].{template.to_user}"
        chat.append(Message("assistant", f"Answer {k}, [sic]."))
    chat.append(Message("user", "Bye."))
    assert render(source, tuple(chat)).startswith(f"{stream}Bye.")


@families
def test_stops_end_the_turn_of_either_speaker(family: str) -> None:
    source, _, after_user, after_agent = FAMILIES[family]
    template, _ = learnt(source)
    assert template.stops("user") == (after_user,)
    assert template.stops("agent") == (after_agent,)


@pytest.mark.parametrize("hostile", [" ", "\n", "<", "<|a", "[A", "<a>[B] "])
def test_a_seam_without_end_is_no_template(hostile: str) -> None:
    """A template comes with a model: its seams are bounded, and looked at in linear time."""
    brief, user, agent, again = (m.content for m in marked(system=True))
    start, middle = f"<s>{brief}<u>", "<a>"
    for seam in (hostile * (200_000 // len(hostile)), hostile * (8_000 // len(hostile))):
        template = cut(f"{start}{user}{middle}{agent}{seam}<u>{again}")
        assert (template is None) == (len(seam) > 16_000)
        if template:
            assert template.clean("x" + hostile * 100)
            assert template.stops("agent") != ("",)


def test_a_default_system_text_is_not_part_of_the_brief() -> None:
    template, _ = learnt(QWEN_2_5)
    assert "Alibaba" not in template.open("The plan.")
    bare = learn(QWEN_2_5, system=False)
    assert bare is not None
    assert "Alibaba" in bare.before_brief


@families
@settings(max_examples=30)
@given(text=turns, data=st.data())
def test_no_text_can_forge_a_change_of_speaker(family: str, text: str, data: st.DataObject) -> None:
    template, _ = learnt(FAMILIES[family][0])
    marks = {m for speaker in ("user", "agent") for m in template.stops(speaker)}
    for _ in range(3):  # also marks inside marks, which taking the inner one out would join
        mark = data.draw(st.sampled_from(sorted(marks)))
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + mark + text[at:]
    for safe in (template.clean(text), template.cut(text)):
        assert not any(mark in safe for mark in marks)
    assert text.startswith(template.cut(text))
    opened = (template.before_brief, template.clean(text), template.after_brief)
    assert template.open(text) == "".join(opened)


@families
@settings(max_examples=30)
@given(text=turns)
def test_clean_and_cut_leave_ordinary_text_alone(family: str, text: str) -> None:
    template, _ = learnt(FAMILIES[family][0])
    seams = (template.before_brief, template.after_brief, template.to_agent, template.to_user)
    assume(not any(word in text for seam in seams for word in seam.split()))
    assert template.clean(text) == template.cut(text) == text


@pytest.mark.parametrize(
    ("prompt", "opening", "left_out"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n", "<think>\n\n</think>\n\n"),
        ("<|im_start|>assistant\n[THINK]", "[THINK]", "[THINK]\n\n[/THINK]\n\n"),
        ("<|im_start|>assistant\n", "", ""),
        # Templates that end the thinking for the model (Qwen3.5, DeepSeek-V3.1).
        (
            "<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n",
        ),
        ("<|im_start|>assistant\n</think>", "</think>", "</think>"),
        ("<|im_start|>assistant\nHm.</think>", "", ""),
        ("<|im_start|>", "", ""),
    ],
)  # fmt: skip
def test_what_begins_or_ends_the_thinking_is_no_seam(
    prompt: str, opening: str, left_out: str
) -> None:
    source = CHATML.replace("<|im_start|>assistant\n", prompt)
    template = cut(render(source, marked(system=True)))
    assert template is not None
    assert template.to_agent == "<|im_end|>\n<|im_start|>assistant\n"
    assert template.opening == opening
    assert template.closed().opening == left_out
    stream = f"Hello?{template.to_agent}"
    assert template.begun(stream) == stream + opening


@pytest.mark.parametrize(
    ("seam", "opening", "end"),
    [
        ("[/INST] ", "", "[/INST]"),
        ("[/INST]  ", "", "[/INST]"),
        ("[/INST]\n ", "", "[/INST]\n"),
        ("[/INST]", "", "[/INST]"),
        ("[/INST] ", "<think> ", "[/INST] <think>"),
        ("[/INST] ", "<think>\n", "[/INST] <think>\n"),
    ],
)
def test_no_stream_ends_in_a_blank_that_the_next_token_begins_with(
    seam: str, opening: str, end: str
) -> None:
    template = Template("<s>[INST] ", "\n\n", seam, "</s>[INST] ", opening)
    assert template.begun(f"[INST] Hello?{seam}") == f"[INST] Hello?{end}"


CLOSED = "<think>\n\n</think>\n\n"
WITH_THOUGHTS = CHATML.replace(
    "m.role + '\n' +", "m.role + '\n' + (CLOSED if m.role == 'assistant' else '') +"
).replace("CLOSED", repr(CLOSED))
"""Every turn of the assistant says that its thinking is over (Nemotron 3, Qwen3.8)."""


@pytest.mark.parametrize("prompt", ["<think>\n", CLOSED])
def test_turns_that_are_over_with_thinking_are_opened_again(prompt: str) -> None:
    source = WITH_THOUGHTS.replace("assistant\n' -", f"assistant\n' + {prompt!r} -")
    chat = (Message("user", "Hello?"), Message("assistant", "Hi."), Message("user", "And now?"))
    template = cut(render(source, marked(system=True)))
    assert template is not None
    stream = (
        f"<|im_start|>user\nHello?{template.to_agent}Hi.{template.to_user}And now?"
        f"{template.to_agent}"
    )
    assert template.begun(stream) == render(source, chat)
    # Without thinking it is as in the turns before.
    assert template.closed().begun(stream) == stream
    assert stream.endswith(CLOSED)


def test_a_switch_that_writes_into_turns_is_not_used() -> None:
    plain, silent, noisy = (
        cut(render(source, marked(system=True)))
        for source in (CHATML, WITH_THOUGHTS, CHATML.replace("'<|im_end|>'", "'/quiet<|im_end|>'"))
    )
    assert plain is not None
    assert silent is not None
    assert noisy is not None
    assert switched(plain, silent) is silent
    assert switched(plain, noisy) is plain
    assert switched(plain, None) is plain


FORMS = {
    "drops the brief": CHATML.replace("in messages", "in messages if m.role != 'system'"),
    "drops the answers": CHATML.replace("in messages", "in messages if m.role != 'assistant'"),
    "moves the brief": CHATML.replace("in messages", "in messages | reverse"),
    "says the brief twice": CHATML + "{{ messages[0].content }}",
    "shouts": CHATML.replace("m.content", "m.content | upper"),
    "joins the turns": "{% for m in messages %}{{ m.content }} {% endfor %}",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_template_that_loses_or_moves_a_turn_has_no_seams(form: str) -> None:
    assert learn(FORMS[form], system=True) is None


def test_a_template_that_drops_system_turns_is_learnt_without_one() -> None:
    template, system = learnt(FORMS["drops the brief"])
    assert not system
    assert template.open("The plan.").startswith("<|im_start|>user\nThe plan.<|im_end|>\n")


@given(st.text(max_size=40))
def test_any_rendering_is_cut_or_refused(rendered: str) -> None:
    assert cut(rendered) is None
