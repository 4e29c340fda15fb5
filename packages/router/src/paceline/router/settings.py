"""Settings of a router, and of the command that asks one how things stand."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg

from paceline.router.checks import MAX_NAME
from paceline.router.policies import POLICIES
from paceline.wire.settings import ClientSettings, ServiceSettings

AUTO = "auto"


class RouterSettings(ServiceSettings):
    """Takes requests, chooses a verifier and drafters for each, and relays the answer."""

    listen: str = "127.0.0.1:7700"
    """host:port to listen on; port 0 takes a free one."""
    router: str = ""
    """Not used here: a router announces itself to nobody."""
    http: str = ""
    """host:port for OpenAI's HTTP API (needs paceline-router[http]); port 0 takes a free one; empty serves none."""
    page: bool = True
    """Whether --http also serves the live page, at /: chat, whose drafter proposed which token, what was learnt."""
    admin: str = AUTO
    """host:port for drain, withdraw and policy; 'auto' is 127.0.0.1 with the port after --listen's if that is free,
    'none' is none. One that other machines can reach needs --token-file or --tls-client-ca."""
    token_file: Path | None = None
    """YAML or JSON file that says which tokens are good for what, see 'paceline-router token'. With it nobody gets in
    without one, and --token is only what is shown to verifiers. It is read again when it changes."""
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
    accept_s: float = Field(default=30.0, ge=0.1, le=600.0)
    """Seconds in which a verifier must take a request up, which it does before the request waits for a session; then
    another is asked."""
    affinity_slack: float = Field(default=0.5, ge=0.0, le=1.0)
    """How much busier, as a share of what it runs at once, a verifier may be than others and still get a request whose
    whole prompt it has read before (less if it has read a part); 0 goes by load alone."""
    hedge_after_s: float = Field(default=0.0, ge=0.0, le=600.0)
    """Seconds without a first token after which a second verifier is asked too, and whoever is first goes on; 0 never
    asks two."""
    hedge_share: float = Field(default=0.05, gt=0.0, le=1.0)
    """Share of requests for which a second verifier may be asked."""
    max_request_s: float = Field(default=0.0, ge=0.0, le=604_800.0)
    """Most seconds a request may take, whatever deadline its client set; 0 for no bound."""

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, value: str) -> str:
        if value not in POLICIES:
            raise ValueError(f"must be one of {', '.join(POLICIES)}, but is {value!r}")
        return value


class AdminSettings(ClientSettings):
    """What every command that asks for something has."""

    admin: str = "127.0.0.1:7701"
    """host:port of the router's admin port."""
    as_json: bool = Field(default=False, validation_alias="json")
    """Print JSON instead of text."""


class MemberSettings(AdminSettings):
    member_id: CliPositionalArg[str] = Field(max_length=MAX_NAME)
    """Id of a verifier, drafter or trainer; 'paceline-router status' has them."""
    role: str = Field(default="", pattern="^(verifier|drafter|trainer)?$")
    """verifier, drafter or trainer; needed only if several have this id."""


class DrainSettings(MemberSettings):
    """Has a verifier or drafter finish what it does and get nothing new, however often it announces itself."""


class UndrainSettings(MemberSettings):
    """Lets a drained member have requests again."""


class WithdrawSettings(MemberSettings):
    """Ends a member's lease and refuses its announcements; requests that run at it go on."""

    undo: bool = False
    """Let it announce itself again."""


class PolicySettings(AdminSettings):
    """Has a running router choose drafters by another policy; what was learnt is kept."""

    policy: CliPositionalArg[str] = Field(max_length=MAX_NAME)
    """linucb, ucb, thompson, epsilon, exp3, hedge or fixed."""


class TenantsSettings(AdminSettings):
    """Shows what each tenant of the token file may use, and uses."""


class StatusSettings(ClientSettings):
    """Asks a router who is registered and what it has learnt."""

    router: str = "127.0.0.1:7700"
    """host:port of the router."""
    as_json: bool = Field(default=False, validation_alias="json")
    """Print JSON instead of tables."""
