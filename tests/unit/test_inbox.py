"""The messages of a run: signals in order, control at once (rows 28, 32, 33; invariants 7, 19 to 21)."""

import msgspec
import pytest

from holdfast.codecs.entries import encode_entry, encode_outcome
from holdfast.core.children import Awaited, ChildOutcome
from holdfast.core.entries import (
    Arrival,
    Control,
    Failure,
    Paused,
    RunCancelled,
    RunReopened,
    RunStarted,
    SignalReceived,
    Unpaused,
    Wait,
)
from holdfast.core.events import ChildEnded, ControlRequested, SignalArrived
from holdfast.core.evolve import evolve
from holdfast.core.run import Run
from holdfast.errors import FormatError
from holdfast.runtime.inbox import CONTROLS, Inbox, control_of
from holdfast.stores.records import InboxRow


def waiting(*names: str) -> Run:
    """A branch for each name, which waits for that signal."""
    run = Run("r")
    arrivals = [
        Arrival(f"b{number}", name, 1, "wait_signal", "main", Wait(name)) for number, name in enumerate(names)
    ]
    evolve(run, RunStarted("w", "52c07e784e31bb37", b"json.1:1", tuple(arrivals)), 1_000)
    return run


def signal(seq: int, name: str = "go") -> InboxRow:
    return InboxRow(seq, "signal", name, f"id-{seq}", b"json.1:%d" % seq, 1_000)


def control(seq: int, kind: str, wanted: Control) -> InboxRow:
    return InboxRow(seq, kind, "", f"id-{seq}", encode_entry(wanted), 1_000)


def seqs(inbox: Inbox, run: Run) -> list[int]:
    return [event.seq for event in inbox.offer(run) if isinstance(event, SignalArrived | ControlRequested)]


PAUSE = Paused("", "look", "ops")


def test_an_empty_inbox_offers_nothing() -> None:
    inbox = Inbox("r", [], sent=0)
    assert (inbox.pending, inbox.read, inbox.offer(waiting("go"))) == (False, 0, [])


def test_what_was_sent_and_is_used_up_counts_as_read() -> None:
    """So that a run is not taken for one that has something to read."""
    assert Inbox("r", [], sent=7).read == 7
    assert Inbox("r", [signal(3)], sent=7).read == 7
    assert Inbox("r", [signal(9)], sent=7).read == 9


def test_a_signal_is_offered_where_a_branch_waits_for_it() -> None:
    inbox = Inbox("r", [signal(1), signal(2, "other")], sent=2)
    assert inbox.offer(waiting("go")) == [SignalArrived(1, "go", b"json.1:1", "id-1", 1_000)]
    assert inbox.offer(waiting("none")) == []
    assert inbox.pending


def test_as_many_signals_are_offered_as_branches_wait_the_first_ones_first() -> None:
    """Invariant 20."""
    inbox = Inbox("r", [signal(1), signal(2), signal(3)], sent=3)
    assert seqs(inbox, waiting("go", "go")) == [1, 2]
    assert seqs(inbox, waiting("go", "go", "go", "go")) == [1, 2, 3]


def test_what_is_offered_is_in_the_order_in_which_it_was_sent() -> None:
    rows = [signal(1, "b"), control(2, "pause", PAUSE), signal(3, "a"), control(4, "unpause", Unpaused("", ""))]
    inbox = Inbox("r", rows, sent=4)
    assert seqs(inbox, waiting("a", "b")) == [1, 2, 3, 4]


def test_control_is_offered_whatever_the_run_waits_for() -> None:
    inbox = Inbox("r", [control(5, "pause", PAUSE)], sent=5)
    assert inbox.offer(waiting()) == [ControlRequested(5, PAUSE)]


def test_more_is_taken_later() -> None:
    inbox = Inbox("r", [signal(1)], sent=1)
    inbox.take([signal(2), signal(4, "b")], sent=4)
    assert inbox.read == 4
    assert seqs(inbox, waiting("go", "go", "b")) == [1, 2, 4]


