"""Tokens by digest, and the file they are in."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_files import ALICE, BOB, OLD, entry, tenants

from paceline.router.access.quota import Limits
from paceline.router.access.rights import AccessRole
from paceline.router.access.table import Entry, TokenTable, check_roles, digest_of
from paceline.router.access.token_file import TokenFileError, parse_table, read_content, table_in
from paceline.wire.errors import PacelineError, Reason

SECRET = b"s" * 32
NOW_S = 1_700_000_000.0
DIGEST = digest_of(ALICE).hex()


def read_table(path: Path) -> TokenTable:
    return table_in(read_content(path), path, SECRET)


def table_of(found: object) -> TokenTable:
    return parse_table(json.dumps({"tenants": found}), SECRET)


def refusal_of(table: TokenTable, token: str | None, now_s: float = NOW_S) -> PacelineError:
    with pytest.raises(PacelineError) as refused:
        table.find(token, now_s)
    assert refused.value.reason is Reason.UNAUTHENTICATED
    return refused.value


def test_a_token_is_found_with_its_tenant_and_roles() -> None:
    table = table_of(tenants(max_tokens=5))
    found = table.find(ALICE, NOW_S)
    assert (found.tenant, found.roles) == ("alice", {AccessRole.CLIENT})
    assert table.limits["alice"] == Limits(max_tokens=5)
    assert table.limits["bob"] == Limits()


def test_what_is_not_a_token_of_the_file_is_refused_without_being_repeated() -> None:
    table = table_of(tenants())
    assert "a token is needed" in refusal_of(table, None).message
    for wrong in ("", "x", ALICE[:-1], f"{ALICE} ", ALICE.upper(), DIGEST, "ü" * 1000, "z" * 2000, "\udcff"):
        message = refusal_of(table, wrong).message
        assert "not known" in message
        assert not wrong or wrong == "x" or wrong not in message


def test_one_that_has_expired_says_since_when() -> None:
    table = table_of(tenants())
    assert "tenant 'bob' expired at 2020-02-02T02:02:02+00:00" in refusal_of(table, OLD).message
    expires_s = table.find(OLD, 0.0).expires_s
    assert expires_s is not None
    table.find(OLD, expires_s - 0.001)
    refusal_of(table, OLD, expires_s)
    valid, expired = table.counts(NOW_S)
    assert (valid["bob"], expired["bob"], valid["alice"], expired["alice"]) == (1, 1, 1, 0)


def test_a_role_that_a_token_is_not_for() -> None:
    found = Entry(b"", "acme", frozenset({AccessRole.CLIENT}))
    check_roles(found, frozenset({AccessRole.CLIENT, AccessRole.ADMIN}), "this")
    with pytest.raises(PacelineError, match="is for client; this needs one for admin or member") as refused:
        check_roles(found, frozenset({AccessRole.MEMBER, AccessRole.ADMIN}), "this")
    assert refused.value.reason is Reason.PERMISSION_DENIED
    with pytest.raises(PacelineError, match="this is for nobody"):
        check_roles(found, frozenset(), "this")


@given(
    st.dictionaries(st.text(min_size=1, max_size=50), st.text("abc", min_size=1, max_size=3), max_size=20), st.text()
)
def test_exactly_the_tokens_of_the_file_are_good(owners: dict[str, str], other: str) -> None:
    owners = {token.encode(errors="replace").decode(): owner for token, owner in owners.items()}
    found = {
        owner: {"tokens": [entry(token) for token, whose in owners.items() if whose == owner]}
        for owner in owners.values()
    }
    table = table_of(found)
    assert len(table) == len(owners)
    for token, owner in owners.items():
        assert table.find(token, NOW_S).tenant == owner
    if other.encode(errors="replace").decode() not in owners:
        refusal_of(table, other)


YAML = f"""
# comments are welcome
tenants:
  acme:
    tokens:
      - sha256: {DIGEST.upper()}
        expires: 2030-01-31T12:00:00Z
        note: the web site's
      - sha256: "{digest_of(BOB).hex()}"
        roles: [member, admin]
    limits: {{requests_at_once: 4}}
  empty: {{}}
