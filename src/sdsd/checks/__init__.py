"""Rules that need no model: on a finished dialogue, and on a revision of its last reply."""
