"""The records of the Store protocol: what goes into a transaction, what comes out, and what is read."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from holdfast.core.run import OVER
from holdfast.errors import StoreRefusedError, UsageError

DEFAULT_QUEUE = "default"
"""The queue of runs that name none, and the one that is served where none is named."""


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run to insert, unless its id is taken.

    Attributes:
        id: 1 to 255 bytes.
        entries: The first entries of its journal, encoded, at least one.
        worker: Hold it at once for this worker (if its lease lives), or None to leave it to a claim.
        over: Its status if the entries end it already; then nobody holds it and it is never due.
        queue: Exact name; only a worker that serves it claims the run.
        priority: 1 (first) to 5.
        tags: Of the next step; a worker takes only what it has.
        input_digest: Of workflow and input, to tell a repeated start from another one.
        parent_key, parent_incarnation, parent_step: Of the run that waits for its outcome.
    """

    id: str
    workflow: str
    fingerprint: str
    entries: tuple[bytes, ...]
    input_digest: bytes
    worker: str | None = None
    over: str | None = None
    queue: str = DEFAULT_QUEUE
    priority: int = 3
    tags: tuple[str, ...] = ()
    parent_key: int | None = None
    parent_incarnation: int = 0
    parent_step: bytes | None = None


WAKES = ("pending", "running", "suspended", "paused")
"""Statuses of runs that go on when they get a message."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Something for a run's inbox, first in first out.

    Attributes:
        run_key: Whose inbox.
        run_id: Whose inbox, by id, where the sender does not know the key; `run_key` is 0 then.
        incarnation: Dropped if the run has another one by now; None is for any.
        kind: `signal`, `cancel`, `pause`, `unpause`, `outcome`.
        name: For a signal its name, for an outcome the child's key.
        id: One id is stored once per run; minted by the sender before the first try.
        payload: Encoded.
        wakes: Statuses of an unheld run that this message makes due now.
    """

    run_key: int
    kind: str
    id: str
    payload: bytes
    name: str = ""
    run_id: str = ""
    incarnation: int | None = None
    wakes: tuple[str, ...] = WAKES


class InboxRow(msgspec.Struct, frozen=True):
    """One message as stored; `seq` counts the messages of its run from 1."""

    seq: int
    kind: str
    name: str
    id: str
    payload: bytes
    at_ms: int


ENDED = OVER
"""Statuses of a run that is over: it takes no message, and no claim finds it."""


class Append(msgspec.Struct, frozen=True, gc=False):
    """What one run has to record: applied under its epoch at its position, or fenced.

    Attributes:
        key: The run's key in this store.
        epoch: Under which this worker holds it.
        position: Of the last entry before these.
        entries: Encoded, in order, not changed any more; may be empty to change the header only.
        status: Of the run after them.
        due_at_ms: When someone must act, if it is not held; 0 is now, None is never by itself.
        due_in_ms: The same counted from this transaction's stamp; the earlier of the two holds.
        worker: This worker, who goes on holding it, or None to give it back.
        completes: Whether a step completes in it; returns the count of recoveries to 0.
        messages_read: Giving the run back while `messages_sent` is larger makes it due now. None does not look.
        consumed: Sequence numbers of messages that these entries have used up.
        messages, children: What the run sends and starts in the same transaction.
        if_read: Refused with `Unread` while more was sent than `messages_read`, because it says that no signal
            came. An append that ends the run always is: no cancel may be passed over.
        is_held: Whether this worker holds the run. False is for control from outside: the append is applied
            only while *nobody* holds the run, whatever its status; `worker` is None then.
        returned: Messages that earlier entries had used up and that these give back: they are in the inbox
            again, under the number they had, and wake nobody. None of them is in `consumed`.
    """

    key: int
    epoch: int
    position: int
    entries: Sequence[bytes]
    status: str
    due_at_ms: int | None
    worker: str | None
    due_in_ms: int | None = None
    completes: bool = False
    messages_read: int | None = 0
    consumed: tuple[int, ...] = ()
    messages: tuple[Message, ...] = ()
    children: tuple[NewRun, ...] = ()
    is_held: bool = True
    if_read: bool = False
    returned: tuple[InboxRow, ...] = ()

    def must_be_read(self) -> bool:
        """Whether messages that were not read stand in its way."""
        return self.messages_read is not None and (self.if_read or self.status in ENDED)

    def is_step(self) -> bool:
        """Whether it is one entry of a run that goes on here, and nothing else, as most are."""
        if self.status != "running" or self.worker is None or len(self.entries) != 1 or self.if_read:
            return False
        others = self.consumed or self.messages or self.children or self.returned
        return self.is_held and self.messages_read is not None and not others


def due_at(append: Append, at_ms: int) -> int | None:
    """The absolute due time of an append that is stamped `at_ms`."""
    due = append.due_at_ms
    if append.due_in_ms is not None:
        relative = at_ms + append.due_in_ms
        return relative if due is None else min(due, relative)
    return due


Member = Append | NewRun | Message


class Applied(msgspec.Struct, frozen=True, gc=False):
    """The member is on disk.

    Attributes:
        at_ms: The store's stamp of the transaction.
        key: Of the run that was appended to, inserted, or sent to.
        messages_sent: To that run so far; more than were read means there is something to read.
        is_held: For a new run: whether the worker it names holds it. False where that one's lease has expired:
            then it was inserted unheld and due.
    """

    at_ms: int
    key: int
    messages_sent: int = 0
    is_held: bool = True


