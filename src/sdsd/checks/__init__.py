"""Rules that need no model: what is wrong with a dialogue, and with a revision."""
