"""A router with a token file, over HTTP: OpenAI's own client, and bytes that it wouldn't send."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import openai
import pytest
from certificates import Authority
from conftest import Deploy, Deployment, answer, eventually
from http_doors import MESSAGES, Reply, address_of, asked, client_of, reply_of, request_bytes
from token_files import ADMIN, ALICE, ALL, BOB, MEMBER, OLD, SECRETS, tenants, write_tokens

from paceline.router.access.rights import ANY, PATHS, is_open, roles_for_path
from paceline.router.http.app import make_app
from paceline.wire.errors import PacelineError, Reason

TEXT = "".join(f"{token} " for token in answer(7, 3))


async def guarded(deploy: Deploy, folder: Path, **limits: Any) -> Deployment:
    path = write_tokens(folder / "tokens.yaml", tenants(**limits))
    deployment = await deploy(token_file=path, http="127.0.0.1:0")
    await deployment.verifier("v", protocol=(1, 4))
    return deployment


async def chat(client: openai.AsyncOpenAI, **fields: Any) -> str | None:
    given: dict[str, Any] = {"model": "m", "messages": MESSAGES, "seed": 7, "max_tokens": 3, **fields}
    return (await client.chat.completions.create(**given)).choices[0].message.content


async def get(deployment: Deployment, path: str, token: str | None = None) -> Reply:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return await asked(deployment, "GET", path, **headers)


async def test_a_client_with_a_token_is_served_whole_and_in_a_stream(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path)
    async with client_of(deployment, api_key=ALICE) as client:
        assert await chat(client) == TEXT
        text = ""
        given: Any = {"model": "m", "messages": MESSAGES, "seed": 7, "max_tokens": 3, "stream": True}
        async for chunk in await client.chat.completions.create(**given):
            text += chunk.choices[0].delta.content or ""
        assert text == TEXT
        assert [model.id async for model in client.models.list()] == ["m"]


@pytest.mark.parametrize(("token", "words"), [("wrong", "not known"), (OLD, "expired at 2020-02-02T02:02:02+00:00")])
async def test_wrong_and_expired_are_errors_that_openais_client_knows(
    deploy: Deploy, tmp_path: Path, token: str, words: str
) -> None:
    deployment = await guarded(deploy, tmp_path)
    async with client_of(deployment, api_key=token) as client:
        with pytest.raises(openai.AuthenticationError, match=words.replace("+", r"\+")) as error:
            await chat(client)
    assert (error.value.code, error.value.type, error.value.param) == ("invalid_api_key", "invalid_request_error", None)
    assert error.value.response.headers["www-authenticate"] == "Bearer"
    assert token not in error.value.response.text


async def test_a_token_for_something_else(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path)
    async with client_of(deployment, api_key=MEMBER) as client:
        with pytest.raises(
            openai.PermissionDeniedError, match="is for member; this path needs one for client"
        ) as error:
            await chat(client)
    assert error.value.code == "permission_denied"


async def test_over_a_rate_it_says_when_to_come_back_and_others_go_on(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path, requests_per_minute=3)
    async with client_of(deployment, api_key=ALICE) as alice, client_of(deployment, api_key=BOB) as bob:
        assert await chat(alice, n=2) == TEXT
        with pytest.raises(openai.RateLimitError, match="used up its requests a minute") as error:
            await chat(alice, n=2)
        assert error.value.code == "rate_limit_exceeded"
        assert 1 <= int(error.value.response.headers["retry-after"]) <= 20
        assert await chat(alice) == TEXT  # one there is left
        with pytest.raises(
            openai.BadRequestError, match="at most 3: tenant 'alice' may have so many a minute"
        ) as wrong:
            await chat(alice, n=4)
        assert wrong.value.param == "n"
        assert await chat(bob, n=4) == TEXT


async def test_over_a_size_the_field_is_named_as_ever(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path, prompt_bytes=10, max_tokens=5)
    async with client_of(deployment, api_key=ALICE) as alice:
        assert await chat(alice) == TEXT
        with pytest.raises(openai.BadRequestError, match="11 bytes; tenant 'alice' may send 10") as error:
            await chat(alice, messages=[{"role": "user", "content": "x" * 11}])
        assert (error.value.code, error.value.param) == ("context_length_exceeded", "messages")
        with pytest.raises(openai.BadRequestError, match="at most 5 for tenant 'alice'") as error:
            await chat(alice, max_tokens=6)
        assert error.value.param == "max_tokens"
        await deployment.verifier("before", model="old", protocol=(1, 3))
        with pytest.raises(openai.BadRequestError, match=r"set limits\.max_tokens") as error:
            await chat(alice, model="old", max_tokens=None)
        assert error.value.param == "max_tokens"


async def test_tenants_are_kept_apart(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path)
    verifier = await deployment.verifier("w", model="w")
    for token in (ALICE, BOB):
        async with client_of(deployment, api_key=token) as client:
            await chat(client, model="w")
    assert [one.tenant for one in verifier.requests] == ["alice", "bob"]


async def test_nothing_but_health_and_the_live_page_is_open(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path)
    assert (await get(deployment, "/health")).status == 200
    for path in ("/v1/models", "/version", "/metrics", "/openapi.json", "/nowhere", "/health/", "//health"):
        reply = await get(deployment, path)
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key"), path
        assert reply.headers["www-authenticate"] == "Bearer"
    assert (await get(deployment, "/nowhere", ALICE)).status == 404
    assert (await get(deployment, "/version", MEMBER)).status == 200
    for token, status in ((ALICE, 403), (MEMBER, 200), (ADMIN, 200), (ALL, 200)):
        reply = await get(deployment, "/metrics", token)
        assert reply.status == status
        assert not [secret for secret in SECRETS if secret in reply.body.decode()]


async def test_every_route_has_its_roles(deploy: Deploy) -> None:
    deployment = await deploy(http="127.0.0.1:0")
    paths = {getattr(route, "path", "") for route in make_app(deployment.router.intake, Any).routes}  # type: ignore[arg-type]
    assert {path for path in paths if path.startswith("/v1/")}
    guarded = {path for path in paths if roles_for_path(path) != ANY}
    assert guarded == paths - {"/health", "/version", "/openapi.json", "/", "/page/{name}"}
    assert {path for path in paths if is_open(path)} == {"/health", "/", "/page/{name}"}
    assert all(PATHS.values())


@pytest.mark.parametrize("authorization", ["", "Bearer", "Basic abc", f"Token {ALICE}", ALICE, f"Bearer {ALICE}x"])
async def test_what_is_no_bearer_token(deploy: Deploy, tmp_path: Path, authorization: str) -> None:
    deployment = await guarded(deploy, tmp_path)
    reply = await asked(deployment, "GET", "/v1/models", authorization=authorization)
    assert reply.status == 401
    assert ALICE not in reply.body.decode()


async def test_who_is_refused_hears_it_while_still_writing(deploy: Deploy, tmp_path: Path) -> None:
    """The body is never read into memory, and the answer doesn't wait for it."""
    deployment = await guarded(deploy, tmp_path)
    host, port = address_of(deployment)
    reader, writer = await asyncio.open_connection(host, port)
    head = request_bytes("POST", "/v1/chat/completions", None, content_length=str(2**30))
    writer.write(head)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 401")
    writer.close()
    async with client_of(deployment, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await chat(client, messages=[{"role": "user", "content": "x" * 4_000_000}])


async def test_the_shared_token_is_asked_for_here_too(deploy: Deploy) -> None:
    deployment = await deploy(token="shared", http="127.0.0.1:0")
    await deployment.verifier("v")
    async with client_of(deployment, api_key="shared") as client:
        assert await chat(client) == TEXT
    async with client_of(deployment, api_key="other") as client:
        with pytest.raises(openai.AuthenticationError):
            await chat(client)
    assert (await get(deployment, "/health")).status == 200


async def test_a_verifier_that_refuses_the_router_is_not_the_clients_fault(deploy: Deploy) -> None:
    deployment = await deploy(http="127.0.0.1:0", failover_wait_s=0.1)
    strict = await deployment.verifier("strict")
    strict.refusal = PacelineError(Reason.UNAUTHENTICATED, "metadata 'authorization' must be …")
    async with client_of(deployment) as client:
        with pytest.raises(openai.InternalServerError, match="doesn't take this router's token") as error:
            await chat(client)
    assert error.value.status_code == 503


async def test_a_stream_that_is_left_frees_its_place(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await guarded(deploy, tmp_path, requests_at_once=1)
    slow = await deployment.verifier("slow", model="w", stop_at=1, protocol=(1, 4))
    tokens = deployment.router.lock.tokens
    assert tokens is not None
    quota = tokens.usage()[0][0]
    body = json.dumps({"model": "w", "messages": MESSAGES, "stream": True}).encode()
    data = request_bytes("POST", "/v1/chat/completions", body, authorization=f"Bearer {ALICE}")
    _, writer = await asyncio.open_connection(*address_of(deployment))
    writer.write(data)
    await slow.stopped.wait()
    async with client_of(deployment, api_key=ALICE) as alice:
        with pytest.raises(openai.RateLimitError, match="1 requests in progress"):
            await chat(alice)
        writer.close()
        await eventually(lambda: quota.running == 0)
        assert await chat(alice) == TEXT


async def test_mutual_tls(deploy: Deploy, tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    own = ours.pair("router")
    deployment = await deploy(
        http="127.0.0.1:0", tls_cert=own.certificate, tls_key=own.key, tls_client_ca=ours.certificate
    )
    host, port = address_of(deployment)

    async def health(context: ssl.SSLContext) -> bytes:
        """The answer; nothing if the connection ended without one."""
        try:
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.write(request_bytes("GET", "/health"))
            answered = await reader.read()
            writer.close()
        except (ssl.SSLError, ConnectionError):
            return b""
        return answered

    def context_with(authority: Authority | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=ours.certificate)
        if authority is not None:
            pair = authority.pair("client")
            context.load_cert_chain(pair.certificate, pair.key)
        return context

    assert reply_of(await health(context_with(ours))).status == 200
    for wrong in (None, theirs):
        assert await health(context_with(wrong)) == b""