class Fenced(msgspec.Struct, frozen=True):
    """Nothing was written: the run has another epoch or position, is held by nobody, or is gone."""


class Unread(msgspec.Struct, frozen=True):
    """Nothing was written: the run has messages that were not read, and the append must not pass them over."""

    messages_sent: int


class Over(msgspec.Struct, frozen=True):
    """Nothing was written: the run that the message is for has ended with this status."""

    status: str


class Exists(msgspec.Struct, frozen=True):
    """Nothing was written: a run of that id is there already."""


class Refused(msgspec.Struct, frozen=True):
    """Nothing was written: the store can never hold this value."""

    error: StoreRefusedError


Outcome = Applied | Fenced | Unread | Over | Exists | Refused


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A run's header row: small, hot, and equal to the fold of its journal."""

    key: int
    id: str
    incarnation: int
    epoch: int
    position: int
    status: str
    workflow: str
    fingerprint: str
    queue: str
    priority: int
    tags: tuple[str, ...]
    worker: str | None
    due_at_ms: int | None
    messages_sent: int
    recoveries: int
    input_digest: bytes
    parent_key: int | None
    parent_incarnation: int
    parent_step: bytes | None
    created_at_ms: int
    updated_at_ms: int


RUN_NAMES = RunRecord.__struct_fields__
"""The columns of a run in SQL, named and ordered as in the record."""


def run_record(row: Sequence[Any]) -> RunRecord:
    """A row of `RUN_NAMES` as a record; tags are stored as JSON."""
    facts = dict(zip(RUN_NAMES, row, strict=True))
    facts["tags"] = tuple(json.loads(facts["tags"]))
    return RunRecord(**facts)


class JournalRow(msgspec.Struct, frozen=True, gc=False):
    """One entry as stored."""

    position: int
    epoch: int
    at_ms: int
    entry: bytes


class Snapshot(msgspec.Struct, frozen=True):
    """A cached fold of a run up to `position`; losing one costs time only."""

    position: int
    state: bytes


class Stored(msgspec.Struct, frozen=True):
    """All that is needed to go on with a run, read at one moment.

    Attributes:
        snapshot: The latest, or None.
        journal: Every entry after the snapshot's position, in order.
        inbox: Every message not consumed, in order.
    """

    snapshot: Snapshot | None
    journal: Sequence[JournalRow]
    inbox: Sequence[InboxRow]


class WorkerRecord(msgspec.Struct, frozen=True):
    """A worker that is alive, and the workflows it can drive, sorted."""

    id: str
    workflows: tuple[str, ...]


class Definition(msgspec.Struct, frozen=True):
    """A workflow's structure, stored by workers so that clients and later versions know it.

    Attributes:
        structure: JSON of `Workflow.structure()`.
        input_schema: JSON Schema of the input, or b"" where it is not known.
    """

    name: str
    fingerprint: str
    structure: bytes
    input_schema: bytes = b""


class Claimed(msgspec.Struct, frozen=True):
    """What a claim has found.

    Attributes:
        runs: Held now, each under a new epoch, in the order in which they were due.
        next_due_at_ms: When the next run of those workflows and queues becomes due by itself, or None.
        expired: Workers whose lease has run out: `reap` would free their runs.
    """

    runs: Sequence[RunRecord] = ()
    next_due_at_ms: int | None = None
    expired: int = 0


class LeaseTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long a worker's lease lives, in ms. The whole is safe, or it cannot be made.

    Attributes:
        lease_ms: After the last renewal the worker counts as dead and its runs are freed.
        heartbeat_ms: Between renewals.
        self_stop_ms: After it *sent* its last good renewal the worker starts and commits nothing any more.
        renewal_ms: Bound of one renewal.
    """

    lease_ms: int = 30_000
    heartbeat_ms: int = 10_000
    self_stop_ms: int = 18_000
    renewal_ms: int = 2_000

    def __post_init__(self) -> None:
        """Raise `UsageError` for times with which two workers could drive one run."""
        parts = (self.heartbeat_ms, self.self_stop_ms, self.renewal_ms)
        if min(parts) <= 0 or self.self_stop_ms > 0.6 * self.lease_ms or sum(parts) > self.lease_ms:
            raise UsageError(
                what=f"a lease of {self.lease_ms} ms is not safe with {self!r}",
                fix="self_stop_ms is at most 0.6 of lease_ms, and the other three sum up to lease_ms at most",
            )

    @classmethod
    def of(cls, lease_ms: int) -> "LeaseTimes":
        """The times for a lease, each in its usual part of it."""
        return cls(
            lease_ms=lease_ms,
            heartbeat_ms=min(lease_ms // 4, 10_000),
            self_stop_ms=lease_ms * 6 // 10,
            renewal_ms=min(lease_ms // 10, 2_000),
        )


PRIORITY_STEP_MS = 300_000
"""How much longer a run of the next priority waits before it counts as much."""
SUSPECT_AT = 2
"""Recoveries from which on a run is suspected to kill its workers: a worker drives one such run at a time."""
QUARANTINE_AT = 5
"""Recoveries at which a run is blocked (semantics row 54)."""


def charged(recoveries: int, *, beside_suspect: bool) -> int:
    """The recoveries of a run whose worker died: its suspect did it, or else each of its runs may have.

    Args:
        recoveries: Before.
        beside_suspect: Whether the worker drove a suspect.
    """
    if recoveries >= SUSPECT_AT:
        return recoveries + 1
    return recoveries if beside_suspect else recoveries + 1
