"""The version of paceline-drafter."""

VERSION = "0.1.0"
