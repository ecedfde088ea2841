"""The messages of a run that its worker has read and the run has not used up."""

from bisect import insort
from collections.abc import Iterable, Sequence

from holdfast.codecs.entries import decode_entry, decode_outcome
from holdfast.core.entries import (
    Entry,
    OperationCompleted,
    Paused,
    RunCancelled,
    SignalReceived,
    Unpaused,
)
from holdfast.core.events import ChildEnded, ControlRequested, Event, SignalArrived
from holdfast.core.run import Run
from holdfast.errors import FormatError
from holdfast.stores.records import InboxRow

SIGNAL = "signal"
OUTCOME = "outcome"
CONTROLS = ("pause", "unpause", "cancel")


class Inbox:
    """Messages in order; signals wait for somebody who waits for them, control and outcomes are for at once.

    Attributes:
        read: Sequence number up to which all messages were read.
        pending: Whether there is any message that the run has not used up.
    """

    __slots__ = ("_controls", "_run_id", "_signals", "pending", "read")

    def __init__(self, run_id: str, rows: Sequence[InboxRow], *, sent: int) -> None:
        """Args: whose they are, what is not consumed, and how many were ever sent when that was read.

        Raises:
            FormatError: One is of a newer version.
        """
        self.read = sent
        self.pending = False
        self._run_id = run_id
        self._signals: dict[str, list[InboxRow]] = {}
        self._controls: list[ControlRequested | ChildEnded] = []
        if rows:
            self.take(rows, sent=sent)

    def take(self, rows: Iterable[InboxRow], *, sent: int) -> None:
        """Add what was read, which is everything after `read` up to `sent` at least."""
        for row in rows:
            if row.kind == SIGNAL:
                insort(self._signals.setdefault(row.name, []), row, key=_seq)
            elif row.kind in CONTROLS:
                self._controls.append(control_of(row, self._run_id))
            elif row.kind == OUTCOME:
                self._controls.append(_ending_of(row, self._run_id))
            self.read = row.seq
        self.read = max(self.read, sent)
        self.pending = bool(self._signals or self._controls)

    def offer(self, run: Run) -> list[Event]:
        """What the run can use now, in the order in which it was sent."""
        events: list[tuple[int, Event]] = [(control.seq, control) for control in self._controls]
        taken: dict[str, int] = {}
        for name in run.waits.values() if self._signals else ():
            rows, count = self._signals.get(name, ()), taken.get(name, 0)
            if count < len(rows):
                row = rows[count]
                taken[name] = count + 1
                arrived = SignalArrived(row.seq, row.name, row.payload, row.id, row.at_ms)
                events.append((row.seq, arrived))
        return [event for _, event in sorted(events, key=lambda pair: pair[0])]

    def consumed(self, events: Iterable[Event], entries: Iterable[Entry]) -> tuple[int, ...]:
        """Numbers of the messages that these entries, decided from these events, use up."""
        seqs = [event.seq for event in events if isinstance(event, ControlRequested | ChildEnded)]
        seqs += [entry.seq for entry in entries if isinstance(entry, SignalReceived)]
        seqs += [
            entry.seq
            for entry in entries
            if isinstance(entry, OperationCompleted) and entry.kind == "wait_signal"
        ]
        return tuple(seqs)

    def update(self, seqs: Sequence[int], returned: Sequence[InboxRow]) -> None:
        """Those of these numbers are gone from the store, and those that are returned are there again."""
        self._controls = [control for control in self._controls if control.seq not in seqs]
        for name, rows in list(self._signals.items()):
            left = [row for row in rows if row.seq not in seqs]
            if left:
                self._signals[name] = left
            else:
                del self._signals[name]
        self.take(returned, sent=self.read)


def _seq(row: InboxRow) -> int:
    return row.seq


def control_of(row: InboxRow, run_id: str) -> ControlRequested:
    """A message of one of the kinds `CONTROLS` as an event; its payload is the encoded entry that is wanted.

    Raises:
        FormatError: It is of a newer version.
    """
    wanted = decode_entry(row.payload, run_id=run_id, position=0)
    if not isinstance(wanted, Paused | Unpaused | RunCancelled):
        raise FormatError(
            subject=f"message {row.seq} of run {run_id!r}",
            reason=f"{type(wanted).__name__} is no control",
            fix="run the version of Holdfast that sent it",
        )
    return ControlRequested(row.seq, wanted)


def _ending_of(row: InboxRow, run_id: str) -> ChildEnded:
    """A message about a child's end as an event; raises `FormatError`."""
    ended = decode_outcome(row.payload, run_id=run_id, seq=row.seq)
    awaited = ended.awaited
    return ChildEnded(
        row.seq,
        awaited.branch,
        awaited.step,
        awaited.visit,
        awaited.key,
        ended.child,
        ended.output,
        ended.failure,
    )


def without_mail(events: Iterable[Event]) -> list[Event]:
    """The events that the inbox does not offer again."""
    return [event for event in events if not isinstance(event, SignalArrived | ControlRequested | ChildEnded)]


def only_control(events: Iterable[Event]) -> list[Event]:
    """Of the events that the inbox offers, what somebody outside wants of the run."""
    return [event for event in events if isinstance(event, ControlRequested)]
