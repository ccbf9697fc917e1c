"""A whole run: its directory, journal, scheduling, publishing, verification."""
