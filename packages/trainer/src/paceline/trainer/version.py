"""Version of paceline-trainer."""

VERSION = "0.2.0"
