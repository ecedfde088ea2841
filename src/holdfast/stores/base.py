"""The Store protocol: what the engine needs of a place that keeps runs. Its records are in `records`.

One transaction is the unit. `commit` takes a group of members: appends to runs this worker holds, new runs,
and messages. Each member is applied whole or not at all, whatever happens to the others. A commit that
returned is on disk. Instants are integer milliseconds since the epoch by the store's clock.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from holdfast.stores.records import (
    DEFAULT_QUEUE,
    Claimed,
    Definition,
    InboxRow,
    JournalRow,
    LeaseTimes,
    Member,
    NewRun,
    Outcome,
    RunRecord,
    Snapshot,
    Stored,
    WorkerRecord,
)


class Renewals(Protocol):
    """Keeps a lease alive from a thread of its own, with a connection of its own. Blocking."""

    def renew(self, worker: str) -> bool:
        """Prolong an unexpired lease by `lease_ms` from now by the store's clock, in `renewal_ms` at most.

        Returns:
            False if there is no such lease any more: this identity is dead and stays so.

        Raises:
            StoreUnavailableError: Unknown; asking again is harmless.
        """
        ...

    def close(self) -> None:
        """Let go of the connection; idempotent, from any thread, and ends a renewal under way."""
        ...


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
    def poll_ms(self) -> tuple[int, int] | None:
        """How often to look for what other processes did: at first, and when nothing was found for long.

        None if no other process can reach it.
        """
        ...

    @property
    def lease(self) -> LeaseTimes | None:
        """The times of workers' leases; None where a claim needs none, because one process drives alone."""
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

        A message to a run that is over is `Over`, unless its id was stored before; to one that is not there it
        is `Fenced`. Messages that appends send to such runs are dropped. A run is reached by its id once the
        commit that inserted it has returned; whether it is within the same group is left open.

        Returns:
            One outcome per member, in order. A fenced, existing or refused member changes nothing for
            the others.

        Raises:
            StoreUnavailableError: All or nothing was written, which of the two is unknown.
        """
        ...

    def on_hint(self, hint: Callable[[], None]) -> None:
        """Call `hint`, on the loop's thread, when another process may have made a run due.

        Hints may be lost, late or doubled: only looking tells. Called once, before `open`.
        """
        ...

    async def register(self, worker: str, workflows: Sequence[str] = ()) -> None:
        """Begin the lease of an identity that was never used before; it expires `lease_ms` from now.

        Where there are no leases, only keep what the one worker can drive, in place of what was known before.
        Repeating it after an unknown outcome is harmless.

        Args:
            worker: The identity.
            workflows: Names of the workflows it can drive, for `workers`.
        """
        ...

    async def workers(self) -> list[WorkerRecord]:
        """The workers that are alive now, by id; on SQLite the owner of the file, if it has one."""
        ...

    def renewals(self) -> Renewals:
        """What keeps leases alive; asked for only where there are leases."""
        ...

    async def reap(self) -> int:
        """Mark workers dead whose lease has expired, then free their runs: unheld, due now, `charged`.

        A run that reaches `QUARANTINE_AT` becomes `blocked` and is not due. No live worker loses a run, and no
        run stays with a dead one.

        Returns:
            How many runs were freed.
        """
        ...

    async def claim(
        self,
        worker: str,
        *,
        workflows: Sequence[str],
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        limit: int,
        suspects: int = 1,
        excluded: Sequence[str] = (),
    ) -> Claimed:
        """Hold up to `limit` due runs of the named workflows and queues for `worker`, each under a new epoch.

        Nothing for a process that may not drive. By due time, where each step of priority below the
        first counts like 5 minutes, whatever the workflow and the queue. Runs pinned to a fingerprint in
        `excluded` are passed over. At most `suspects` (0 or 1) of them have `SUSPECT_AT` recoveries or more.

        Args:
            worker: Who holds them.
            workflows: Exact names; none gives nothing.
            queues: Exact names; an unknown queue is an empty one, none gives nothing. A name given twice
                counts once, here and in `workflows`.
            limit: Runs, from 1.
            suspects: How many suspects may be among them, 0 or 1.
            excluded: Fingerprints.

        Raises:
            LeaseLostError: The worker's lease has expired or is unknown; nothing was held.
            StoreUnavailableError: Unknown, and it may still be carried out for some seconds; `held` tells.
        """
        ...

    async def claim_one(self, worker: str, run_id: str) -> RunRecord | None:
        """Hold this run, due or not, under a new epoch; None if it is held, over or unknown.

        Its workflow and its queue do not matter: who names a run wants that one.

        Raises:
            LeaseLostError: The worker's lease has expired or is unknown; nothing was held.
        """
        ...

    async def held(self, worker: str) -> list[RunRecord]:
        """Every run that `worker` holds, by key: what a claim with an unknown outcome may have left."""
        ...

    async def counts(self, worker: str) -> list[tuple[int, int]]:
        """Key and `messages_sent` of each run that `worker` holds and that was ever sent a message."""
        ...

    async def release(self, held: Sequence[tuple[int, int]]) -> None:
        """Give back runs by (key, epoch), due now; one that is no longer held so is passed over."""
        ...

    async def retire(self, worker: str) -> None:
        """End an identity: give back all runs it holds, due now, also those it does not know of; and its lease.

        No recovery is charged. It can hold nothing any more where there are leases.
        """
        ...

    async def read_journal(self, key: int, *, after: int = 0) -> list[JournalRow]:
        """All entries after a position, in order."""
        ...

    async def read_inbox(self, key: int, *, after: int = 0) -> list[InboxRow]:
        """All messages not consumed with a higher sequence number, in order."""
        ...

    async def load(self, keys: Sequence[int]) -> list[Stored]:
        """Snapshot, journal and inbox of each run, in the order of the keys; empty for one that is gone."""
        ...

    async def pending(self, key: int) -> int:
        """How many messages of a run are not consumed."""
        ...

    async def find_run(self, run_id: str) -> RunRecord | None:
        """The header of a run, or None."""
        ...

    async def list_runs(
        self, *, status: str | None, workflow: str | None, limit: int, after: int | None
    ) -> list[RunRecord]:
        """Runs by descending key, `limit` at most, below the key `after`."""
        ...

    async def replace(self, new: NewRun, *, key: int, epoch: int, keep_inbox: bool = False) -> Outcome:
        """Put a new run in the place of the run `key`, in one transaction, if that still has this epoch.

        Id, key and the epochs go on: the epoch and the incarnation are one more, so whoever held the run is
        fenced. Journal, inbox, ids of messages and snapshot are gone, everything else is as after an insert.

        Args:
            new: Takes the place; its id must be that of the run.
            key: Of the run.
            epoch: Which it must have.
            keep_inbox: Leave inbox, ids of messages and `messages_sent` as they are: the run goes on as a new
                one, and what was sent to it and not consumed is for that one.

        Returns:
            `Applied`, or `Fenced` where the run is gone or has another epoch.
        """
        ...

    async def delete(self, key: int) -> bool:
        """Remove all of a run that is over, unless the run that started it may wait for it.

        That one may as long as it is there, not over, and has the incarnation `parent_incarnation`: any other
        never asked for this outcome, and would not be given it.

        Returns:
            Whether it was removed.
        """
        ...

    async def sweep(self, workflow: str, status: str, *, before_ms: int, limit: int) -> int:
        """Remove up to `limit` runs of that status, unheld and unchanged since before a moment, as `delete`.

        Those that the run that started them may wait for are kept, and do not count.

        Args:
            workflow: Name of their workflow.
            status: One of `ENDED`, or `blocked`.
            before_ms: They were updated last before this.
            limit: Bounds the transaction.

        Returns:
            How many were removed.
        """
        ...

    async def save_definition(self, definition: Definition, *, current: bool) -> None:
        """Keep a structure under its fingerprint; `current` makes it the one that starts by name get.

        A structure that is known is replaced where it becomes current: what is no part of its fingerprint may
        have changed.
        """
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


class Leaseless:
    """The part of a `Store` in which one process drives alone, so that no lease and no hint is needed."""

    @property
    def lease(self) -> LeaseTimes | None:
        """See `Store`."""
        return None

    def on_hint(self, hint: Callable[[], None]) -> None:
        """See `Store`."""

    def renewals(self) -> Renewals:
        """See `Store`."""
        raise NotImplementedError

    async def reap(self) -> int:
        """See `Store`."""
        return 0