def test_what_was_recorded_is_used_up_and_the_rest_is_not() -> None:
    """Invariant 19: control always, since it is decided on; a signal only where a branch has received it."""
    inbox = Inbox("r", [signal(1), control(2, "pause", PAUSE), signal(3)], sent=3)
    events = inbox.offer(waiting("go", "go"))
    received = SignalReceived("b0", "go", 1, 1, b"json.1:1", ())
    assert set(inbox.consumed(events, [PAUSE, received])) == {1, 2}
    inbox.update((1, 2), ())
    assert (seqs(inbox, waiting("go", "go")), inbox.pending) == ([3], True)
    inbox.update((3,), ())
    assert (seqs(inbox, waiting("go", "go")), inbox.pending) == ([], False)


def test_what_is_given_back_is_in_its_old_place() -> None:
    """Row 75: before what was sent later, and nothing that was not read counts as read."""
    inbox = Inbox("r", [signal(n) for n in (1, 2, 3)], sent=3)
    inbox.update((1, 2), ())
    inbox.update((), (signal(2), signal(1)))
    assert (seqs(inbox, waiting("go", "go", "go")), inbox.read, inbox.pending) == ([1, 2, 3], 3, True)
    inbox.update((1, 2, 3), ())
    assert not inbox.pending
    inbox.update((), (signal(1),))
    assert inbox.offer(waiting("go")) == [SignalArrived(1, "go", b"json.1:1", "id-1", 1_000)]


def test_control_that_made_no_sense_is_used_up_too() -> None:
    inbox = Inbox("r", [control(2, "unpause", Unpaused("", ""))], sent=2)
    assert inbox.consumed(inbox.offer(waiting()), []) == (2,)


def test_a_message_of_a_kind_that_is_not_for_the_driver_is_left_alone() -> None:
    inbox = Inbox("r", [InboxRow(1, "greeting", "child", "id", b"", 1_000)], sent=1)
    assert (inbox.pending, inbox.read, inbox.offer(waiting("child"))) == (False, 1, [])


def test_the_outcome_of_a_child_is_offered_at_once_and_used_up_whatever_it_means() -> None:
    """Invariant 36: what nobody waits for any more does not stay."""
    failure = Failure("ValueError", "no")
    payload = encode_outcome(ChildOutcome(Awaited("main", "a", 1, "kid#1"), "r/kid", None, failure))
    inbox = Inbox("r", [InboxRow(1, "outcome", "", "id", payload, 1_000)], sent=1)
    (event,) = inbox.offer(waiting("other"))
    assert event == ChildEnded(1, "main", "a", 1, "kid#1", "r/kid", None, failure)
    assert inbox.consumed([event], []) == (1,)
    inbox.update([1], ())
    assert not inbox.pending


CONTROL: dict[str, Control] = {
    "pause": PAUSE,
    "unpause": Unpaused("x", "ops"),
    "cancel": RunCancelled("no", ""),
}


@pytest.mark.parametrize("kind", CONTROL)
def test_the_payload_of_a_control_message_is_the_entry_that_is_wanted(kind: str) -> None:
    """The stored format (docs/format.md)."""
    assert set(CONTROL) == set(CONTROLS)
    assert control_of(control(3, kind, CONTROL[kind]), "r") == ControlRequested(3, CONTROL[kind])


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", encode_entry(RunReopened("ops")), msgspec.msgpack.encode(["RunMoved", ""])],
    ids=["empty", "damaged", "no control", "newer"],
)
def test_a_control_message_that_cannot_be_read_is_a_format_error(payload: bytes) -> None:
    """Invariant 7: its run is blocked, and no other."""
    row = InboxRow(3, "pause", "", "id", payload, 1_000)
    with pytest.raises(FormatError):
        control_of(row, "r")
    with pytest.raises(FormatError):
        Inbox("r", [row], sent=3)
