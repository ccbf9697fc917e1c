"""From records to figures: one module for each family of figures."""
