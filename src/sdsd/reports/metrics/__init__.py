"""Turn records into figures: plain values, counted in one pass, that go to JSON as they are."""
