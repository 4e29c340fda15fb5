"""Drafters made from nothing but a target: one recipe, one file. Imports torch."""
