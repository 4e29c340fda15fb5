"""What a bootstrap trains on: prompts, the target's answers to them, and what the target thought while it answered.

    prompts ──answering──▶ answers (shards) ──reading──▶ readings (shards): top-k log-probabilities, hidden states

Both steps go on where they were stopped, and give what they would have given in one go.
"""
