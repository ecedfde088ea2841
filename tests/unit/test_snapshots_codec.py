"""Snapshots: a cache that is read exactly or not at all (invariants 5 and 7)."""

import msgspec
import pytest

from holdfast.codecs.snapshots import decode_run, encode_run
from holdfast.core.entries import (
    DELETED,
    Arrival,
    Child,
    Entry,
    Failure,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Paused,
    Reported,
    RetryScheduled,
    RunBlocked,
    RunCancelled,
    RunFailed,
    RunReopened,
    RunStarted,
    ScopesClosed,
    SignalReceived,
    StepCompleted,
    StepSuspended,
    Taken,
    Unpaused,
    Wait,
)
from holdfast.core.evolve import evolve, replay
from holdfast.core.owed import owed
from holdfast.core.run import Run

INPUT = b'json.1:"input"'


def example() -> Run:
    arrivals = (Arrival("left", "l", 1, "task", "main"), Arrival("main-2", "join", 1, "join", "main"))
    started = RunStarted("w", "52c07e784e31bb37", INPUT, arrivals)
    completed = StepCompleted("left", "l", 1, 1, INPUT, (Arrival("left", "m", 1),), {"v": b"json.1:1"})
    retried = RetryScheduled("left", "m", 1, 2, 500, "all", Failure("E", "no", ("E",)))
    return replay("r", [(started, 1_000), (completed, 2_000), (retried, 3_000)])


def waiting() -> list[tuple[Entry, int]]:
    """Two branches that wait for one signal, the second for longer; one that sleeps; one in backoff."""
    arrivals = (
        Arrival("x", "walk", 1, "task", "main"),
        Arrival("y", "s", 1, "wait_signal", "main", Wait("s", 9_000)),
        Arrival("z", "nap", 1, "sleep", "main", Wait("", 60_000)),
        Arrival("dawn", "dawn", 1, "sleep", "main", Wait("", None, 99_000)),
        Arrival("w", "work", 1, "task", "main"),
    )
    at_signal = (Arrival("x", "s", 1, "wait_signal", None, Wait("s")),)
    return [
        (RunStarted("w", "52c07e784e31bb37", INPUT, arrivals, 500_000), 1_000),
        (StepCompleted("x", "walk", 1, 1, INPUT, at_signal), 2_000),
        (RetryScheduled("w", "work", 1, 2, 5_000, "all", Failure("E", "no")), 3_000),
    ]


def asking() -> list[tuple[Entry, int]]:
    """A body that has asked for one operation of each kind, in each status; it was put away."""
    at, failure = ("main", "work", 1), Failure("E", "no")
    wait = Wait("s", 9_000)
    return [
        (RunStarted("w", "52c07e784e31bb37", INPUT, (Arrival("main", "work", 1),)), 1_000),
        (OperationCompleted(*at, "v#1", "value", b"json.1:2", 0, {"x": b"json.1:1"}), 2_000),
        (OperationFailed(*at, "f#1", "step", failure, 0, {"x": DELETED}), 3_000),
        (OperationBegun(*at, "nap#1", "sleep", Wait("", 60_000)), 3_000),
        (OperationBegun(*at, "dawn#1", "sleep", Wait("", None, 99_000)), 3_000),
        (OperationBegun(*at, "g#1/0/w#1", "wait_signal", wait), 4_000),
        (OperationBegun(*at, "g#1/1/w#1", "wait_signal", wait), 3_500),
        (OperationBegun(*at, "c#1", "child", None, Child("run-c", "c")), 4_000),
        (OperationRetried(*at, "s#1", 2, 5_000, "all", failure), 4_000),
        (Reported(*at, "s#1", "heartbeat", b"json.1:3"), 4_000),
        (Reported(*at, "", "heartbeat", b"json.1:4"), 4_000),
        (Reported(*at, "", "progress", b"json.1:5"), 4_000),
        (ScopesClosed(*at, "g#2", (0, 2)), 4_000),
        (
            OperationCompleted(*at, "r#1/0/w#1", "wait_signal", INPUT, 3, taken=Taken(3, "msg-3", 3_900)),
            4_000,
        ),
        (StepSuspended(*at), 4_000),
    ]


