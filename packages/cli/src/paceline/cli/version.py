"""The version of the wheel paceline."""

VERSION = "0.2.0"
