"""Streams candidate tokens to verifiers."""
