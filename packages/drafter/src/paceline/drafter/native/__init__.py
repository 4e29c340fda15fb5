"""A feature head in C++, compiled where it runs."""
