"""The Store protocol and its records: what the engine needs of a place that keeps runs.

One transaction is the unit. `commit` takes a group of members: appends to runs this worker holds, new runs,
and messages. Each member is applied whole or not at all, whatever happens to the others. A commit that
returned is on disk. Instants are integer milliseconds since the epoch by the store's clock.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from holdfast.errors import StoreRefusedError


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run to insert, unless its id is taken.

    Attributes:
        id: 1 to 255 bytes.
        entries: The first entries of its journal, encoded, at least one.
        worker: Hold it at once for this worker, or None to leave it to a claim.
        over: Its status if the entries end it already; then nobody holds it and it is never due.
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
    queue: str = "default"
    priority: int = 3
    tags: tuple[str, ...] = ()
    parent_key: int | None = None
    parent_incarnation: int = 0
    parent_step: bytes | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Something for a run's inbox, first in first out.

    Attributes:
        run_key: Whose inbox.
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
    incarnation: int | None = None
    wakes: tuple[str, ...] = ("pending", "running", "suspended")


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
        messages_read: Giving the run back while `messages_sent` is larger makes it due now; None for a run
            that is over.
        consumed: Sequence numbers of messages that these entries have used up.
        messages, children: What the run sends and starts in the same transaction.
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
    """

    at_ms: int
    key: int
    messages_sent: int = 0


class Fenced(msgspec.Struct, frozen=True):
    """Nothing was written: the run has another epoch or position, or is gone."""


class Exists(msgspec.Struct, frozen=True):
    """Nothing was written: a run of that id is there already."""


class Refused(msgspec.Struct, frozen=True):
    """Nothing was written: the store can never hold this value."""

    error: StoreRefusedError


Outcome = Applied | Fenced | Exists | Refused


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


class JournalRow(msgspec.Struct, frozen=True):
    """One entry as stored."""

    position: int
    epoch: int
    at_ms: int
    entry: bytes


class InboxRow(msgspec.Struct, frozen=True):
    """One message as stored; `seq` counts the messages of its run from 1."""

    seq: int
    kind: str
    name: str
    id: str
    payload: bytes
    at_ms: int


class Snapshot(msgspec.Struct, frozen=True):
    """A cached fold of a run up to `position`; losing one costs time only."""

    position: int
    state: bytes


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


class Store(Protocol):
    """A place that keeps runs. All methods may raise `StoreUnavailableError`.

    After that error a read may simply be asked again; whether a write was applied is unknown, and it must
    be repeated as it was (`group_commit` does).
    """

    @property
    def url(self) -> str:
        """Where it is, without secrets, for messages to people."""
        ...

    @property
    def is_durable(self) -> bool:
        """Whether runs outlive the process."""
        ...

    @property
    def is_instant(self) -> bool:
        """Whether `commit_now` always works and takes microseconds, so that gathering a group gains nothing."""
        ...

    @property
    def may_drive(self) -> bool:
        """Whether this process may claim runs; on SQLite only the file's owner may.

        Known after `open`; a claim may make it true later, where the owner has gone.
        """
        ...

    @property
    def poll_ms(self) -> int | None:
        """How often to look for what other processes did; None if no other process can reach it."""
        ...

    def now_ms(self) -> int:
        """The store's clock; never falls."""
        ...

    async def open(self) -> None:
        """Connect, check or create the schema, and free the runs of a worker proven dead.

        Raises:
            FormatError: No database, or one of a newer format; it was not touched.
            StoreOwnedError: `worker=True` was asked for and another process owns it.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; idempotent. Runs still held stay so until the next `open`."""
        ...

    def commit_now(self, group: Sequence[Member]) -> list[Outcome] | None:
        """Commit on the calling thread if that is quick (0.5 ms), as `commit`; else None and do nothing."""
        ...

    async def commit(self, group: Sequence[Member]) -> list[Outcome]:
        """Write the members in one transaction; a run is named by one append at most.

        Returns:
            One outcome per member, in order. A fenced, existing or refused member changes nothing for
            the others.

        Raises:
            StoreUnavailableError: All or nothing was written, which of the two is unknown.
        """
        ...

    async def claim(
        self, worker: str, *, workflows: Sequence[str], limit: int, excluded: Sequence[str] = ()
    ) -> list[RunRecord]:
        """Hold up to `limit` due runs of the named workflows for `worker`, each under a new epoch.

        Nothing for a process that may not drive. By due time, where each step of priority below the
        first counts like 5 minutes. Runs pinned to a fingerprint in `excluded` are passed over.
        """
        ...

    async def claim_one(self, worker: str, run_id: str) -> RunRecord | None:
        """Hold this run, due or not, under a new epoch; None if it is held, over or unknown."""
        ...

    async def release(self, held: Sequence[tuple[int, int]]) -> None:
        """Give back runs by (key, epoch), due now; one that is no longer held so is passed over."""
        ...

    async def release_all(self, worker: str) -> None:
        """Give back every run that `worker` holds, due now: also those it does not know of."""
        ...

    async def read_journal(self, key: int, *, after: int = 0) -> list[JournalRow]:
        """All entries after a position, in order."""
        ...

    async def read_inbox(self, key: int, *, after: int = 0) -> list[InboxRow]:
        """All messages not consumed with a higher sequence number, in order."""
        ...

    async def find_run(self, run_id: str) -> RunRecord | None:
        """The header of a run, or None."""
        ...

    async def list_runs(
        self, *, status: str | None, workflow: str | None, limit: int, after: int | None
    ) -> list[RunRecord]:
        """Runs by descending key, `limit` at most, below the key `after`."""
        ...

    def next_due_at_ms(self) -> int | None:
        """When the next run becomes due, as the last `claim` saw it; None when nothing was waiting."""
        ...

    async def save_definition(self, definition: Definition, *, current: bool) -> None:
        """Keep a structure under its fingerprint; `current` makes it the one that starts by name get."""
        ...

    async def find_definition(self, name: str, fingerprint: str | None = None) -> Definition | None:
        """The structure with that fingerprint, or the current one of the workflow; None if unknown."""
        ...

    async def definition_names(self) -> list[str]:
        """Names of all workflows that have a current structure, sorted."""
        ...

    async def save_snapshot(self, key: int, epoch: int, snapshot: Snapshot) -> None:
        """Replace the run's snapshot, if it is still held under `epoch`."""
        ...

    async def find_snapshot(self, key: int) -> Snapshot | None:
        """The run's snapshot, or None."""
        ...
