"""A whole deployment that trusts nobody: tokens, and certificates at both ends of every connection."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import openai
import pytest
from certificates import Authority
from tiny_target import make_tiny_target

from paceline.cli.measure import ask, request_for
from paceline.cli.stack import Stack
from paceline.v1 import router_pb2, router_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

PROMPT = "once upon a time once upon a time"
ROLES = {router_pb2.ROLE_VERIFIER, router_pb2.ROLE_DRAFTER, router_pb2.ROLE_TRAINER}
DEADLINE_S = 60.0
EXAMPLES = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "docs" / "examples"


def made_token(tenant: str) -> tuple[str, dict[str, Any]]:
    """By the command that people use."""
    line = [sys.executable, "-m", "paceline.router", "token", tenant, "--json"]
    made = json.loads(subprocess.run(line, capture_output=True, check=True, timeout=DEADLINE_S).stdout)
    return made["token"], made["entry"]


def own_token(**entry: Any) -> tuple[str, dict[str, Any]]:
    """By hand, which is quicker."""
    token = secrets.token_hex(16)
    return token, {"sha256": hashlib.sha256(token.encode()).hexdigest(), **entry}


@dataclass
class Deployment:
    """What a test asks, and with what."""

    stack: Stack
    authority: Authority
    token_file: Path
    tokens: dict[str, str] = field(default_factory=dict)
    entries: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        made = {
            "acme": made_token("acme"),
            "small": own_token(),
            "late": own_token(expires="2020-02-02T02:02:02Z"),
            "services": own_token(roles=["member"]),
            "operations": own_token(roles=["admin"]),
        }
        for tenant, (token, entry) in made.items():
            self.tokens[tenant] = token
            self.entries[tenant] = {"tokens": [entry]}
        self.entries["small"]["limits"] = {"requests_per_minute": 2, "max_tokens": 8}
        self.write()

    def write(self) -> None:
        temporary = self.token_file.with_suffix(".new")
        temporary.write_text(json.dumps({"tenants": self.entries}))
        temporary.replace(self.token_file)

    def settings(self, token: str, certificate: bool = True) -> ClientSettings:
        pair = self.authority.pair("client")
        shown = {"tls_client_cert": pair.certificate, "tls_client_key": pair.key} if certificate else {}
        return ClientSettings(token=token, tls_ca=self.authority.certificate, **shown)  # type: ignore[arg-type]

    def client(self, token: str, certificate: bool = True) -> openai.OpenAI:
        context = ssl.create_default_context(cafile=self.authority.certificate)
        if certificate:
            pair = self.authority.pair("client")
            context.load_cert_chain(pair.certificate, pair.key)
        http = openai.DefaultHttpxClient(verify=context)
        url = f"https://{self.stack.services['router'].http}/v1"
        return openai.OpenAI(base_url=url, api_key=token, http_client=http, max_retries=0, timeout=DEADLINE_S)

    def router(self, *arguments: str, tenant: str) -> subprocess.CompletedProcess[str]:
        """A command for the admin port."""
        pair = self.authority.pair("administrator")
        variables = {
            **os.environ,
            "PACELINE_TOKEN": self.tokens[tenant],
            "PACELINE_TLS_CA": str(self.authority.certificate),
            "PACELINE_TLS_CLIENT_CERT": str(pair.certificate),
            "PACELINE_TLS_CLIENT_KEY": str(pair.key),
        }
        admin = json.loads(self.stack.services["router"].ready_file.read_text())["admin"]
        line = [sys.executable, "-m", "paceline.router", *arguments, "--admin", admin]
        return subprocess.run(line, capture_output=True, text=True, timeout=DEADLINE_S, env=variables, check=False)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("access")
    model = make_tiny_target(folder / "model")
    authority = Authority(folder, "authority")
    own = authority.pair("services")
    with Stack(folder / "stack") as stack:
        deployment = Deployment(stack, authority, folder / "tokens.yaml")
        stack.environment = {
            "PACELINE_TOKEN": deployment.tokens["services"],
            "PACELINE_TLS_CERT": str(own.certificate),
            "PACELINE_TLS_KEY": str(own.key),
            "PACELINE_TLS_CA": str(authority.certificate),
            "PACELINE_TLS_CLIENT_CA": str(authority.certificate),
        }
        access = ("--token-file", str(deployment.token_file), "--http", "127.0.0.1:0")
        stack.start("router", "router", "--state", "memory:", "--policy", "fixed", *access)
        stack.wait("router")
        announce = ("--router", stack.services["router"].address)
        tiny = ("--model", str(model), "--model-name", "tiny", "--drafting", "always")
        stack.start("verifier", "verifier", "--verifier-id", "only", *tiny, *announce)
        stack.start("trainer", "trainer", "--data", str(folder / "trainer"), *announce)
        stack.start("suffix", "drafter", "--name", "suffix", "--strategies", "suffix", *announce)
        stack.wait()
        asyncio.run(complete(deployment))
        yield deployment


async def complete(deployment: Deployment) -> None:
    """Until everybody has announced itself and the drafter is connected."""
    settings = deployment.settings(deployment.tokens["services"])
    async with asyncio.timeout(DEADLINE_S), connect(deployment.stack.services["router"].address, settings) as channel:
        stub = router_pb2_grpc.RouterStub(channel)
        while True:
            members = (await stub.GetStatus(router_pb2.GetStatusRequest())).members
            if {one.role for one in members} == ROLES and any(one.connected for one in members):
                return
            await asyncio.sleep(0.05)


def ask_for(client: openai.OpenAI, **fields: Any) -> Any:
    given = {"model": "tiny", "prompt": PROMPT, "max_tokens": 40, "seed": 7, "temperature": 0.8, **fields}
    return client.completions.create(**given)


def test_the_text_is_the_same_with_drafts_and_without(deployment: Deployment) -> None:
    with deployment.client(deployment.tokens["acme"]) as client:
        plain = ask_for(client, extra_body={"paceline": {"speculation": False}})
        drafted = [ask_for(client) for _ in range(3)]
    assert {one.choices[0].text for one in drafted} == {plain.choices[0].text}
    figures = [one.to_dict().get("metrics") for one in drafted]
    assert sum(one["speculative_decoding"]["num_accepted_draft_tokens"] for one in figures if one) > 0


def test_the_example_of_a_client_gets_in(deployment: Deployment, tmp_path: Path) -> None:
    pair, router = deployment.authority.pair("example"), deployment.stack.services["router"]
    copies = {
        "ca.pem": deployment.authority.certificate,
        "client.cert.pem": pair.certificate,
        "client.key.pem": pair.key,
    }
    for name, path in copies.items():
        (tmp_path / name).write_bytes(path.read_bytes())
    example = (EXAMPLES / "tls_token.py").read_text()
    example = example.replace("127.0.0.1:7700", router.address).replace("127.0.0.1:8000", router.http)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env={**os.environ, "PACELINE_TOKEN": deployment.tokens["acme"]},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    of_grpc, of_http = re.findall(r"(?:gRPC|HTTPS): (.*?)(?=HTTPS|\Z)", done.stdout, re.DOTALL)
    assert of_grpc == of_http
    assert of_grpc.strip()


def test_over_grpc_too(deployment: Deployment) -> None:
    async def texts() -> set[str]:
        settings = deployment.settings(deployment.tokens["acme"])
        async with connect(deployment.stack.services["router"].address, settings) as channel:
            stub = router_pb2_grpc.RouterStub(channel)
            asked = [request_for([("user", PROMPT)], max_tokens=20, speculation=on) for on in (True, False)]
            return {(await ask(stub, request)).text for request in asked}

    (text,) = asyncio.run(texts())
    assert text


def test_wrong_expired_and_other_tokens_are_told_what_is_wrong_and_disturb_nobody(deployment: Deployment) -> None:
    with deployment.client(deployment.tokens["acme"]) as good:
        expected = ask_for(good).choices[0].text
        stream = ask_for(good, stream=True)
        parts = [next(stream).choices[0].text]
        for token, error, words in (
            ("wrong", openai.AuthenticationError, "not known"),
            (deployment.tokens["late"], openai.AuthenticationError, "expired at 2020-02-02"),
            (deployment.tokens["services"], openai.PermissionDeniedError, "is for member"),
        ):
            with deployment.client(token) as client, pytest.raises(error, match=words):
                ask_for(client)
        parts += [choice.text for chunk in stream for choice in chunk.choices]
    assert "".join(parts) == expected


def test_limits_are_the_tenants_own(deployment: Deployment) -> None:
    with deployment.client(deployment.tokens["small"]) as small, deployment.client(deployment.tokens["acme"]) as acme:
        with pytest.raises(openai.BadRequestError, match="at most 8 for tenant 'small'"):
            ask_for(small)
        messages: Any = [{"role": "user", "content": PROMPT}]
        unset = small.chat.completions.create(model="tiny", messages=messages, temperature=0)
        assert unset.usage is not None
        assert unset.usage.completion_tokens <= 8
        ask_for(small, max_tokens=8)
        with pytest.raises(openai.RateLimitError) as refused:
            ask_for(small, max_tokens=8)
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert ask_for(acme).usage.completion_tokens > 8


def test_nobody_gets_in_without_a_certificate(deployment: Deployment) -> None:
    stranger = deployment.client(deployment.tokens["acme"], certificate=False)
    with stranger, pytest.raises(openai.APIConnectionError):
        ask_for(stranger)

    async def codes(service: str, certificate: bool, token: str) -> grpc.StatusCode | None:
        settings = deployment.settings(token, certificate)
        async with connect(deployment.stack.services[service].address, settings) as channel:
            try:
                if service == "verifier":
                    await verifier_pb2_grpc.VerifierStub(channel).GetModel(verifier_pb2.GetModelRequest(), timeout=10)
                else:
                    await router_pb2_grpc.RouterStub(channel).GetStatus(router_pb2.GetStatusRequest(), timeout=10)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return None

    member = deployment.tokens["services"]
    for service in ("router", "verifier"):
        assert asyncio.run(codes(service, True, member)) is None
        assert asyncio.run(codes(service, False, member)) is grpc.StatusCode.UNAVAILABLE
        assert asyncio.run(codes(service, True, "wrong")) is grpc.StatusCode.UNAUTHENTICATED


def test_an_administrator_may_what_others_may_not(deployment: Deployment) -> None:
    refused = deployment.router("tenants", tenant="acme")
    assert refused.returncode == 1
    assert "this method needs one for admin" in refused.stderr
    shown = json.loads(deployment.router("tenants", "--json", tenant="operations").stdout)
    assert [one["tenant"] for one in shown["tenants"]] == sorted(deployment.entries)
    assert "policy is ucb; it was fixed" in deployment.router("policy", "ucb", tenant="operations").stdout
    with deployment.client(deployment.tokens["acme"]) as client:
        assert ask_for(client).usage.completion_tokens > 0
        assert "verifier only gets nothing new" in deployment.router("drain", "only", tenant="operations").stdout
        with pytest.raises(openai.InternalServerError) as nobody:
            ask_for(client)
        assert nobody.value.status_code == 503
        assert deployment.router("undrain", "only", tenant="operations").returncode == 0
        assert ask_for(client).usage.completion_tokens > 0


def test_a_new_token_is_good_after_sighup_and_one_that_was_taken_out_is_not(deployment: Deployment) -> None:
    token, entry = own_token()
    deployment.entries["new"] = {"tokens": [entry]}
    for expected, change in ((True, None), (False, "new")):
        if change:
            del deployment.entries[change]
        deployment.write()
        deployment.stack.services["router"].process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + DEADLINE_S
        with deployment.client(token) as client:
            while served(client) is not expected:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def served(client: openai.OpenAI) -> bool:
    try:
        client.models.list()
    except openai.AuthenticationError:
        return False
    return True


def test_no_token_is_in_any_log(deployment: Deployment) -> None:
    logs = {path.name: path.read_text(errors="replace") for path in deployment.stack.folder.glob("*.log")}
    assert set(logs) == {"router.log", "verifier.log", "trainer.log", "suffix.log"}
    assert "token file read" in logs["router.log"]
    for token in deployment.tokens.values():
        assert not [name for name, text in logs.items() if token in text]
