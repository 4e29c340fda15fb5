"""The loop that fits a module to batches, and what feature heads need to be trained as they are used. Imports torch."""
