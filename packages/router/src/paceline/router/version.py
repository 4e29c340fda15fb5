"""The version of paceline-router."""

VERSION = "0.2.0"
