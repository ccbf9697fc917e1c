"""From figures to pages."""
