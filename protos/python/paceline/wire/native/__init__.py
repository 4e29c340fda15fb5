"""Native code that is compiled where it runs, and what several such libraries are made of."""
