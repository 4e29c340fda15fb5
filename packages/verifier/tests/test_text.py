"""The answer's text: a pure function of its tokens, cut before the first stop string."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_models import EOS, VOCAB, make_tokenizer

from paceline.verifier.model.batch import SessionResult
from paceline.verifier.request import Request
from paceline.verifier.sampling import Sampling
from paceline.verifier.session import Finish, FinishedEvent, Session, TokensEvent
from paceline.verifier.text import MAX_WINDOW, TextStream

TOKENIZER = make_tokenizer()
PROMPT = TOKENIZER("to be or")["input_ids"]

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
token_lists = st.lists(st.integers(0, VOCAB - 1), max_size=40)


def encode(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text)["input_ids"]
    return ids


def decode(tokens: list[int]) -> str:
    return TOKENIZER.decode(tokens, skip_special_tokens=True)


def stream(stop: tuple[str, ...] = ()) -> TextStream:
    return TextStream(TOKENIZER, PROMPT, stop)


def emitted(tokens: list[int], stop: tuple[str, ...] = ()) -> tuple[str, str | None]:
    """The whole text of these tokens and what stopped it."""
    text = stream(stop)
    return "".join([*(text.push(token) for token in tokens), text.finish()]), text.stopped_by


@given(texts)
@example("🧑‍🚀 flies to 🪐, naïvely; ünïcödé 漢字 \x00\t\n")
@example("\ufffd" * 5 + "🚀")  # five characters that look incomplete, and a sixth that is
@example("\ufffd" * 20)
@example("  two spaces, and more   ")
def test_deltas_add_up_to_the_text(text):
    assert emitted(encode(text)) == (text, None)


@given(token_lists)
def test_deltas_of_any_tokens_add_up_to_what_the_tokenizer_decodes(tokens):
    assert emitted(tokens)[0] == decode(PROMPT + tokens)[len(decode(PROMPT)) :]


@given(texts)
def test_only_whole_characters_come_out(text):
    answer = stream()
    seen = ""
    for token in encode(text.replace("\ufffd", "?")):
        seen += answer.push(token)
        assert "\ufffd" not in seen
        assert text.replace("\ufffd", "?").startswith(seen)


def test_what_never_becomes_a_character_is_held_for_a_while_only():
    lead = encode("é")[0]
    answer = stream()
    deltas = [answer.push(lead) for _ in range(2 * MAX_WINDOW)]
    assert "".join(deltas) != ""
    assert all(delta == "" for delta in deltas[: MAX_WINDOW - 1])


def cut(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """By definition, when every token is one character: the stop that is complete first ends the text."""
    for end in range(len(text) + 1):
        ends = [stop for stop in stops if text[:end].endswith(stop)]
        if ends:
            longest = max(ends, key=len)
            return text[: end - len(longest)], longest
    return text, None


stops_lists = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3, unique=True).map(tuple)


@given(st.text("abc", max_size=20), stops_lists)
def test_stops_before_the_first_stop_string_wherever_tokens_end(text, stops):
    letters = [token for letter in text for token in encode(letter)]
    assert len(letters) == len(text)
    assert emitted(letters, stops) == cut(text, stops)


@given(st.text("abc ", max_size=20), stops_lists)
def test_no_text_contains_a_stop_string_nor_gives_out_the_beginning_of_one(text, stops):
    answer = stream(stops)
    seen = ""
    for token in encode(text):
        seen += answer.push(token)
        assert not any(stop in seen for stop in stops)
    assert text.startswith(seen + answer.finish())
    if not any(stop in text for stop in stops):
        assert emitted(encode(text), stops) == (text, None)


def test_of_two_stop_strings_in_one_token_the_earlier_wins():
    # " the" and the like are single tokens of this tokenizer
    token = next(token for token in range(VOCAB) if decode([token]) == " the")
    assert emitted([token], ("e", "h")) == (" t", "h")
    assert emitted([token], ("he", "the")) == (" ", "the")


def test_a_stop_string_may_lie_across_tokens_and_characters():
    tokens = encode("wait🧑‍🚀now")
    assert emitted(tokens, ("🚀n",)) == ("wait🧑\u200d", "🚀n")


def test_held_back_text_comes_at_the_end():
    answer = stream(("END.",))
    assert "".join(answer.push(token) for token in encode("the EN")) == "the "
    assert answer.finish() == "EN"
    assert answer.finish() == ""


@given(token_lists, st.integers(0, 40), stops_lists)
def test_replaying_a_beginning_gives_the_same_rest(tokens, at, stops):
    one = stream(stops)
    deltas = [one.push(token) for token in tokens]
    other = stream(stops)
    for token in tokens[:at]:
        other.push(token)
    assert [other.push(token) for token in tokens[at:]] == deltas[at:]
    assert (other.finish(), other.stopped_by) == (one.finish(), one.stopped_by)


def answer(tokens: list[int], groups: list[int], committed: int = 0, **limits) -> tuple[list[int], str, FinishedEvent]:
    """What a session emits when steps commit these tokens in groups of these sizes."""
    request = Request("r", tuple(PROMPT), Sampling(), committed=tuple(tokens[:committed]), **limits)
    session = Session(1, request, TextStream(TOKENIZER, PROMPT, request.stop), frozenset({EOS}), 64)
    left, sizes = tokens[committed:], iter(groups)
    while session.finish is None and left:
        size = next(sizes, 1)
        session.commit(SessionResult(tuple(left[:size]), ()), ())
        session.settle()
        session.release_events()
        left = left[size:]
    if committed and session.events.empty():
        session.emit_finished()
    ids: list[int] = []
    text = ""
    while not session.events.empty():
        event = session.events.get_nowait()
        if isinstance(event, TokensEvent):
            ids += event.ids
            text += event.text
    assert isinstance(event, FinishedEvent)
    return ids, text, event


@given(token_lists.map(lambda tokens: [*tokens, EOS]), st.lists(st.integers(1, 9), max_size=10), stops_lists)
def test_steps_of_any_size_emit_the_same_tokens_text_and_reason(tokens, groups, stops):
    ids, text, finished = answer(tokens, groups, max_tokens=30, stop=stops)
    ids_1, text_1, finished_1 = answer(tokens, [], max_tokens=30, stop=stops)
    assert (ids, text) == (ids_1, text_1)
    assert (finished.reason, finished.stop_string) == (finished_1.reason, finished_1.stop_string)
    assert finished.total.tokens == len(ids)


@given(st.lists(st.integers(0, VOCAB - 1).filter(lambda token: token != EOS), max_size=20), stops_lists, st.data())
def test_a_session_that_takes_over_emits_what_is_missing(tokens, stops, data):
    tokens = [*tokens, EOS]
    max_tokens = data.draw(st.integers(1, 25))
    ids, text, finished = answer(tokens, [], max_tokens=max_tokens, stop=stops)
    at = data.draw(st.integers(0, len(ids)))
    request = Request("r", tuple(PROMPT), Sampling(), max_tokens=max_tokens, stop=stops)
    before = Session(1, request, TextStream(TOKENIZER, PROMPT, stops), frozenset({EOS}), 64)
    head = ""
    for token in ids[:at]:
        before.commit(SessionResult((token,), ()), ())
        before.settle()
        before.release_events()
        head += before.events.get_nowait().text
    rest_ids, rest, again = answer(tokens, [], committed=at, max_tokens=max_tokens, stop=stops)
    assert (ids[:at] + rest_ids, head + rest) == (ids, text)
    assert (again.reason, again.stop_string) == (finished.reason, finished.stop_string)


@pytest.mark.parametrize(("ignore_eos", "reason"), [(False, Finish.STOP), (True, Finish.LENGTH)])
def test_an_end_of_sequence_token_ends_the_answer_unless_it_is_ignored(ignore_eos, reason):
    _, _, finished = answer([9, EOS, 9, 9], [], max_tokens=4, ignore_eos=ignore_eos)
    assert finished.reason is reason
    # A stop string that comes to light only when nothing can follow any more is a stop string all the same.
    _, text, finished = answer([*encode("a"), encode("漢")[0]], [2], max_tokens=2, stop=("\ufffd",))
    assert (text, finished.reason, finished.stop_string) == ("a", Finish.STOP, "\ufffd")
    # At the very last token it is still the token that ended it.
    _, _, finished = answer([9, 9, 9, EOS], [4], committed=4, max_tokens=4)
    assert finished.reason is Finish.STOP
