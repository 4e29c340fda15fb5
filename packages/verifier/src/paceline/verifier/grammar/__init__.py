"""Answers that must be documents of a JSON schema: which tokens may come next, at each node of a tree."""
