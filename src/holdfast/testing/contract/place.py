"""What the tests of the contract share: a clock to move, a place to open, short words for records."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from holdfast.stores.base import Store
from holdfast.stores.records import (
    DEFAULT_QUEUE,
    Append,
    Applied,
    LeaseTimes,
    Member,
    Message,
    NewRun,
    Outcome,
    RunRecord,
    Snapshot,
)
from holdfast.testing.clock import VirtualClock

ME = "worker-me"
OTHER = "worker-other"
MINUTE_MS = 60_000
DAY_MS = 86_400_000
LEASE = LeaseTimes.of(60 * MINUTE_MS)
"""Longer than any test waits that is not about leases."""

Stores = Callable[[], Store]
"""Makes the store for one more opening of the same place."""


class Place:
    """Where one test keeps its runs."""

    def __init__(self, stores: Stores, clock: VirtualClock) -> None:
        """Args: what makes the store for each opening, and the clock that it was given."""
        self._stores = stores
        self._clock = clock
        self._is_new = True

    def another(self) -> Store:
        """One more store over the same place, not opened yet."""
        return self._stores()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncGenerator[Store]:
        """The store, and `ME` and `OTHER` as workers of it until they die."""
        store = self._stores()
        await store.open()
        try:
            if self._is_new:
                self._is_new = False
                await store.register(ME)
                await store.register(OTHER)
            yield store
        finally:
            await store.close()

    @contextlib.asynccontextmanager
    async def after_crash(self) -> AsyncGenerator[Store]:
        """The store, opened anew after everyone who held a run has died, and their runs freed.

        Whoever goes on needs a new name.
        """
        async with self.opened() as store:
            if store.lease is not None:
                self._clock.advance(store.lease.lease_ms)
                await store.reap()
            yield store


def new_run(run_id: str, **changes: object) -> NewRun:
    """A run of the workflow `order` with one entry, for nobody."""
    run = NewRun(
        id=run_id, workflow="order", fingerprint="mark-1", entries=(b"started",), input_digest=b"digest"
    )
    return msgspec.structs.replace(run, **changes)


def append(key: int, **changes: object) -> Append:
    """What a run that was inserted as held, and has one entry, records next."""
    made = Append(key=key, epoch=1, position=1, entries=(b"next",), status="running", due_at_ms=None, worker=ME)
    return msgspec.structs.replace(made, **changes)


def parked(key: int, **changes: object) -> Append:
    """The same, and the run is given back."""
    return append(key, **({"status": "suspended", "worker": None} | changes))


def unheld(key: int, **changes: object) -> Append:
    """What someone from outside records of a run that was inserted for nobody, and has one entry."""
    return parked(key, **({"epoch": 0, "is_held": False, "status": "paused"} | changes))


def ended(key: int, status: str = "completed", **changes: object) -> Append:
    """What ends a run that was inserted as held, and has one entry."""
    return parked(key, **({"status": status} | changes))


def message(key: int, message_id: str = "m-1", **changes: object) -> Message:
    """A signal for the run."""
    made = Message(run_key=key, kind="signal", id=message_id, payload=b"yes", name="approved")
    return msgspec.structs.replace(made, **changes)


async def commit_one(store: Store, member: Member) -> Outcome:
    """Commit a member alone."""
    (outcome,) = await store.commit([member])
    return outcome


async def applied(store: Store, member: Member) -> Applied:
    """Commit a member that must be applied."""
    outcome = await commit_one(store, member)
    assert isinstance(outcome, Applied)
    return outcome


async def insert(store: Store, run_id: str, **changes: object) -> int:
    """Insert a run and give its key."""
    return (await applied(store, new_run(run_id, **changes))).key


async def insert_held(store: Store, run_id: str, **changes: object) -> int:
    """Insert a run that `ME` holds, and give its key."""
    return await insert(store, run_id, **({"worker": ME} | changes))


async def insert_ended(store: Store, run_id: str, status: str = "completed", **changes: object) -> int:
    """Insert a run, end it, and give its key."""
    key = await insert_held(store, run_id, **changes)
    await applied(store, ended(key, status))
    return key


async def find(store: Store, run_id: str) -> RunRecord:
    """The row of a run that is there."""
    record = await store.find_run(run_id)
    assert record is not None
    return record


async def claim(
    store: Store,
    *workflows: str,
    worker: str = ME,
    queues: Sequence[str] = (DEFAULT_QUEUE,),
    limit: int = 100,
    suspects: int = 1,
    excluded: Sequence[str] = (),
) -> list[str]:
    """Ids of what a claim holds, in its order."""
    claimed = await store.claim(
        worker,
        workflows=workflows or ("order",),
        queues=queues,
        limit=limit,
        suspects=suspects,
        excluded=excluded,
    )
    return [run.id for run in claimed.runs]


async def next_due_at_ms(store: Store, *, queues: Sequence[str] = (DEFAULT_QUEUE,)) -> int | None:
    """What a claim that finds nothing says of the time to come."""
    claimed = await store.claim(ME, workflows=["order"], queues=queues, limit=100)
    assert list(claimed.runs) == []
    return claimed.next_due_at_ms


async def entries_of(store: Store, key: int) -> list[bytes]:
    """The entries of a journal that is checked to be gapless."""
    rows = await store.read_journal(key)
    assert [row.position for row in rows] == list(range(1, len(rows) + 1))
    return [row.entry for row in rows]


async def snapshot_of(store: Store, key: int) -> Snapshot | None:
    """The snapshot of a run, if it has one."""
    (stored,) = await store.load([key])
    return stored.snapshot
