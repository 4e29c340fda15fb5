"""Requests whose answers are known before, asked through either door, and what became of each."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import grpc
import grpc.aio
from fleet import MODEL
from http_stream import Refused, parts_of

from paceline.v1 import generation_pb2, router_pb2_grpc, types_pb2
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings
from paceline.wire.status import from_rpc_error

PROMPTS = (
    "the quick brown fox jumps over the lazy dog; once upon a time there was a small village",
    "numbers 0 1 2 3 4 5 6 7 8 9, punctuation: a; b. c? d! (e) [f]",
    "once upon a time",
)
ANSWER_S = 120.0  # a request that takes longer hangs


class Door(Enum):
    GRPC = "grpc"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class Errand:
    """What is asked for. Its answer is a function of nothing else."""

    prompt: str
    temperature: float
    seed: int
    max_tokens: int

    def request(self, committed: list[int], speculation: bool = True) -> generation_pb2.GenerateRequest:
        return generation_pb2.GenerateRequest(
            text=self.prompt,
            sampling=types_pb2.Sampling(temperature=self.temperature, seed=self.seed),
            limits=types_pb2.Limits(max_tokens=self.max_tokens, ignore_eos=True),
            speculation=types_pb2.Speculation(off=not speculation),
            committed=types_pb2.TokenIds(ids=committed),
            no_store=True,  # what drafters remember of the last round would end this one too soon
        )

    def body(self) -> dict[str, Any]:
        return {
            "model": MODEL,
            "prompt": self.prompt,
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "ignore_eos": True,
            "paceline": {"store": False},
            "stream_options": {"include_usage": True},
        }


def draw_errands(rng: random.Random, count: int, least_tokens: int = 400, most_tokens: int = 800) -> list[Errand]:
    """Half of them greedy."""
    return [
        Errand(
            rng.choice(PROMPTS),
            0.8 if index % 2 else 0.0,
            rng.randrange(1 << 32),
            rng.randint(least_tokens, most_tokens),
        )
        for index in range(count)
    ]


class End(Enum):
    RUNNING = "running"
    FINISHED = "finished"
    BROKEN = "broken"  # the connection did, and nothing was said
    REFUSED = "refused"  # somebody said an error, or nothing came for too long


@dataclass
class Asked:
    """One errand under way or over.

    Attributes:
        ids: of the tokens so far; HTTP doesn't tell them.
        num_tokens: as counted by the router when it was over.
        pause_s: the longest time without a token since `mark`.
    """

    errand: Errand
    door: Door
    router: str
    ids: list[int] = field(default_factory=list)
    text: str = ""
    num_tokens: int = 0
    end: End = End.RUNNING
    why: str = ""
    pause_s: float = 0.0
    _heard_s: float = 0.0

    async def run(self, addresses: tuple[str, str], speculation: bool = True) -> Asked:
        """Asks, and never fails: what became of it is in `end` and `why`.

        Args:
            addresses: of the router, for gRPC and HTTP.
        """
        grpc_address, http_address = addresses
        try:
            async with asyncio.timeout(ANSWER_S):
                if self.door is Door.GRPC:
                    await self._over_grpc(grpc_address, speculation)
                else:
                    await self._over_http(http_address)
            self.end = End.FINISHED
        except TimeoutError:
            self.end, self.why = End.REFUSED, f"no end within {ANSWER_S:g} s"
        except grpc.aio.AioRpcError as error:
            said = from_rpc_error(error)
            broken = said is None and error.code() is grpc.StatusCode.UNAVAILABLE
            self.end, self.why = End.BROKEN if broken else End.REFUSED, f"{error.code().name}: {error.details()}"
        except ConnectionError as error:
            self.end, self.why = End.BROKEN, str(error)
        except Refused as error:
            self.end, self.why = End.REFUSED, str(error)
        return self

    def mark(self) -> None:
        """Pauses are measured from now on, if it has begun."""
        self._heard_s = time.monotonic() if self.text else 0.0

    def _heard(self, text: str) -> None:
        now_s = time.monotonic()
        if self._heard_s:
            self.pause_s = max(self.pause_s, now_s - self._heard_s)
            self._heard_s = now_s
        self.text += text

    async def _over_grpc(self, address: str, speculation: bool) -> None:
        request = self.errand.request(self.ids, speculation)
        async with connect(address, ClientSettings()) as channel:
            async for event in router_pb2_grpc.RouterStub(channel).Generate(request):
                if event.HasField("tokens"):
                    self.ids.extend(event.tokens.ids)
                    self._heard(event.tokens.text)
        self.num_tokens = len(self.ids)

    async def _over_http(self, address: str) -> None:
        """From the beginning: there is no asking for the rest of an answer."""
        self.text = ""
        async with aclosing(parts_of(address, "/v1/completions", self.errand.body())) as parts:
            async for part in parts:
                for choice in part["choices"]:
                    self._heard(choice["text"])
                if part.get("usage"):
                    self.num_tokens = part["usage"]["completion_tokens"]


@dataclass(frozen=True, slots=True)
class Known:
    """The answer that an errand has."""

    ids: list[int]
    text: str

    def difference(self, asked: Asked) -> str:
        """What a finished answer has otherwise; empty if nothing."""
        if asked.text != self.text:
            return f"{asked.errand}: another text over {asked.door.value}"
        if asked.num_tokens != len(self.ids) or (asked.door is Door.GRPC and asked.ids != self.ids):
            return f"{asked.errand}: other tokens over {asked.door.value}"
        return ""


async def answers_of(errands: list[Errand], router: str, addresses: tuple[str, str]) -> dict[Errand, Known]:
    """By plain decoding, through a router."""
    known: dict[Errand, Known] = {}
    for errand in errands:
        asked = await Asked(errand, Door.GRPC, router).run(addresses, speculation=False)
        if asked.end is not End.FINISHED or len(asked.ids) != errand.max_tokens:
            raise AssertionError(f"{errand} has no answer: {asked.why}")
        known[errand] = Known(asked.ids, asked.text)
    return known
