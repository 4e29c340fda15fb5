"""The version of the wheel paceline."""

VERSION = "0.1.0"
