"""Train a model to prefer the verified revisions of a run (Rafailov et al. 2023, TRL's DPOTrainer).

    python examples/train_dpo.py runs/first --steps 20

Accuracy is the share of held-out pairs in which training made `chosen` gain more than `rejected`,
and margin is the mean difference, times beta. Both are 0 before training.
"""

from __future__ import annotations

import argparse

from training import arguments, fit, rows, script, settings, start
from trl import DPOConfig, DPOTrainer


def trainer(chosen: argparse.Namespace) -> DPOTrainer:
    """Return the trainer for these arguments."""
    train, held_out = rows(chosen.run, "preference")
    model, tokenizer = start(chosen.model)
    config = DPOConfig(
        **settings(chosen),
        beta=chosen.beta,
        max_length=model.config.max_position_embeddings,  # the end of a dialogue is what matters
    )
    return DPOTrainer(
        model=model,
        args=config,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )


def main() -> None:
    """Train, and print metrics on held-out pairs before and after."""
    parser = arguments(__doc__ or "", "trained/dpo", 5e-6)
    parser.add_argument(
        "--beta", type=float, default=0.1, help="how closely to stay to the untrained model"
    )
    names = {
        "eval_loss": "loss",
        "eval_rewards/accuracies": "accuracy",
        "eval_rewards/margins": "margin",
    }
    fit(trainer(parser.parse_args()), names)


if __name__ == "__main__":
    script(main)
