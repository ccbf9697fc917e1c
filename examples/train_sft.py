"""Fine-tune a model on the dialogues of a run that end well (supervised, TRL's SFTTrainer).

    python examples/train_sft.py runs/first --steps 20

Every agent turn is learnt. The last one is the verified revision, or an original in which the
critic found no violation.
"""

from __future__ import annotations

import argparse

from training import arguments, fit, rows, script, settings, start
from trl import SFTConfig, SFTTrainer


def trainer(chosen: argparse.Namespace) -> SFTTrainer:
    """Return the trainer for these arguments."""
    train, held_out = rows(chosen.run, "sft")
    model, tokenizer = start(chosen.model)
    config = SFTConfig(
        **settings(chosen),
        assistant_only_loss=True,
        max_length=model.config.max_position_embeddings,  # the end of a dialogue is what matters
    )
    return SFTTrainer(
        model=model,
        args=config,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )


def main() -> None:
    """Train, and print the loss on held-out dialogues before and after."""
    parser = arguments(__doc__ or "", "trained/sft", 2e-5)
    fit(trainer(parser.parse_args()), {"eval_loss": "loss"})


if __name__ == "__main__":
    script(main)
