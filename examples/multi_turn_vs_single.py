"""Do preference pairs teach more with the turns before them, at an equal number of tokens?

    python examples/multi_turn_vs_single.py runs/first --seeds 3

Whether turns before the one that matters are worth their tokens is an open question of the method.
Here the same pairs of one run are taken in two forms: with all turns before them (multi), and with
the last user turn alone (single). A model is trained by DPO (Rafailov et al. 2023) on each, and
judged on held-out pairs in both forms.

What is equal: the model, the learning rate, the number of steps, and the tokens that the model
reads, in all and in each step (a prompt counts twice, once with `chosen` and once with `rejected`).
Single pairs are shorter, so for the same tokens there are more of them. A third arm tells apart
which of the two matters: the very pairs of the multi arm in single form, with fewer tokens.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy, softplus
from training import SMALL, rows, script, start

from sdsd.hashing import hash64
from sdsd.reports.stats import paired_bootstrap

FORMS = ("multi", "single")
ARMS = {"multi": "multi", "single": "single", "the pairs of multi, single": "single"}
"""What a model is trained on, and in which form."""


class Pair(NamedTuple):
    """A preference pair as tokens."""

    dialogue: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def tokens(self) -> int:
        """What a model reads to learn from it."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)


class Both(NamedTuple):
    """The same pair in both forms, with the untrained model's opinion of each.

    The opinion is how much more probable it holds `chosen` than `rejected`: a difference of
    log-probabilities, in nats.
    """

    multi: Pair
    single: Pair
    opinion: dict[str, float]


class Score(NamedTuple):
    """How a trained model does on one held-out pair."""

    dialogue: str
    loss: float
    right: float
    """1 if it gained more in `chosen` than in `rejected`, else 0."""


Scores = dict[tuple[str, str], list[list[Score]]]
"""By (arm, form of the held-out pairs): for each seed, a score for each pair."""


# -- pairs ---------------------------------------------------------------------------------


def pair(row: dict[str, Any], form: str, tokenizer: Any) -> Pair:
    """Tokenize a row of the view `preference` in one of the two forms."""
    prompt = row["prompt"] if form == "multi" else row["prompt"][-1:]

    def ids(messages: list[dict[str, str]], **options: Any) -> list[int]:
        found: list[int] = tokenizer.apply_chat_template(messages, return_dict=False, **options)
        return found

    chosen, rejected = (ids(prompt + row[k]) for k in ("chosen", "rejected"))
    # Some templates open a reply otherwise than they show a finished one.
    opened = zip(ids(prompt, add_generation_prompt=True), chosen, rejected, strict=False)
    before = [token for token, *others in takewhile(lambda t: len(set(t)) == 1, opened)]
    return Pair(row["id"], before, chosen[len(before) :], rejected[len(before) :])


def both(data: Iterable[dict[str, Any]], model: Any, tokenizer: Any) -> list[Both]:
    """Rows in both forms, and what the untrained model thinks of them.

    Those are left out of both that the model cannot read whole.
    """
    found = []
    for row in data:
        forms = {form: pair(row, form, tokenizer) for form in FORMS}
        if forms["multi"].tokens > 2 * model.config.max_position_embeddings:
            continue
        with torch.no_grad():
            opinion = {form: lead(model, forms[form]).item() for form in FORMS}
        found.append(Both(**forms, opinion=opinion))
    return found


def drawn(pairs: Sequence[Both], seed: int, budget: int) -> dict[str, list[Both]]:
    """Return what each arm trains on: pairs in a seeded order, as many as the tokens allow.

    `budget` is the most tokens; there are never more than all pairs have in single form. The arms
    `multi` and `single` come as near to it as whole pairs can.
    """
    order = list(pairs)
    Random(hash64("arms", seed)).shuffle(order)  # noqa: S311
    budget = min(budget, sum(p.single.tokens for p in order))
    multi = nearest(order, budget, lambda p: p.multi.tokens)
    single = nearest(order, budget, lambda p: p.single.tokens)
    return dict(zip(ARMS, (multi, single, multi), strict=True))


def nearest(order: Sequence[Both], budget: int, tokens: Callable[[Both], int]) -> list[Both]:
    """Return the beginning of `order` whose tokens are nearest to the budget; at least one pair."""
    used, best, length = 0, math.inf, 1
    for n, one in enumerate(order, 1):
        used += tokens(one)
        if abs(used - budget) < best:
            best, length = abs(used - budget), n
    return list(order[:length])


def batches(pairs: Sequence[Both], form: str, steps: int) -> list[list[Both]]:
    """Cut the pairs, in order, into at most `steps` batches of about equally many tokens."""
    sizes = [getattr(one, form).tokens for one in pairs]
    share, used = sum(sizes) / steps, 0.0
    cut: dict[int, list[Both]] = {}
    for one, size in zip(pairs, sizes, strict=True):
        cut.setdefault(int((used + size / 2) / share), []).append(one)
        used += size
    return [batch for _, batch in sorted(cut.items())]


