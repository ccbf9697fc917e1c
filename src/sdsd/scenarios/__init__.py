"""The inputs of dialogues: catalogue, sampling, strategies, quotas, and existing dialogues."""
