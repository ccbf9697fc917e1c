"""Turn records into figures (`metrics`), and figures into pages (`html`) and a card."""
