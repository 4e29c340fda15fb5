"""The trainer: keeps what verifiers saw, and the revisions made of it."""
