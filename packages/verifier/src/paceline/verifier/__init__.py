"""The verifier: hosts the target model and confirms many drafted tokens in one forward pass."""

import os

# OpenMP's threads spin while they wait for one another, by default. On a machine that has anything else to do, such as
# drafters, a spinning thread holds the core that the awaited one needs: 24 ms became 456 ms (docs/log.md). libgomp
# reads this once, when torch loads it. OMP_WAIT_POLICY=ACTIVE brings the spinning back.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
