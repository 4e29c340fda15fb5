"""Version of paceline-verifier."""

VERSION = "0.1.0"
