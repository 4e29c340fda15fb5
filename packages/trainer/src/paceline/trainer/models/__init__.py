"""Drafters as torch modules, their weights, and the graphs made of them. Imports torch."""
