"""What is asked for: catalogue, sampling, strategies, quotas, and dialogues that exist already."""
