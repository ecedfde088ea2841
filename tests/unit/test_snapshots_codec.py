"""Snapshots: a cache that is read exactly or not at all (invariants 5 and 7)."""

import msgspec
import pytest

from holdfast.codecs.snapshots import decode_run, encode_run
from holdfast.core.entries import Arrival, Failure, RetryScheduled, RunStarted, StepCompleted
from holdfast.core.run import Run, evolve, owed, replay

INPUT = b'json.1:"input"'


def example() -> Run:
    arrivals = (Arrival("left", "l", 1, "task", "main"), Arrival("main-2", "join", 1, "join", "main"))
    started = RunStarted("w", "52c07e784e31bb37", INPUT, arrivals)
    completed = StepCompleted("left", "l", 1, 1, INPUT, (Arrival("left", "m", 1),), {"v": b"json.1:1"})
    retried = RetryScheduled("left", "m", 1, 2, 500, "all", Failure("E", "no", ("E",)))
    return replay("r", [(started, 1_000), (completed, 2_000), (retried, 3_000)])


def parts(run: Run) -> list[object]:
    return msgspec.msgpack.decode(encode_run(run), type=list[object])


def test_a_run_comes_back_as_it_was() -> None:
    """Invariant 5; the property of all runs holds every snapshot of every run to this."""
    run = example()
    again = decode_run("r", encode_run(run))
    assert again is not None
    assert owed(again) == owed(run) != []
    assert (again.id, again.status, again.position, again.due_at_ms) == ("r", "suspended", 3, 3_500)
    assert encode_run(again) == encode_run(run)


def test_who_came_to_a_join_first_is_still_the_first() -> None:
    """Invariant 5: the order decides which join goes on first, and so what is recorded next."""
    run = example()
    evolve(run, StepCompleted("left", "m", 1, 2, INPUT, (Arrival("left", "other", 1, "join"),)), 4_000)
    again = decode_run("r", encode_run(run))
    assert again is not None
    assert list(run.joining) == ["main-2", "left"]
    assert list(again.joining) == list(run.joining)


def test_a_run_of_which_nothing_is_recorded_comes_back_too() -> None:
    again = decode_run("r", encode_run(Run("r")))
    assert again is not None
    assert (again.position, again.branches, again.open) == (0, {}, 0)


def test_what_comes_back_shares_nothing_with_what_was() -> None:
    run = example()
    again = decode_run("r", encode_run(run))
    assert again is not None
    evolve(again, StepCompleted("left", "m", 1, 2, b"json.1:2", (), {"v": b"json.1:2"}), 4_000)
    assert run.branches["left"].variables == {"v": b"json.1:1"}


def test_each_payload_stands_once() -> None:
    assert encode_run(example()).count(INPUT) == 1


def test_a_snapshot_of_another_version_is_none() -> None:
    newer = parts(example())
    newer[0] = 2
    assert decode_run("r", msgspec.msgpack.encode(newer)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode([*parts(example()), None]),
        encode_run(example())[:-1],
        encode_run(example()) + b"\0",
    ],
    ids=range(8),
)
def test_a_damaged_snapshot_is_none(data: bytes) -> None:
    """Invariant 7: the journal is the truth."""
    assert decode_run("r", data) is None


def test_a_snapshot_that_points_beyond_its_payloads_is_none() -> None:
    damaged = parts(example())
    damaged[4] = 99
    assert decode_run("r", msgspec.msgpack.encode(damaged)) is None


def test_a_snapshot_of_text_that_is_no_utf8_is_none() -> None:
    damaged = encode_run(example()).replace(b"52c07e784e31bb37", b"\xff" * 16)
    assert decode_run("r", damaged) is None
