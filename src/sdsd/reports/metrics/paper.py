"""Figures that the paper reports about its own data, to show next to those of a run."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Reference(Struct, frozen=True):
    """One reported figure, by model or as the ends of a range."""

    label: str
    unit: Literal["share", "number"]
    values: dict[str, float]
    meaning: str


PAPER_SOURCE = "arXiv 2407.18421"
PAPER_MODELS = ("DBRX", "Llama", "Mistral")
PAPER_PRINCIPLES = 127
PAPER: dict[str, Reference] = {
    "violating": Reference(
        "Dialogues with a violation",
        "share",
        {"DBRX": 0.35, "Llama": 0.22, "Mistral": 0.0},
        "Rows of the published revisions, divided by the 107,683 dialogues of each model. A "
        "single critic decided; neither its evidence nor the revision was checked. None of "
        "Mistral's revisions was usable. For this run: dialogues with a confirmed violation.",
    ),
    "messages": Reference(
        "Messages per dialogue, including the plan",
        "number",
        {"DBRX": 8.47, "Llama": 13.24, "Mistral": 8.02},
        "Mean number of messages in a published row; the plan is the first message.",
    ),
    "principle_share": Reference(
        "Share of all violations, by principle",
        "share",
        {"least": 0.002, "most": 0.024},
        "From the least to the most frequently violated of 127 principles. An even distribution "
        "would give each 0.79%.",
    ),
    "largest_topic": Reference(
        "Share of the largest topic",
        "share",
        {"all": 0.15},
        "About 15% of the published conversations are about fruit.",
    ),
    "marker_right": Reference(
        "Self-check is right",
        "share",
        {"all": 0.90},
        "For the paper: the authors' estimate of how often the model's own end and violation "
        "markers are right. For this run: how often the model's self-check agrees with the "
        "critic's confirmed verdict.",
    ),
}
"""Figures from *Self-Directed Synthetic Dialogues and Revisions* (Lambert et al. 2024)."""
