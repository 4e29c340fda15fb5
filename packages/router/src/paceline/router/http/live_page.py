"""The live page: its files, as they lie in the package, and what browsers are told about them."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import PurePath
from typing import Annotated

from fastapi import FastAPI, Path, Request, Response
from starlette.exceptions import HTTPException

INDEX = "index.html"
METHODS = ["GET", "HEAD"]
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # Nothing but these files, and no API but this router's; what a model says can't become a program.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept, and asked about each time: after an upgrade nobody has half of the page before.
    "Cache-Control": "no-cache",
}


def page_files() -> dict[str, bytes]:
    """The page's files by name."""
    folder = resources.files("paceline.router.http") / "page"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if PurePath(entry.name).suffix in TYPES}


def add_page(app: FastAPI) -> None:
    """GET / and GET /page/NAME. They are for people, so the OpenAPI document leaves them out."""
    files = page_files()
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:32]}"' for name, content in files.items()}

    def reply(name: str, request: Request) -> Response:
        headers = {**HEADERS, "ETag": tags[name]}
        known = request.headers.get("if-none-match", "")
        if any(tag.strip().removeprefix("W/") == tags[name] for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(files[name], 200, headers, TYPES[PurePath(name).suffix])

    @app.api_route("/", methods=METHODS, include_in_schema=False)
    async def index(request: Request) -> Response:
        return reply(INDEX, request)

    @app.api_route("/page/{name}", methods=METHODS, include_in_schema=False)
    async def file(name: Annotated[str, Path()], request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        return reply(name, request)
