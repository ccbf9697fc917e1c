"""The layouts of the best-known data sets, a row of each as it is published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdsd.scenarios import existing_shapes as shapes
from sdsd.scenarios.existing import Kind, SourceRow, read

ASK, YES, NO = "Is it safe?", "Boil it first.", "Always."
WHOLE = [("user", ASK), ("assistant", NO)]


def chat(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"content": text, "role": role} for role, text in pairs]


def shared(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": name, "value": text} for name, text in pairs]


GOOD, BAD = chat(("user", ASK), ("assistant", YES)), chat(("user", ASK), ("assistant", NO))
HH = f"\n\nHuman: {ASK}\n\nAssistant:"
SYSTEM = "You are a chemist."
EARLIER = [("user", "Hello"), ("assistant", "Hello!")]

ROWS: dict[str, tuple[dict[str, Any], Kind, str, list[tuple[str, str]]]] = {
    # preferences: the worse reply is where the work begins
    "HuggingFaceH4/ultrafeedback_binarized": (
        {"prompt": ASK, "prompt_id": "9f", "chosen": GOOD, "rejected": BAD, "messages": GOOD,
         "score_chosen": 8.5, "score_rejected": 3.0}, "preference", "", WHOLE),
    "argilla/ultrafeedback-binarized-preferences": (
        {"source": "x", "instruction": ASK, "chosen_response": YES, "rejected_response": NO,
         "chosen_avg_rating": 5.0}, "preference", "", WHOLE),
    "Anthropic/hh-rlhf": (
        {"chosen": f"{HH} {YES}", "rejected": f"{HH} {NO}"}, "preference", "", WHOLE),
    "Anthropic/hh-rlhf, several turns": (
        {"chosen": "-", "rejected": f"\n\nHuman: Hello\n\nAssistant: Hello!{HH} {NO}"},
        "preference", "", EARLIER + WHOLE),
    "Dahoas/full-hh-rlhf": (
        {"prompt": HH, "response": YES, "chosen": f" {YES}", "rejected": f" {NO}"},
        "preference", "", WHOLE),
    "a text as prompt": (
        {"prompt": ASK, "chosen": YES, "rejected": NO}, "preference", "", WHOLE),
    "jondurbin/truthy-dpo": (
        {"id": 1, "source": "x", "system": SYSTEM, "prompt": ASK, "chosen": YES, "rejected": NO},
        "preference", SYSTEM, WHOLE),
    "Intel/orca_dpo_pairs": (
        {"system": SYSTEM, "question": ASK, "chosen": YES, "rejected": NO},
        "preference", SYSTEM, WHOLE),
    "argilla/distilabel-intel-orca-dpo-pairs": (
        {"system": "", "input": ASK, "chosen": YES, "rejected": NO, "generations": [YES, NO]},
        "preference", "", WHOLE),
    "mlabonne/orpo-dpo-mix-40k": (
        {"source": "x", "chosen": GOOD, "rejected": BAD, "prompt": ASK, "question": ASK},
        "preference", "", WHOLE),
    "allenai/llama-3.1-tulu-3-8b-preference-mixture": (
        {"id": "1", "source": "x", "prompt": ASK, "chosen": GOOD, "rejected": BAD},
        "preference", "", WHOLE),
    "TRL, conversational": (
        {"prompt": GOOD[:1], "chosen": GOOD[1:], "rejected": BAD[1:]}, "preference", "", WHOLE),
    "TRL, after a system turn and an earlier exchange": (
        {"prompt": chat(("system", SYSTEM), *EARLIER, ("user", ASK)), "chosen": GOOD[1:],
         "rejected": BAD[1:]}, "preference", SYSTEM, EARLIER + WHOLE),
    "TRL, implicit prompt": ({"chosen": GOOD, "rejected": BAD}, "preference", "", WHOLE),
    "LLaMA-Factory, preference": (
        {"conversations": shared(("human", ASK)), "chosen": {"from": "gpt", "value": YES},
         "rejected": {"from": "gpt", "value": NO}}, "preference", "", WHOLE),
    "lmsys/chatbot_arena_conversations": (
        {"question_id": "1", "model_a": "x", "model_b": "y", "winner": "model_a",
         "conversation_a": GOOD, "conversation_b": BAD, "turn": 1}, "preference", "", WHOLE),
    "PKU-Alignment/PKU-SafeRLHF": (
        {"prompt": ASK, "response_0": NO, "response_1": YES, "better_response_id": 1,
         "safer_response_id": 1}, "preference", "", WHOLE),
    "nvidia/HelpSteer3": (
        {"domain": "stem", "context": chat(*EARLIER, ("user", ASK)), "response1": YES,
         "response2": NO, "overall_preference": -2}, "preference", "", EARLIER + WHOLE),
    # conversations
    "ShareGPT, with a column system": (
        {"system": SYSTEM, "conversations": shared(("human", ASK), ("gpt", NO))},
        "sharegpt", SYSTEM, WHOLE),
    "ShareGPT, system said twice": (
        {"system": SYSTEM,
         "conversations": shared(("system", SYSTEM), ("human", ASK), ("gpt", NO))},
        "sharegpt", SYSTEM, WHOLE),
    "teknium/OpenHermes-2.5": (
        {"system_prompt": None, "source": "x", "idx": None, "model": None,
         "conversations": shared(("human", ASK), ("gpt", NO))}, "sharegpt", "", WHOLE),
    "lmsys/lmsys-chat-1m": (
        {"conversation_id": "a", "model": "vicuna", "conversation": BAD, "turn": 1,
         "language": "English", "redacted": False}, "messages", "", WHOLE),
    "allenai/WildChat-1M": (
        {"conversation_hash": "a", "model": "gpt-4", "toxic": False, "conversation": [
            {**turn, "country": "Germany", "toxic": False, "turn_identifier": 1} for turn in BAD]},
        "messages", "", WHOLE),
    "allenai/tulu-3-sft-mixture": (
        {"id": "a", "source": "x", "messages": chat(("system", SYSTEM), *WHOLE)},
        "messages", SYSTEM, WHOLE),
    "HuggingFaceH4/no_robots": (
        {"prompt": ASK, "prompt_id": "1", "messages": BAD, "category": "QA"},
        "messages", "", WHOLE),
    "LDJnr/Capybara": (
        {"source": "x", "conversation": [{"input": "Hello", "output": "Hello!"},
                                         {"input": ASK, "output": NO}]},
        "messages", "", EARLIER + WHOLE),
    "stingning/ultrachat": (
        {"id": "0", "data": ["Hello", "Hello!", ASK, NO]}, "messages", "", EARLIER + WHOLE),
    "timdettmers/openassistant-guanaco": (
        {"text": f"### Human: Hello### Assistant: Hello!### Human: {ASK}### Assistant: {NO}"},
        "messages", "", EARLIER + WHOLE),
    "OpenAssistant/oasst_top1 (ChatML)": (
        {"text": f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{ASK}<|im_end|>\n"
                 f"<|im_start|>assistant\n{NO}<|im_end|>\n"}, "messages", SYSTEM, WHOLE),
    "OpenAssistant, a tree as one row": (
        {"message_tree_id": "a", "tree_state": "ready_for_export", "prompt": {
            "message_id": "a", "text": ASK, "role": "prompter", "replies": [
                {"text": YES, "role": "assistant", "rank": 1, "replies": []},
                {"text": NO, "role": "assistant", "rank": 0, "replies": []}]}},
        "messages", "", WHOLE),
    # a prompt and a reply
    "tatsu-lab/alpaca": (
        {"instruction": ASK, "input": "", "output": NO, "text": "Below is an instruction ..."},
        "instruction", "", WHOLE),
    "tatsu-lab/alpaca, with an input": (
        {"instruction": "Judge.", "input": ASK, "output": NO},
        "instruction", "", [("user", f"Judge.\n\n{ASK}"), ("assistant", NO)]),
    "LLaMA-Factory, alpaca with history": (
        {"instruction": ASK, "input": "", "output": NO, "system": SYSTEM,
         "history": [["Hello", "Hello!"]]}, "instruction", SYSTEM, EARLIER + WHOLE),
    "databricks/databricks-dolly-15k": (
        {"instruction": "Judge.", "context": ASK, "response": NO, "category": "closed_qa"},
        "instruction", "", [("user", f"Judge.\n\n{ASK}"), ("assistant", NO)]),
    "Open-Orca/OpenOrca": (
        {"id": "1", "system_prompt": SYSTEM, "question": ASK, "response": NO},
        "instruction", SYSTEM, WHOLE),
    "nvidia/HelpSteer": (
        {"prompt": ASK, "response": NO, "helpfulness": 4, "verbosity": 2},
        "instruction", "", WHOLE),
    "nvidia/HelpSteer2, several turns": (
        {"prompt": f"Hello\n<extra_id_1>Assistant\nHello!\n<extra_id_1>User\n{ASK}",
         "response": NO, "helpfulness": 4}, "instruction", "", EARLIER + WHOLE),
    "meta-math/MetaMathQA": (
        {"query": ASK, "response": NO, "type": "x", "original_question": "y"},
        "instruction", "", WHOLE),
    "openai/gsm8k": ({"question": ASK, "answer": NO}, "instruction", "", WHOLE),
    "TRL, prompt and completion": (
        {"prompt": ASK, "completion": NO, "label": False}, "instruction", "", WHOLE),
}  # fmt: skip


NEIGHBOURS: list[dict[str, Any]] = [
    # the names of columns and fields
    {"Prompt": ASK, " Completion ": NO},
    {"dialogue": BAD}, {"dialog": [ASK, NO]}, {"turns": BAD}, {"chat": BAD},
    {"conversation": [{"speaker": "User", "text": ASK}, {"speaker": "bot", "text": NO}]},
    {"messages": [{"author": "user", "content": ASK}, {"author": "assistant", "content": NO}]},
    {"conversations": [{"from": "human", "text": ASK}, {"from": "gpt", "text": NO}]},
    {"contents": [{"role": "user", "parts": [{"text": ASK}]},
                  {"role": "model", "parts": [{"text": NO}]}]},
    {"conversation": [{"human": ASK, "assistant": NO}]},
    {"messages": {"role": ["user", "assistant"], "content": [ASK, NO]}},
    {"messages": json.dumps(BAD, indent=1)},
    # the reply that a conversation has already
    {"conversations": shared(("human", ASK), ("gpt", YES)),
     "chosen": {"from": "gpt", "value": YES}, "rejected": {"from": "gpt", "value": NO}},
    # the texts of chat templates
    {"text": f"<|user|>\n{ASK}</s>\n<|assistant|>\n{NO}</s>"},
    {"text": f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{ASK}<|eot_id|>"
             f"<|start_header_id|>assistant<|end_header_id|>\n\n{NO}<|eot_id|>"},
    {"text": f"<bos><start_of_turn>user\n{ASK}<end_of_turn>\n<start_of_turn>model\n{NO}"},
    {"text": f"USER: {ASK} ASSISTANT: {NO}</s>"},
    {"text": f"### Instruction:\n{ASK}\n\n### Response:\n{NO}"},
    # thinking
    {"messages": [*BAD[:1], {"role": "assistant", "content": f"<think>hm</think>\n{NO}"}]},
    {"prompt": ASK, "completion": f"<|begin_of_thought|>hm<|end_of_thought|>"
                                  f"<|begin_of_solution|>{NO}<|end_of_solution|>"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": ASK}]},
                  {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm"}, {"type": "text", "text": NO}]}]},
    {"messages": [*BAD[:1], {"role": "assistant", "content": NO, "reasoning_content": "hm"}]},
    {"messages": [*BAD[:1], {"role": "assistant", "content": f"{NO}<|im_end|>"}]},
]  # fmt: skip


@pytest.mark.parametrize("row", NEIGHBOURS)
def test_neighbours_of_well_known_layouts(row: dict[str, Any], tmp_path: Path) -> None:
    path, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    path.write_text(json.dumps(row), "utf-8")
    pq.write_table(pa.Table.from_pylist([row]), table)
    for file in (path, table):
        (found,) = read(str(file))
        assert isinstance(found, SourceRow), found
        assert [(turn.role, turn.content) for turn in found.messages] == WHOLE


PAIR = {"prompt": ASK, "completion": NO}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", gzip.compress(json.dumps(PAIR).encode(), mtime=0)),
        ("a.jsonl.gz", json.dumps(PAIR).encode()),
        ("a.json", json.dumps({"data": [PAIR]}).encode()),
        ("a.json", json.dumps({"version": 1, "train": [PAIR]}).encode()),
        ("a.json", json.dumps({"rows": [{"row_idx": 0, "row": PAIR}]}).encode()),
        ("a.csv", f"sep=;\nprompt;completion\n{ASK};{NO}\n".encode()),
        ("a.csv", f"prompt|completion\n{ASK}|{NO}\n".encode()),
        ("a.csv", f"Prompt, Completion\n{ASK},{NO}\n".encode()),
        ("a.csv", f"prompt\tcompletion\r\n{ASK}\t{NO}\r\n".encode("utf-16")),
    ],
)
def test_neighbours_of_files(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    (found,) = read(str(tmp_path / name))
    assert isinstance(found, SourceRow), found
    assert [(turn.role, turn.content) for turn in found.messages] == WHOLE


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_a_well_known_data_set(name: str, tmp_path: Path) -> None:
    row, kind, plan, said = ROWS[name]
    path, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    pq.write_table(pa.Table.from_pylist([row]), table)
    kinds: tuple[Kind, ...] = ("auto", kind)
    for known in kinds:
        for file in (path, table):
            (found,) = read(str(file), kind=known)
            assert isinstance(found, SourceRow), found
            assert [(turn.role, turn.content) for turn in found.messages] == said
            assert found.plan == plan


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"winner": "model_b", "conversation_a": BAD, "conversation_b": GOOD}, NO),
        ({"winner": "tie", "conversation_a": GOOD, "conversation_b": BAD}, NO),
        ({"prompt": ASK, "response_0": YES, "response_1": NO, "better_response_id": 0}, NO),
        ({"context": BAD[:1], "response1": NO, "response2": YES, "overall_preference": 3}, NO),
    ],
)
def test_the_worse_of_two_replies_is_taken(row: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row), "utf-8")
    (found,) = read(str(path))
    assert isinstance(found, SourceRow)
    assert [turn.content for turn in found.messages] == [ASK, text]


def test_messages_of_trees_become_a_thread_each(tmp_path: Path) -> None:
    """As in OpenAssistant/oasst1: of the replies, the first-ranked one is followed."""

    def message(name: str, parent: str | None, text: str, role: str, rank: int | None) -> Any:
        return {"message_id": name, "parent_id": parent, "text": text, "role": role, "rank": rank,
                "message_tree_id": name[0], "lang": "en"}  # fmt: skip

    rows = [
        message("a", None, ASK, "prompter", None),
        message("a1", "a", YES, "assistant", 1),
        message("a2", "a", NO, "assistant", 0),
        message("a3", "a2", "Really?", "prompter", None),
        message("b", None, "Hello", "prompter", None),
        message("b1", "b", "Hello!", "assistant", None),
    ]
    path = tmp_path / "oasst.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    found = [row for row in read(str(path)) if isinstance(row, SourceRow)]
    assert [[(m.role, m.content) for m in row.messages] for row in found] == [WHOLE, EARLIER]
    assert [row.origin for row in found] == ["oasst.jsonl:1", "oasst.jsonl:5"]


@pytest.mark.parametrize("user", sorted(shapes.SPEAKERS["user"].split()))
@pytest.mark.parametrize("assistant", sorted(shapes.SPEAKERS["assistant"].split()))
@pytest.mark.parametrize("system", ["", *shapes.SPEAKERS["system"].split()])
def test_a_prompt_is_taken_once_whatever_the_speakers_are_called(
    user: str, assistant: str, system: str, tmp_path: Path
) -> None:
    head = [(system, SYSTEM)] if system else []
    said = [chat(*head, (user.title(), ASK), (assistant, text)) for text in (YES, NO)]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": ASK, "chosen": said[0], "rejected": said[1]}), "utf-8")
    (found,) = read(str(path))
    assert isinstance(found, SourceRow)
    assert [(turn.role, turn.content) for turn in found.messages] == WHOLE
    assert found.plan == (SYSTEM if system else "")


def test_a_message_that_refers_to_itself_ends_the_thread(tmp_path: Path) -> None:
    row = {"message_id": "a", "parent_id": "a", "text": ASK, "role": "prompter"}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row), "utf-8")
    (found,) = read(str(path))
    assert getattr(found, "reason", "") == "no turns"


def test_a_prompt_that_mentions_a_speaker_is_no_transcript(tmp_path: Path) -> None:
    asked = "What does\n\nHuman: mean in a log?"
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": asked, "response": NO}), "utf-8")
    (found,) = read(str(path))
    assert isinstance(found, SourceRow)
    assert [turn.content for turn in found.messages] == [asked, NO]
