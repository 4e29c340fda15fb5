"""What a bootstrap trains on: prompts, the target's answers to them, and what the target thought while it answered.

    prompts ──answering, asking──▶ answers ──reading──▶ readings: top-k log-probabilities, hidden states

Both steps go on where they were stopped, and give what they would have given in one go.
"""

import os

# Answering and reading often share their machine with others, a verifier for one. OpenMP's threads spin while they wait
# and keep the cores from those they wait for. Has to be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