"""


def test_yaml_as_people_write_it() -> None:
    table = parse_table(YAML, SECRET)
    assert table.find(ALICE, NOW_S).expires_s == 1896091200.0
    assert table.find(BOB, NOW_S).roles == {AccessRole.MEMBER, AccessRole.ADMIN}
    assert table.limits == {"acme": Limits(requests_at_once=4), "empty": Limits()}


BAD = {
    "nothing": ("", "the file"),
    "a list": ("[]", "the file"),
    "no tenants": ("{}", "tenants: Field required"),
    "unknown key": ("tenants: {}\nusers: {}", "users: Extra inputs"),
    "the token itself": (f"tenants: {{a: {{tokens: [{{sha256: {ALICE}}}]}}}}", r"a\.tokens\.0\.sha256: must be 64 hex"),
    "a token's own field": (f"tenants: {{a: {{tokens: [{{token: {ALICE}}}]}}}}", r"a\.tokens\.0\."),
    "a short digest": (f"tenants: {{a: {{tokens: [{{sha256: {DIGEST[:-1]}}}]}}}}", "64 hexadecimal digits"),
    "no roles": (f"tenants: {{a: {{tokens: [{{sha256: {DIGEST}, roles: []}}]}}}}", r"a\.tokens\.0\.roles"),
    "a role that is none": (f"tenants: {{a: {{tokens: [{{sha256: {DIGEST}, roles: [root]}}]}}}}", r"roles\.0"),
    "no zone": (f"tenants: {{a: {{tokens: [{{sha256: {DIGEST}, expires: 2030-01-01T00:00:00}}]}}}}", "with its zone"),
    "a day": (f"tenants: {{a: {{tokens: [{{sha256: {DIGEST}, expires: 2030-01-01}}]}}}}", "with its zone"),
    "a name with a slash": ("tenants: {a/b: {}}", "a tenant's name has"),
    "an empty name": ("tenants: {'': {}}", "a tenant's name has"),
    "a long name": (f"tenants: {{{'a' * 65}: {{}}}}", "a tenant's name has"),
    "a limit of nothing": ("tenants: {a: {limits: {max_tokens: 0}}}", r"a\.limits\.max_tokens: .*greater than"),
    "an unknown limit": ("tenants: {a: {limits: {tokens: 1}}}", r"a\.limits\.tokens"),
    "a tenant twice": ("tenants:\n  a: {}\n  a: {}", "a is there twice"),
    "a digest twice": (
        json.dumps({"tenants": {"a": {"tokens": [entry(ALICE)]}, "b": {"tokens": [entry(ALICE)]}}}),
        r"tenants\.b\.tokens\.0\.sha256 is that of tenants\.a\.tokens\.0",
    ),
    "no YAML": (f"tenants: [\n  {ALICE}: }}", "no YAML: .* in line 2"),
    "an alias": ("a: &x [1]\ntenants: *x", "aliases are not taken in line 2"),
    "a tag": ("tenants: !!python/object:os.system {}", "no YAML"),
    "deep": ("[" * 5000, "no YAML"),
    "a control character": ("tenants: \x00", "no YAML"),
}


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_by_place_and_without_secrets(text: str, words: str) -> None:
    with pytest.raises(TokenFileError, match=words) as error:
        parse_table(text, SECRET)
    assert ALICE not in str(error.value)
    assert "\n" not in str(error.value)


def test_only_some_of_many_problems_are_named() -> None:
    text = json.dumps({"tenants": {f"t{number}": {"x": 1} for number in range(9)}})
    with pytest.raises(TokenFileError, match=r"t4\.x: .*; and 4 more$"):
        parse_table(text, SECRET)


def test_json_by_its_name_may_have_tabs_and_no_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"tenants": tenants()}, indent="\t"))
    assert read_table(path).find(ALICE, NOW_S).tenant == "alice"
    for text, words in (
        ('{"tenants": {"a": {}, "a": {}}}', "a is there twice"),
        ("{", r"tokens\.json: no JSON: .* line 1"),
        ("[" * 100_000, "nested too deeply"),
    ):
        path.write_text(text)
        with pytest.raises(TokenFileError, match=words):
            read_table(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    with pytest.raises(TokenFileError, match=r"tokens\.yaml can't be read: No such file"):
        read_table(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TokenFileError, match="no text in UTF-8"):
        read_table(path)
    path.write_bytes(b"#" * (8 * 1024 * 1024 + 1))
    with pytest.raises(TokenFileError, match="more than 8388608 bytes"):
        read_table(path)


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_table_or_an_error(text: str) -> None:
    for is_json in (False, True):
        with contextlib.suppress(TokenFileError):
            parse_table(text, SECRET, is_json)
