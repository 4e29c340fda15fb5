"""Whose request it is."""

from __future__ import annotations

from fastapi import Request


async def tenant_of(request: Request) -> str:
    """The tenant on whose behalf a request is answered. Nobody has to say who they are yet, so all are the same one.

    Every route that answers prompts depends on this: who may ask is to be decided here and nowhere else.
    """
    return ""
