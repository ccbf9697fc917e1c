"""Turn figures into pages: self-contained HTML files without scripts, from the templates here."""
