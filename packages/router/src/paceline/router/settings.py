"""Settings of a router, and of the command that asks one how things stand."""

from __future__ import annotations

from pydantic import Field, field_validator

from paceline.router.policies import POLICIES
from paceline.wire.settings import ClientSettings, ServiceSettings


class RouterSettings(ServiceSettings):
    """Takes requests, chooses a verifier and drafters for each, and relays the answer."""

    listen: str = "127.0.0.1:7700"
    """host:port to listen on; port 0 takes a free one."""
    router: str = ""
    """Not used here: a router announces itself to nobody."""
    http: str = ""
    """host:port for OpenAI's HTTP API (needs paceline-router[http]); port 0 takes a free one; empty serves none."""
    state: str = Field(default="sqlite:///~/.local/state/paceline/router.db", repr=False)
    """Where what was learnt is kept: sqlite:///PATH (an absolute path has four slashes in all), for routers on several
    machines redis://HOST:PORT/DATABASE (rediss:// with TLS), or memory: to keep nothing."""
    policy: str = "linucb"
    """How drafters are chosen: linucb learns which pay for which prompts; ucb, thompson, epsilon, exp3 and hedge learn
    which pay, hedge also from what verifiers reckon others would have brought; fixed always takes the same."""
    fixed_arm: str = Field(default="", max_length=4000)
    """Drafters of --policy fixed by name, separated by commas; 'none' for plain decoding; empty takes all."""
    small_budget: int = Field(default=0, ge=0, le=4096)
    """Candidates of one step in further arms with a small draft budget, one for each set of drafters; 0 for none, since
    a verifier decides on each step's candidates itself, by what they cost and bring."""
    lease_s: float = Field(default=6.0, ge=0.5, le=300.0)
    """Seconds for which an announcement holds; a service that dies is forgotten after that."""
    max_requests: int = Field(default=256, ge=1, le=65_536)
    """Requests answered at once; more are refused with OVERLOADED."""
    segment_tokens: int = Field(default=64, ge=1, le=65_536)
    """Tokens after which a request's drafters are chosen anew."""
    trial_every: int = Field(default=8, ge=2, le=1000)
    """One in so many requests that would have had a drafter gets its new revision, while there is one on trial."""
    trial_segments: int = Field(default=40, ge=1, le=100_000)
    """Segments of a revision on trial, and of the one before, that a verdict needs at least."""
    failover_wait_s: float = Field(default=10.0, ge=0.0, le=600.0)
    """Seconds a request waits for a verifier to appear when all of its model were lost."""

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, value: str) -> str:
        if value not in POLICIES:
            raise ValueError(f"must be one of {', '.join(POLICIES)}, but is {value!r}")
        return value


class StatusSettings(ClientSettings):
    """Asks a router who is registered and what it has learnt."""

    router: str = "127.0.0.1:7700"
    """host:port of the router."""
    as_json: bool = Field(default=False, validation_alias="json")
    """Print JSON instead of tables."""
