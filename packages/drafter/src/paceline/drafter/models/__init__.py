"""Language models for drafting: one file for each runtime."""
