"""Compare preference pairs with and without their preceding turns, at an equal number of tokens.

    python examples/multi_turn_vs_single.py runs/first --seeds 3

Are the turns before the one that matters worth their tokens? The question is open. Here the same
pairs of a run are used in two forms: with all preceding turns (multi), and with only the last user
turn (single). A model is trained by DPO (Rafailov et al. 2023) on each, and evaluated on held-out
pairs in both forms.

Equal in both arms: the model, the learning rate, the number of steps, and the tokens that the model
reads, in all and in each step (a prompt counts twice, once with `chosen` and once with `rejected`).
Single pairs are shorter, so the same tokens hold more of them. A third arm, with the pairs of the
multi arm in single form, shows which of the two matters.
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
ARMS = {"multi": "multi", "single": "single", "the pairs of multi, in single form": "single"}
"""The arms, and the form in which each is trained."""


class Pair(NamedTuple):
    """A preference pair as tokens."""

    dialogue: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def tokens(self) -> int:
        """Tokens that a model reads to learn from the pair."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)


class Both(NamedTuple):
    """The same pair in both forms, with the untrained model's opinion of each.

    The opinion is the log-probability of `chosen` minus that of `rejected`, in nats.
    """

    multi: Pair
    single: Pair
    opinion: dict[str, float]


class Score(NamedTuple):
    """A trained model's result on one held-out pair."""

    dialogue: str
    loss: float
    right: float
    """1 if `chosen` gained more than `rejected`, else 0."""


Scores = dict[tuple[str, str], list[list[Score]]]
"""By (arm, form of the held-out pairs): for each seed, the score of each pair."""


# -- pairs ---------------------------------------------------------------------------------


def pair(row: dict[str, Any], form: str, tokenizer: Any) -> Pair:
    """Return a row of the view `preference` as tokens, in one of the two forms."""
    prompt = row["prompt"] if form == "multi" else row["prompt"][-1:]

    def ids(messages: list[dict[str, str]], **options: Any) -> list[int]:
        found: list[int] = tokenizer.apply_chat_template(messages, return_dict=False, **options)
        return found

    chosen, rejected = (ids(prompt + row[k]) for k in ("chosen", "rejected"))
    # Some templates begin an open reply differently from a finished one.
    opened = zip(ids(prompt, add_generation_prompt=True), chosen, rejected, strict=False)
    before = [token for token, *others in takewhile(lambda t: len(set(t)) == 1, opened)]
    return Pair(row["id"], before, chosen[len(before) :], rejected[len(before) :])


def both(data: Iterable[dict[str, Any]], model: Any, tokenizer: Any) -> list[Both]:
    """Return rows in both forms, with the untrained model's opinion.

    Pairs longer than the model's context are left out of both.
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
    """Return the training pairs of each arm: shuffled by seed, as many as the tokens allow.

    `budget` is the maximum number of tokens, capped at that of all pairs in single form. The arms
    `multi` and `single` come as close to it as complete pairs allow.
    """
    order = list(pairs)
    Random(hash64("arms", seed)).shuffle(order)  # noqa: S311
    budget = min(budget, sum(p.single.tokens for p in order))
    multi = nearest(order, budget, lambda p: p.multi.tokens)
    single = nearest(order, budget, lambda p: p.single.tokens)
    return dict(zip(ARMS, (multi, single, multi), strict=True))


def nearest(order: Sequence[Both], budget: int, tokens: Callable[[Both], int]) -> list[Both]:
    """Return the prefix of `order` whose tokens are closest to the budget; at least one pair."""
    used, best, length = 0, math.inf, 1
    for n, one in enumerate(order, 1):
        used += tokens(one)
        if abs(used - budget) < best:
            best, length = abs(used - budget), n
    return list(order[:length])


def batches(pairs: Sequence[Both], form: str, steps: int) -> list[list[Both]]:
    """Split the pairs, in order, into at most `steps` batches with about equal tokens."""
    sizes = [getattr(one, form).tokens for one in pairs]
    share, used = sum(sizes) / steps, 0.0
    cut: dict[int, list[Both]] = {}
    for one, size in zip(pairs, sizes, strict=True):
        cut.setdefault(int((used + size / 2) / share), []).append(one)
        used += size
    return [batch for _, batch in sorted(cut.items())]


# -- DPO -----------------------------------------------------------------------------------


def log_probability(model: Any, prompt: list[int], reply: list[int]) -> torch.Tensor:
    """Return the log-probability of a reply after its prompt, in nats."""
    ids = torch.tensor([prompt + reply], device=model.device)
    logits = model(ids, logits_to_keep=len(reply) + 1).logits[0, :-1].float()
    return -cross_entropy(logits, ids[0, -len(reply) :], reduction="sum")


def lead(model: Any, one: Pair) -> torch.Tensor:
    """Return the log-probability of `chosen` minus that of `rejected`, in nats."""
    chosen, rejected = (log_probability(model, one.prompt, r) for r in (one.chosen, one.rejected))
    return chosen - rejected


def margin(model: Any, one: Both, form: str, beta: float) -> torch.Tensor:
    """Return DPO's reward margin; the loss is softplus(-margin)."""
    return beta * (lead(model, getattr(one, form)) - one.opinion[form])


