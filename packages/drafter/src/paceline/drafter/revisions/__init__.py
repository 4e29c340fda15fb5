"""Revisions of a line: followed at a trainer, fetched, checked, and put to work while sessions go on."""
