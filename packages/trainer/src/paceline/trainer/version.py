"""Version of paceline-trainer."""

VERSION = "0.1.0"
