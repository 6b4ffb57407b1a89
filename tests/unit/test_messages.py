"""The messages between a worker's processes: each is read as it was sent, wherever it is cut; anything else is
refused."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from jobqueue.protocol.claims import Token
from jobqueue.protocol.rescue import ForRQ, Verdict
from jobqueue.workers.shared import messages
from jobqueue.workers.shared.messages import (
    CannotBegin,
    Died,
    Dropped,
    ForkChild,
    Forked,
    ForkFinish,
    ForkMaintenance,
    FromChild,
    FromForkServer,
    ImportBegun,
    ImportFailed,
    Interrupt,
    MessageReader,
    NotAMessage,
    OutOfWork,
    Ping,
    PluginBegun,
    Pong,
    Quiet,
    Ready,
    Retire,
    StopJob,
    ToChild,
    ToForkServer,
    Unborn,
    Wake,
    decode,
    encode,
)

ODD = 'a "name"\nof two lines, é, \udcff'  # ids and names in the store may be any bytes
TOKENS = (Token("w:1.2", "job", 7, "default"), Token("w:1.2", ODD, 2**53, ODD))
LEFT = (ForRQ("job", 7, "default", Verdict.FAIL, b"eJwDAAAAAAE="), ForRQ(ODD, 8, ODD, Verdict.STOP, b""))

SAMPLES: dict[Any, list[Any]] = {
    ToChild: [Wake(), Quiet(), Interrupt(), StopJob(17), Ping()],
    FromChild: [OutOfWork(), Retire(), Dropped(TOKENS), Dropped(()), CannotBegin(ODD), PluginBegun(ODD)],
    ToForkServer: [
        ForkChild("w:1.2", 1),
        ForkFinish("w:1.2", ODD, LEFT, (7, 8), 3),
        ForkFinish("w:1.2", "w", (), (), 0),
        ForkMaintenance(False),
        ForkMaintenance(True),
        Ping(),
    ],
    FromForkServer: [
        *(ImportBegun(ODD), Ready(""), Ready("starts a thread"), Ready("", (ODD, "a:B"), True), ImportFailed("x")),
        *(Forked("w:1.2", 77), Unborn("w:1.2", "no memory"), Died(77, 9), Pong()),
    ],
}
EACH = [(direction, message) for direction, some in SAMPLES.items() for message in some]


def test_every_message_has_a_sample() -> None:
    assert {direction: {type(it) for it in some} for direction, some in SAMPLES.items()} == {
        direction: set(get_args(direction)) for direction in SAMPLES
    }


@pytest.mark.parametrize(("direction", "message"), EACH)
def test_each_message_is_read_as_it_was_sent(direction: Any, message: Any) -> None:
    line = encode(message)
    assert line.index(b"\n") == len(line) - 1
    heard = decode(line[:-1], direction)
    assert (type(heard), heard) == (type(message), message)


@pytest.mark.parametrize(("direction", "message"), EACH)
def test_each_message_may_arrive_in_two_parts(direction: Any, message: Any) -> None:
    """A message is read although it is cut at any place, with a message before it and one after it."""
    line = encode(message)
    for at in range(len(line) + 1):
        reader: MessageReader[Any] = MessageReader(direction)
        heard = reader.read(line + line[:at]) + reader.read(line[at:] + line)
        assert heard == [message] * 3
        assert [type(it) for it in heard] == [type(message)] * 3


def test_tokens_and_jobs_keep_their_types() -> None:
    (dropped,) = MessageReader[Dropped](FromChild).read(encode(Dropped(TOKENS)))
    assert [type(token) for token in dropped.tokens] == [Token, Token]
    (finish,) = MessageReader[ForkFinish](ToForkServer).read(encode(ForkFinish("o", "w", LEFT, (), 0)))
    assert [(type(job), type(job.cause)) for job in finish.jobs] == [(ForRQ, bytes)] * 2


@pytest.mark.parametrize("direction", SAMPLES)
def test_no_message_of_another_direction_is_taken(direction: Any) -> None:
    for other, message in EACH:
        if other is not direction and type(message) is not Ping:
            with pytest.raises(NotAMessage):
                decode(encode(message)[:-1], direction)


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b" ", b"h", b"StopJob", b"StopJob ", b"StopJob x", b"StopJob 17", b"StopJob []", b'StopJob ["17"]'),
        *(b"StopJob [1, 2]", b"StopJob [true]", b"StopJob [1.0]", b'StopJob {"claim": 1}', b"stopjob [1]", b"\xff\xfe"),
        *(b'Dropped ["abcd"]', b'Dropped [[["w", "id", 1]]]', b'Dropped [[["w", "id", "1", "q"]]]', b"Dropped [[1]]"),
        *(b"Dropped [null]", b'Dropped [{"a": 1}]', b"Wake [1]", b"Dropped " + b"[" * 100_000),
    ],
)
@pytest.mark.parametrize("direction", [ToChild, FromChild])
def test_anything_else_is_refused(direction: Any, line: bytes) -> None:
    with pytest.raises(NotAMessage):
        decode(line, direction)


def test_a_reader_may_skip_invalid_lines() -> None:
    reader: MessageReader[Any] = MessageReader(ToChild, skips_others=True)
    assert reader.read(b"Wake\nnonsense\n\nPing\nQui") + reader.read(b"et\n") == [Wake(), Ping(), Quiet()]


def test_no_other_module_spells_a_message() -> None:
    """Only messages.py encodes and parses the data on these sockets: no other module that holds one writes bytes."""
    root = Path(messages.__file__).parents[1]
    spelled = [
        f"{path.name}:{node.lineno}"
        for path in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("control.send", "control.sendall", ".tell", "._tell", "._say"))
        and any(
            isinstance(getattr(part, "value", None), bytes) for argument in node.args for part in ast.walk(argument)
        )
        and "settings" not in ast.unparse(node)  # the settings are sent first, as a line in another format
    ]
    assert spelled == []


def test_a_message_is_readable_text() -> None:
    assert encode(StopJob(17)) == b"StopJob [17]\n"
    assert json.loads(encode(Died(77, 9)).partition(b" ")[2]) == [77, 9]
