"""The protocol's types: each letter and number of the scripts has a name, and outcomes are plain data."""

from __future__ import annotations

import marshal
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import Connection, Encoder

from jobqueue.protocol import lua
from jobqueue.protocol.claims import Claimed, Features, Token, features_of
from jobqueue.protocol.cycle import STATES, CycleRequest, CycleState, Spent, parse_cycle
from jobqueue.protocol.outcomes import ACKS, RAISED, RETURNED, Ack, JobOutcome
from jobqueue.protocol.rescue import Verdict


def test_each_letter_of_cycle_has_a_name() -> None:
    letters = set(re.findall(r"features \.\. '(\w)'", lua.source("cycle")))
    assert letters == set("msfaxr")
    found = [features_of(letter.encode()) for letter in sorted(letters)]
    assert all(sum(features[:-1]) == 1 for features in found)  # the last is the attempt
    assert len(set(found)) == len(Features._fields) - 1


@pytest.mark.parametrize(
    ("letters", "features"),
    [
        (b"", Features()),
        (b"m", Features(marked_first=True)),
        (b"s", Features(success_by_rq=True)),
        (b"f", Features(failure_by_rq=True)),
        (b"a", Features(alone=True)),
        (b"x", Features(fails_at_crash=True)),
        (b"r", Features(repeats_at_crash=True)),
        (b"msfax", Features(True, True, True, True, True, False)),
        (b"3", Features(attempt=3)),
        (b"mf12", Features(marked_first=True, failure_by_rq=True, attempt=12)),
    ],
)
def test_letters_of_cycle_become_features(letters: bytes, features: Features) -> None:
    assert features_of(letters) == features
    assert features_of(letters) is features_of(letters)  # made once


def test_an_unknown_letter_is_an_error() -> None:
    with pytest.raises(ValueError, match="b'q'"):
        features_of(b"mq")


def test_each_state_of_cycle_has_a_name() -> None:
    text = lua.source("cycle")
    assert all(f"'{state}'" in text for state in CycleState)
    assert {state: name.decode() for name, state in STATES.items()} == {state: state.value for state in CycleState}


def test_acks_are_in_the_order_of_their_numbers() -> None:
    assert [int(ack) for ack in ACKS] == list(range(len(Ack)))


def test_a_reply_is_parsed_into_types() -> None:
    job = [b"id", b"7", b"q", b"data", b"", b"", b"", b"", b"ms", b"2026-07-01T00:00:00.500000Z"]
    cycle = parse_cycle([b"claimed", [1, 0, 3, 2], job])
    assert cycle.state is CycleState.CLAIMED
    assert cycle.acks == [Ack.RECORDED, Ack.LOST, Ack.HAS_DEPENDENTS, Ack.GONE]
    assert all(isinstance(ack, Ack) for ack in cycle.acks)
    features = Features(marked_first=True, success_by_rq=True)
    claimed = Claimed("id", 7, "q", b"data", None, None, None, 0, features, 1782864000.5)
    assert cycle.jobs == [claimed]
    assert claimed.token("w:0.1") == Token("w:0.1", "id", 7, "q")


@pytest.mark.parametrize(
    ("stamp", "ready_at"),
    [
        ("2026-07-01T00:00:00.000000Z", 1782864000.0),
        ("2026-07-01T00:00:00Z", 1782864000.0),
        ("2026-07-01T02:00:00.25+02:00", 1782864000.25),
        ("2026-07-01T00:00:00", 1782864000.0),
        ("", 0.0),
        ("soon", 0.0),
        ("\xff", 0.0),
        ("9999-99-99T00:00:00Z", 0.0),
    ],
)
def test_the_time_at_which_a_job_came_to_its_queue(stamp: str, ready_at: float) -> None:
    job = [b"id", b"7", b"q", b"data", b"", b"", b"", b"", b"", stamp.encode("latin-1")]
    assert parse_cycle([b"claimed", [], job]).jobs[0].ready_at == ready_at


@pytest.mark.parametrize("verdict", Verdict)
def test_rescue_knows_each_verdict(verdict: Verdict) -> None:
    if verdict not in (Verdict.INTERRUPT, Verdict.RETURNED):  # the other verdicts; those of RQ's finish come by cycle
        assert f"'{verdict}'" in lua.source("rescue")
    assert Encoder("utf-8", "strict", False).encode(verdict) == verdict.value.encode()


def test_an_outcome_is_the_same_after_marshal() -> None:
    outcome = JobOutcome("id", 7, "q", RETURNED, 500, b"", "a", "b", 1.0, 2.0, Verdict.STOP.value)
    assert JobOutcome(*marshal.loads(marshal.dumps(tuple(outcome)))) == outcome


TEXTS = st.text(max_size=40)
OUTCOMES = st.builds(
    JobOutcome,
    id=TEXTS,
    claim=st.integers(1, 2**53),
    queue=TEXTS,
    kind=st.sampled_from([RETURNED, RAISED]),
    ttl=st.integers(-1, 10**10),
    payload=st.binary(max_size=300),
    started_at=st.just("2026-01-31T12:00:00.000001Z"),
    ended_at=st.just("2026-01-31T12:00:00.000002Z"),
    started=st.floats(0, 1e10),
    ended=st.floats(0, 1e10),
)


@given(st.lists(TEXTS, min_size=1, max_size=3), st.lists(OUTCOMES, max_size=4), st.integers(0, 300))
def test_a_request_that_is_packed_by_hand_is_what_redis_py_would_send(
    queues: list[str], outcomes: list[JobOutcome], want: int
) -> None:
    request = CycleRequest("w:0.1", "w", queues, outcomes, want, 1, [Spent("task", 1, None, ("runs", 3, "wall_us", 7))])
    count, packed = request.packed()
    assert count == len(request.args())
    command = b"*%d\r\n$7\r\nEVALSHA\r\n$1\r\nx\r\n%b" % (count + 2, packed)
    assert command == b"".join(Connection().pack_command("EVALSHA", "x", *request.args()))


def test_a_name_that_is_no_utf_8_is_sent_as_it_stands_in_the_store() -> None:
    request = CycleRequest("w:0.1", "w", ["q\udcff"], [], 1, 1)
    assert b"\r\nq\xff\r\n" in request.packed()[1]
