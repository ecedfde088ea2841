"""The stores the contract holds for, and what its tests share.

A store is added by one line in `STORES`: a function that is given a directory and a clock, and returns what
makes the store. What that makes is opened, closed, and made and opened again: what was committed must be there.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any

from holdfast.ports import Clock
from holdfast.runtime.urls import store_at
from holdfast.stores.base import Append, Applied, Member, Message, NewRun, Outcome, RunRecord, Store
from holdfast.stores.memory import MemoryStore

ME = "worker-me"
BEGIN_MS = 1_700_000_000_000
MINUTE_MS = 60_000
DAY_MS = 86_400_000

Make = Callable[[], Store]


def memory(_directory: Path, clock: Clock) -> Make:
    """One object: it keeps what it has when it is opened again."""
    store = MemoryStore(clock)
    return lambda: store


def sqlite(directory: Path, clock: Clock) -> Make:
    """Every time another object over the same file."""
    return lambda: store_at(f"sqlite:///{directory}/runs.db", worker=True, clock=clock)


STORES: Mapping[str, Callable[[Path, Clock], Make]] = {
    "memory": memory,
    "sqlite": sqlite,
}


class ManualClock:
    """Both clocks of a machine, which stand still until they are moved."""

    def __init__(self) -> None:
        self._monotonic_ms = 5_000.0
        self._wall_ms = BEGIN_MS

    def monotonic_ms(self) -> float:
        return self._monotonic_ms

    def wall_ms(self) -> int:
        return self._wall_ms

    def advance(self, ms: int) -> None:
        """Time passes."""
        self._monotonic_ms += ms
        self._wall_ms += ms

    def set_wall(self, by_ms: int) -> None:
        """Someone sets the wall clock; no time passes."""
        self._wall_ms += by_ms


class Place:
    """Where one test keeps its runs."""

    def __init__(self, make: Make) -> None:
        self._make = make

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncGenerator[Store]:
        store = self._make()
        await store.open()
        try:
            yield store
        finally:
            await store.close()


def new_run(run_id: str, **changes: Any) -> NewRun:  # noqa: ANN401 - fields of any type
    facts: dict[str, Any] = {
        "workflow": "order",
        "fingerprint": "mark-1",
        "entries": (b"started",),
        "input_digest": b"digest",
    }
    return NewRun(id=run_id, **(facts | changes))


def append(key: int, **changes: Any) -> Append:  # noqa: ANN401 - fields of any type
    """What a run that was inserted as held, and has one entry, records next."""
    facts: dict[str, Any] = {
        "epoch": 1,
        "position": 1,
        "entries": (b"next",),
        "status": "running",
        "due_at_ms": None,
        "worker": ME,
    }
    return Append(key=key, **(facts | changes))


def parked(key: int, **changes: Any) -> Append:  # noqa: ANN401 - fields of any type
    """The same, and the run is given back."""
    return append(key, **({"status": "suspended", "worker": None} | changes))


def message(key: int, message_id: str = "m-1", **changes: Any) -> Message:  # noqa: ANN401 - fields of any type
    facts: dict[str, Any] = {"kind": "signal", "name": "approved", "payload": b"yes"}
    return Message(run_key=key, id=message_id, **(facts | changes))


async def commit_one(store: Store, member: Member) -> Outcome:
    (outcome,) = await store.commit([member])
    return outcome


async def applied(store: Store, member: Member) -> Applied:
    """Commit a member that must be applied."""
    outcome = await commit_one(store, member)
    assert isinstance(outcome, Applied)
    return outcome


async def insert(store: Store, run_id: str, **changes: Any) -> int:  # noqa: ANN401 - fields of any type
    return (await applied(store, new_run(run_id, **changes))).key


async def insert_held(store: Store, run_id: str, **changes: Any) -> int:  # noqa: ANN401 - fields of any type
    return await insert(store, run_id, worker=ME, **changes)


async def find(store: Store, run_id: str) -> RunRecord:
    record = await store.find_run(run_id)
    assert record is not None
    return record


async def claim(store: Store, *workflows: str, limit: int = 100, excluded: tuple[str, ...] = ()) -> list[str]:
    """Ids of what a claim holds, in its order."""
    named = workflows or ("order",)
    return [run.id for run in await store.claim(ME, workflows=named, limit=limit, excluded=excluded)]


async def entries_of(store: Store, key: int) -> list[bytes]:
    """The entries of a journal that is checked to be gapless."""
    rows = await store.read_journal(key)
    assert [row.position for row in rows] == list(range(1, len(rows) + 1))
    return [row.entry for row in rows]