# -- DPO -----------------------------------------------------------------------------------


def log_probability(model: Any, prompt: list[int], reply: list[int]) -> torch.Tensor:
    """Of a reply after its prompt, in nats, added up over its tokens."""
    ids = torch.tensor([prompt + reply], device=model.device)
    logits = model(ids, logits_to_keep=len(reply) + 1).logits[0, :-1].float()
    return -cross_entropy(logits, ids[0, -len(reply) :], reduction="sum")


def lead(model: Any, one: Pair) -> torch.Tensor:
    """How much more probable the model holds `chosen` than `rejected`, in nats."""
    chosen, rejected = (log_probability(model, one.prompt, r) for r in (one.chosen, one.rejected))
    return chosen - rejected


def margin(model: Any, one: Both, form: str, beta: float) -> torch.Tensor:
    """DPO's margin of rewards; its loss is softplus(-margin)."""
    return beta * (lead(model, getattr(one, form)) - one.opinion[form])


def train(model: Any, pairs: Sequence[Both], form: str, chosen: argparse.Namespace) -> None:
    """One pass over the pairs, in place."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=chosen.rate, weight_decay=0.0)
    for batch in batches(pairs, form, chosen.steps):
        for one in batch:  # one by one: no padding, and memory for one pair only
            (softplus(-margin(model, one, form, chosen.beta)) / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def scores(model: Any, pairs: Sequence[Both], form: str, beta: float) -> list[Score]:
    """How the model does on every pair."""
    found = []
    for one in pairs:
        gained = margin(model, one, form, beta)
        found.append(Score(one.multi.dialogue, softplus(-gained).item(), float(gained > 0)))
    return found


# -- the experiment ------------------------------------------------------------------------


def compare(chosen: argparse.Namespace) -> Scores:
    """Train every arm with every seed, and judge each on both forms of the held-out pairs."""
    model, tokenizer = start(chosen.model)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()  # no dropout, as DPO has it
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    known, held_out = (both(part, model, tokenizer) for part in rows(chosen.run, "preference"))
    print(f"{len(known)} pairs to train on, {len(held_out)} held out")
    found: Scores = {}
    for seed in range(chosen.seeds):
        for arm, pairs in drawn(known, seed, chosen.tokens).items():
            model.load_state_dict(weights)
            train(model, pairs, ARMS[arm], chosen)
            read = sum(getattr(one, ARMS[arm]).tokens for one in pairs)
            said = f"seed {seed}, {arm}: {len(pairs)} pairs, {read} tokens; loss"
            for form in FORMS:
                now = scores(model, held_out, form, chosen.beta)
                found.setdefault((arm, form), []).append(now)
                said += f" {fmean(s.loss for s in now):.3f} ({form})"
            print(said, flush=True)
    return found


def by_dialogue(seeds: Sequence[Sequence[Score]], value: str) -> list[float]:
    """Means over the seeds and over a dialogue's pairs, one for each held-out dialogue."""
    kept: dict[str, list[float]] = {}
    for score in (score for seed in seeds for score in seed):
        kept.setdefault(score.dialogue, []).append(getattr(score, value))
    return [fmean(values) for values in kept.values()]


def estimate(values: Sequence[float], less: Sequence[float] | None = None) -> str:
    """Return the mean (difference from `less`) and its 95% bootstrap interval over dialogues."""
    less = less or [0.0] * len(values)
    found = paired_bootstrap(less, values)
    if found is None:
        return f"{fmean(values) - fmean(less):.3f} [?]"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def table(found: Scores) -> str:
    """Return a Markdown table: one row per arm, and the difference of the first two."""
    columns = [(form, value) for form in FORMS for value in ("loss", "right")]
    heads = [f"{'accuracy' if v == 'right' else v} on {form}" for form, v in columns]
    lines = [("trained on", *heads), ("---",) * 5]
    means = {(arm, c): by_dialogue(found[arm, c[0]], c[1]) for arm in ARMS for c in columns}
    lines += [(arm, *(estimate(means[arm, c]) for c in columns)) for arm in ARMS]
    gaps = (estimate(means["multi", c], means["single", c]) for c in columns)
    lines.append(("multi less single", *gaps))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run directory, or a data set exported from one")
    parser.add_argument("--model", default=SMALL, help="a directory, or a model's name on the hub")
    parser.add_argument("--seeds", type=int, default=3, help="how often each arm is trained")
    parser.add_argument("--steps", type=int, default=8, help="optimisation steps")
    parser.add_argument("--tokens", type=int, default=10**9, help="most tokens of an arm")
    parser.add_argument("--rate", type=float, default=1e-5, help="learning rate")
    parser.add_argument("--beta", type=float, default=0.1, help="how closely to stay at the model")
    print(table(compare(parser.parse_args())))


if __name__ == "__main__":
    script(main)
