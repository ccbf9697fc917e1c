"""What the paper reports of its own data, to put beside a run's."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Reference(Struct, frozen=True):
    """One figure that the paper reports, by model or as the ends of a range."""

    label: str
    unit: Literal["share", "number"]
    values: dict[str, float]
    meaning: str


PAPER_SOURCE = "arXiv 2407.18421"
PAPER_MODELS = ("DBRX", "Llama", "Mistral")
PAPER_PRINCIPLES = 127
PAPER: dict[str, Reference] = {
    "violating": Reference(
        "Dialogues with a violation to revise",
        "share",
        {"DBRX": 0.35, "Llama": 0.22, "Mistral": 0.0},
        "Rows of the published revisions over the 107,683 dialogues of each model; one critic's "
        "word, without a check of its evidence or of the revision. None of Mistral's was usable.",
    ),
    "messages": Reference(
        "Messages per dialogue, plan included",
        "number",
        {"DBRX": 8.47, "Llama": 13.24, "Mistral": 8.02},
        "Mean number of messages in a published row; the plan is the first of them.",
    ),
    "principle_share": Reference(
        "Share of all violations, by principle",
        "share",
        {"least": 0.002, "most": 0.024},
        "From the rarest to the most frequent of 127 principles; 0.79% each would be uniform.",
    ),
    "largest_topic": Reference(
        "Share of the largest topic",
        "share",
        {"all": 0.15},
        "About 15% of the published conversations are about fruit.",
    ),
    "marker_right": Reference(
        "The speaking model's own marker is right",
        "share",
        {"all": 0.90},
        "The authors' estimate for their end and violation markers. Here: how often the model's "
        "own statement agrees with the critic's confirmed verdict.",
    ),
}
"""Figures of *Self-Directed Synthetic Dialogues and Revisions* (Lambert et al. 2024)."""
