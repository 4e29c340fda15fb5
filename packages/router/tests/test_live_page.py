"""The live page's files, and what browsers are told about them. What it does in a browser is tested in tools/e2e."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Deploy
from http_doors import asked
from token_files import ALICE, tenants, write_tokens

from paceline.router.http.live_page import TYPES, page_files

MAX_LINES = 800
MAX_LINE = 120
FILES = {name: content.decode() for name, content in page_files().items()}


def test_it_stays_small_enough_to_be_read() -> None:
    assert {"index.html", "page.css", "page.js"} < set(FILES)
    assert sum(len(text.splitlines()) for text in FILES.values()) <= MAX_LINES
    for name, text in FILES.items():
        assert text.endswith("\n")
        for number, line in enumerate(text.splitlines(), 1):
            assert len(line) <= MAX_LINE, f"{name}:{number}"
            assert line == line.rstrip(), f"{name}:{number}"


def test_what_a_model_says_has_no_way_to_become_markup_or_a_program() -> None:
    dangerous = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|setTimeout\(\""
    for name, text in FILES.items():
        assert not re.search(dangerous, text), name


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    index = FILES["index.html"]
    assert re.findall(r"<script(?![^>]* src=)", index) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", index) == []
    for name, text in FILES.items():
        elsewhere = {url for url in re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`]*", text) if "w3.org" not in url}
        assert elsewhere == set(), name
    named = {*re.findall(r"/page/([\w.]+)", index), *re.findall(r'from "\./([\w.]+)"', "".join(FILES.values()))}
    assert named <= set(FILES)


def test_nothing_is_kept_in_the_browser() -> None:
    for name, text in FILES.items():
        assert not re.search(r"localStorage|sessionStorage|document\.cookie|indexedDB|caches", text), name


async def test_each_file_is_served_with_its_type_and_a_policy(deploy: Deploy) -> None:
    deployment = await deploy(http="127.0.0.1:0")
    for path, name in [("/", "index.html"), *((f"/page/{name}", name) for name in FILES)]:
        reply = await asked(deployment, "GET", path)
        assert (reply.status, reply.body.decode()) == (200, FILES[name])
        assert reply.headers["content-type"] == TYPES[Path(name).suffix]
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        head = await asked(deployment, "HEAD", path)
        assert (head.status, head.body, head.headers["etag"]) == (200, b"", reply.headers["etag"])


async def test_a_file_that_is_known_is_not_sent_again(deploy: Deploy) -> None:
    deployment = await deploy(http="127.0.0.1:0")
    first = await asked(deployment, "GET", "/page/page.js")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = await asked(deployment, "GET", "/page/page.js", if_none_match=known)
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert (await asked(deployment, "GET", "/page/page.js", if_none_match='"other"')).status == 200
    assert (await asked(deployment, "GET", "/page/page.css")).headers["etag"] != tag


@pytest.mark.parametrize("path", ["/page/", "/page/nothing.js", "/page/../page/page.js", "/page/%2e%2e/live_page.py"])
async def test_what_is_no_file_of_the_page_is_not_found(deploy: Deploy, path: str) -> None:
    deployment = await deploy(http="127.0.0.1:0")
    assert (await asked(deployment, "GET", path)).status == 404


async def test_it_can_be_left_out(deploy: Deploy) -> None:
    deployment = await deploy(http="127.0.0.1:0", page=False)
    for path in ("/", "/page/page.js"):
        assert (await asked(deployment, "GET", path)).status == 404
    assert (await asked(deployment, "GET", "/paceline/status")).status == 200


async def test_the_page_is_open_and_what_it_asks_for_is_not(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await deploy(token_file=write_tokens(tmp_path / "tokens.yaml", tenants()), http="127.0.0.1:0")
    for path in ("/", "/page/page.js", "/page/page.css"):
        assert (await asked(deployment, "GET", path)).status == 200
    for path in ("/v1/models", "/paceline/status", "//", "//page/page.js", "/Page/page.js", "/page"):
        assert (await asked(deployment, "GET", path)).status == 401, path
    assert (await asked(deployment, "GET", "/v1/models", authorization=f"Bearer {ALICE}")).status == 200
