"""A datastore: text that was tokenized and sorted offline, for strategies to look up continuations in."""