def train(model: Any, pairs: Sequence[Both], form: str, chosen: argparse.Namespace) -> None:
    """Train in place, with one pass over the pairs."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=chosen.rate, weight_decay=0.0)
    for batch in batches(pairs, form, chosen.steps):
        for one in batch:  # one at a time: no padding, memory for one pair
            (softplus(-margin(model, one, form, chosen.beta)) / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def scores(model: Any, pairs: Sequence[Both], form: str, beta: float) -> list[Score]:
    """Return the model's score on every pair."""
    found = []
    for one in pairs:
        gained = margin(model, one, form, beta)
        found.append(Score(one.multi.dialogue, softplus(-gained).item(), float(gained > 0)))
    return found


# -- the experiment ------------------------------------------------------------------------


def compare(chosen: argparse.Namespace) -> Scores:
    """Train every arm with every seed, and evaluate each on both forms of the held-out pairs."""
    model, tokenizer = start(chosen.model)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()  # no dropout, as in DPO
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
    """Return means over seeds and a dialogue's pairs, one for each held-out dialogue."""
    kept: dict[str, list[float]] = {}
    for score in (score for seed in seeds for score in seed):
        kept.setdefault(score.dialogue, []).append(getattr(score, value))
    return [fmean(values) for values in kept.values()]


def estimate(values: Sequence[float], less: Sequence[float] | None = None) -> str:
    """Return the mean (minus that of `less`) with its 95% bootstrap interval over dialogues."""
    less = less or [0.0] * len(values)
    found = paired_bootstrap(less, values)
    if found is None:
        return f"{fmean(values) - fmean(less):.3f} [?]"
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def table(found: Scores) -> str:
    """Return a Markdown table with a row for each arm, and the difference of the first two."""
    columns = [(form, value) for form in FORMS for value in ("loss", "right")]
    heads = [f"{'accuracy' if v == 'right' else v} on {form}" for form, v in columns]
    lines = [("trained on", *heads), ("---",) * 5]
    means = {(arm, c): by_dialogue(found[arm, c[0]], c[1]) for arm in ARMS for c in columns}
    lines += [(arm, *(estimate(means[arm, c]) for c in columns)) for arm in ARMS]
    gaps = (estimate(means["multi", c], means["single", c]) for c in columns)
    lines.append(("multi minus single", *gaps))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run directory, or a data set exported from one")
    parser.add_argument("--model", default=SMALL, help="a directory, or a model's name on the hub")
    parser.add_argument("--seeds", type=int, default=3, help="training runs of each arm")
    parser.add_argument("--steps", type=int, default=8, help="optimisation steps")
    parser.add_argument("--tokens", type=int, default=10**9, help="token limit of an arm")
    parser.add_argument("--rate", type=float, default=1e-5, help="learning rate")
    parser.add_argument(
        "--beta", type=float, default=0.1, help="how closely to stay to the untrained model"
    )
    print(table(compare(parser.parse_args())))


if __name__ == "__main__":
    script(main)
