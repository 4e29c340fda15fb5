"""Language models for drafting: one file for each runtime."""

import os

# Drafters often share their machine with others, a verifier for one. OpenMP's threads spin while they wait and keep the
# cores from those they wait for. Has to be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