ASKED_FAILED: tuple[Entry, int] = (RunFailed("main", "work", 1, 1, Failure("E", "no"), "f#1"), 6_000)
PAUSED: list[tuple[Entry, int]] = [
    (Paused("z", "hold", "me", freezes=False), 4_000),
    (Paused("", "all of it", "you"), 5_000),
]
FAILED: tuple[Entry, int] = (RunFailed("x", "s", 1, 1, Failure("timeout", "late")), 6_000)
SIGNALLED = OperationCompleted("main", "work", 1, "g#1/0/w#1", "wait_signal", INPUT, 7)
BLOCKED = RunBlocked("main", "work", 1, "definition_changed", "expected another")
CANCELLED: tuple[Entry, int] = (RunCancelled("not wanted", "me"), 6_000)
STORIES: dict[str, tuple[list[tuple[Entry, int]], list[tuple[Entry, int]]]] = {
    "waiting": (waiting(), [(SignalReceived("y", "s", 1, 1, INPUT, ()), 7_000)]),
    "paused": ([*waiting(), *PAUSED], [(Unpaused("", "me"), 7_000)]),
    "a branch paused": ([*waiting(), PAUSED[0]], [(Unpaused("z", "me"), 7_000)]),
    "failed": ([*waiting(), FAILED], [(RunReopened("me"), 7_000)]),
    "failed under a pause": ([*waiting(), *PAUSED, FAILED], [(RunReopened("me"), 7_000)]),
    "reopened": ([*waiting(), FAILED, (RunReopened("me"), 7_000)], [CANCELLED]),
    "cancelled": ([*waiting(), CANCELLED], []),
    "asking": (asking(), [(SIGNALLED, 7_000)]),
    "asking under a pause": ([*asking(), PAUSED[1]], [(Unpaused("", "me"), 7_000), (SIGNALLED, 8_000)]),
    "asking, and failed": ([*asking(), ASKED_FAILED], [(RunReopened("me"), 7_000)]),
    "asking, and blocked": ([*asking(), (BLOCKED, 6_000)], [(SIGNALLED, 7_000)]),
}


@pytest.mark.parametrize("name", STORIES)
def test_whatever_a_run_waits_for_comes_back(name: str) -> None:
    """Invariants 5 and 27: also what is left on a clock that stands still, and what comes next is the same."""
    before, after = STORIES[name]
    run = replay("r", before)
    again = decode_run("r", encode_run(run))
    assert again is not None
    assert owed(again) == owed(run)
    assert (again.waits, list(again.waits)) == (run.waits, list(run.waits))
    for entry, at_ms in after:
        evolve(run, entry, at_ms)
        evolve(again, entry, at_ms)
    for each in type(run).__slots__:
        if each != "branches":
            assert getattr(again, each) == getattr(run, each)
    for branch in run.branches.values():
        same = again.branches[branch.id]
        for each in type(branch).__slots__:
            if each != "operations":
                assert getattr(same, each) == getattr(branch, each)
        assert list(same.operations) == list(branch.operations)
        for key, operation in branch.operations.items():
            for each in type(operation).__slots__:
                assert getattr(same.operations[key], each) == getattr(operation, each)


def test_who_waits_for_a_signal_longest_still_does() -> None:
    """Row 28."""
    run = replay("r", waiting())
    again = decode_run("r", encode_run(run))
    assert again is not None
    assert list(again.waits) == list(run.waits) == ["y", "x"]


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
    run = replay("r", asking())
    again = decode_run("r", encode_run(run))
    assert again is not None
    evolve(again, SIGNALLED, 5_000)
    assert run.branches["main"].operations["g#1/0/w#1"].status == "waiting"


def test_each_payload_stands_once() -> None:
    assert encode_run(example()).count(INPUT) == 1
    told = [*asking(), (SIGNALLED, 5_000)]
    assert encode_run(replay("r", told)).count(INPUT) == 1, "also where an operation gave it"


def test_a_snapshot_of_another_version_is_none() -> None:
    """Invariant 5: an older one is passed over as well, for its layout is another."""
    other = parts(example())
    assert other[0] == 3
    for version in (1, 2, 4):
        assert decode_run("r", msgspec.msgpack.encode([version, *other[1:]])) is None


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
