"""The version of paceline-router."""

VERSION = "0.1.0"
