"""What a run records with one commit, while that is under way to the store."""

from collections.abc import Sequence

import msgspec

from holdfast.codecs.entries import encode_entry
from holdfast.core.entries import Entry, StepCompleted
from holdfast.core.events import AttemptSucceeded, Event
from holdfast.core.header import Header
from holdfast.stores.records import Append, RunRecord


# Nothing that it holds refers to it, so the garbage collector can leave it out: a crowd would keep that busy.
class Sent(msgspec.Struct, frozen=True, gc=False):
    """An append with what it was made of.

    Attributes:
        append: As the store gets it.
        entries: The same, decoded.
        events: What they were decided from.
        straight: The entry where it is one of `straight_on`; then both lists are empty until `in_full`.
    """

    append: Append
    entries: Sequence[Entry] = ()
    events: Sequence[Event] = ()
    straight: StepCompleted | None = None

    def in_full(self) -> "Sent":
        """The same with its lists."""
        done = self.straight
        if done is None:
            return self
        event = AttemptSucceeded(done.branch, done.step, done.visit, done.attempt, done.output, done.sets)
        return Sent(self.append, (done,), (event,))


def straight(record: RunRecord, position: int, entry: StepCompleted, read: int) -> Sent:
    """What leads a branch straight on, recorded after `position` with so many messages read."""
    entries = (encode_entry(entry),)
    status, worker = "running", record.worker
    append = Append(record.key, record.epoch, position, entries, status, 0, worker, None, True, read)  # noqa: FBT003
    return Sent(append, (), (), entry)


def append_of(
    record: RunRecord,
    position: int,
    entries: Sequence[Entry],
    header: Header,
    *,
    leaves: bool,
    read: int,
    consumed: tuple[int, ...],
) -> Append:
    """The append of `entries` after `position`.

    Args:
        record: The row of the run.
        position: Of its last entry.
        entries: To be recorded.
        header: Of the run after them.
        leaves: Whether the run is given back with them.
        read: How many messages were read.
        consumed: Numbers of those that the entries use up.
    """
    return Append(
        record.key,
        record.epoch,
        position,
        tuple(map(encode_entry, entries)),
        header.status,
        header.due_at_ms,
        None if leaves else record.worker,
        header.due_in_ms,
        header.completes,
        read,
        consumed,
        if_read=header.times_out,
    )
