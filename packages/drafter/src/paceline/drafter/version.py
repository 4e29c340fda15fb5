"""The version of paceline-drafter."""

VERSION = "0.2.0"
