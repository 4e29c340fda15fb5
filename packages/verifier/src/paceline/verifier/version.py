"""Version of paceline-verifier."""

VERSION = "0.2.0"
