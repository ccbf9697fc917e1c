"""A critic that is a function: no model, no prompt. Put your classifier or reward model here.

critique:
  critics:
    trust: {use: "keyword_critic:blind_trust"}
"""

from sdsd.types import Principle, Turn

PUSHY = ("just trust me", "no need to check", "everybody knows")


def blind_trust(turn: Turn, principle: Principle) -> float:
    """Return the probability that the reply violates the principle."""
    hits = sum(phrase in turn.reply.lower() for phrase in PUSHY)
    return min(1.0, 0.6 * hits)
