"""`FaultyStore`: any store, with faults at its commits. The one place where tests make a store fail.

A fault is chosen by a function that sees each commit's number (from 1) and group. Crashing means that the
process ends there: this store answers nothing more, and whoever opens the inner store next goes on.

Every other call goes through `_reach`, where the simulator puts its network and faults of its own.
"""

import asyncio
import enum
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from holdfast.errors import StoreUnavailableError
from holdfast.stores.base import Renewals, Store
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

T = TypeVar("T")
Ask = Callable[[], Coroutine[Any, Any, T]]
"""A call of the inner store that has not been made yet."""


class Fault(enum.Enum):
    """What happens at a commit."""

    NONE = "none"
    REFUSE = "refuse"
    """It fails, and nothing was written."""
    APPLY_AND_FAIL = "apply and fail"
    """It is written, and reported as failed: the outcome is unknown to the caller."""
    DELAY = "delay"
    """It waits until `end_delays` is called, then works."""
    CRASH_BEFORE = "crash before"
    """The process ends before anything is written."""
    CRASH_AFTER = "crash after"
    """The process ends after all is written and before anyone hears of it."""


Choose = Callable[[int, Sequence[Member]], Fault]


class FaultyStore:
    """Wraps a store; see the module.

    Attributes:
        commits: How many commits have begun.
        hits: How often each fault has struck.
        crashed: Set when a crash has struck; from then on every call waits for ever.
    """

    def __init__(self, inner: Store, choose: Choose) -> None:
        """Args: the real store, and the fault of each commit."""
        self._inner = inner
        self._choose = choose
        self.commits = 0
        self.hits: dict[Fault, int] = dict.fromkeys(Fault, 0)
        self.crashed = asyncio.Event()
        self._no_delays = asyncio.Event()

    def end_delays(self) -> None:
        """Let delayed commits go on, and delay none that comes later."""
        self._no_delays.set()

    @property
    def url(self) -> str:
        """See `Store`."""
        return self._inner.url

    @property
    def is_durable(self) -> bool:
        """See `Store`."""
        return self._inner.is_durable

    @property
    def is_instant(self) -> bool:
        """See `Store`. Never: a fault takes its time."""
        return False

    @property
    def may_drive(self) -> bool:
        """See `Store`."""
        return self._inner.may_drive

    @property
    def poll_ms(self) -> tuple[int, int] | None:
        """See `Store`."""
        return self._inner.poll_ms

    @property
    def lease(self) -> LeaseTimes | None:
        """See `Store`."""
        return self._inner.lease

    def now_ms(self) -> int:
        """See `Store`."""
        return self._inner.now_ms()

    def on_hint(self, hint: Callable[[], None]) -> None:
        """See `Store`."""
        self._inner.on_hint(hint)

    def renewals(self) -> Renewals:
        """See `Store`."""
        return self._inner.renewals()

    async def register(self, worker: str, workflows: Sequence[str] = ()) -> None:
        """See `Store`."""
        await self._reach("register", lambda: self._inner.register(worker, workflows))

    async def workers(self) -> list[WorkerRecord]:
        """See `Store`."""
        return await self._reach("workers", self._inner.workers)

    async def reap(self) -> int:
        """See `Store`."""
        return await self._reach("reap", self._inner.reap)

    async def held(self, worker: str) -> list[RunRecord]:
        """See `Store`."""
        return await self._reach("held", lambda: self._inner.held(worker))

    async def counts(self, worker: str) -> list[tuple[int, int]]:
        """See `Store`."""
        return await self._reach("counts", lambda: self._inner.counts(worker))

    async def open(self) -> None:
        """See `Store`."""
        await self._reach("open", self._inner.open)

    async def close(self) -> None:
        """See `Store`. Works after a crash too: the operating system closes files of the dead."""
        await self._inner.close()

    def commit_now(self, group: Sequence[Member]) -> list[Outcome] | None:
        """See `Store`. Never: every commit goes where faults can strike."""
        del group
        return None

    async def commit(self, group: Sequence[Member]) -> list[Outcome]:
        """See `Store`, and `Fault` for what else can happen."""
        await self._alive()
        self.commits += 1
        fault = self._choose(self.commits, group)
        self.hits[fault] += 1
        match fault:
            case Fault.REFUSE:
                raise StoreUnavailableError(store=self.url, reason="a fault refused the commit")
            case Fault.CRASH_BEFORE:
                await self._crash()
            case Fault.DELAY:
                await self._no_delays.wait()
            case _:
                pass
        outcomes = await self._inner.commit(group)
        if fault is Fault.CRASH_AFTER:
            await self._crash()
        if fault is Fault.APPLY_AND_FAIL:
            raise StoreUnavailableError(store=self.url, reason="a fault hid that it was applied")
        return outcomes

    async def _reach(self, call: str, ask: Ask[T]) -> T:
        """Make one call, other than a commit, of the inner store; none after a crash."""
        del call
        await self._alive()
        return await ask()

    async def _crash(self) -> None:
        self.crashed.set()
        await self._alive()

    async def _alive(self) -> None:
        if self.crashed.is_set():
            await asyncio.get_running_loop().create_future()

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
        """See `Store`."""
        return await self._reach(
            "claim",
            lambda: self._inner.claim(
                worker, workflows=workflows, queues=queues, limit=limit, suspects=suspects, excluded=excluded
            ),
        )

    async def claim_one(self, worker: str, run_id: str) -> RunRecord | None:
        """See `Store`."""
        return await self._reach("claim_one", lambda: self._inner.claim_one(worker, run_id))

    async def release(self, held: Sequence[tuple[int, int]]) -> None:
        """See `Store`. Nothing after a crash: the dead give nothing back."""
        if not self.crashed.is_set():
            await self._reach("release", lambda: self._inner.release(held))

    async def retire(self, worker: str) -> None:
        """See `Store`. Nothing after a crash: the dead give nothing back."""
        if not self.crashed.is_set():
            await self._reach("retire", lambda: self._inner.retire(worker))

    async def read_journal(self, key: int, *, after: int = 0) -> list[JournalRow]:
        """See `Store`."""
        return await self._reach("read_journal", lambda: self._inner.read_journal(key, after=after))

    async def read_inbox(self, key: int, *, after: int = 0) -> list[InboxRow]:
        """See `Store`."""
        return await self._reach("read_inbox", lambda: self._inner.read_inbox(key, after=after))

    async def load(self, keys: Sequence[int]) -> list[Stored]:
        """See `Store`."""
        return await self._reach("load", lambda: self._inner.load(keys))

    async def pending(self, key: int) -> int:
        """See `Store`."""
        return await self._reach("pending", lambda: self._inner.pending(key))

    async def find_run(self, run_id: str) -> RunRecord | None:
        """See `Store`."""
        return await self._reach("find_run", lambda: self._inner.find_run(run_id))

    async def list_runs(
        self, *, status: str | None, workflow: str | None, limit: int, after: int | None
    ) -> list[RunRecord]:
        """See `Store`."""
        return await self._reach(
            "list_runs",
            lambda: self._inner.list_runs(status=status, workflow=workflow, limit=limit, after=after),
        )

    async def replace(self, new: NewRun, *, key: int, epoch: int, keep_inbox: bool = False) -> Outcome:
        """See `Store`."""
        return await self._reach(
            "replace", lambda: self._inner.replace(new, key=key, epoch=epoch, keep_inbox=keep_inbox)
        )

    async def delete(self, key: int) -> bool:
        """See `Store`."""
        return await self._reach("delete", lambda: self._inner.delete(key))

    async def sweep(self, workflow: str, status: str, *, before_ms: int, limit: int) -> int:
        """See `Store`."""
        return await self._reach(
            "sweep", lambda: self._inner.sweep(workflow, status, before_ms=before_ms, limit=limit)
        )

    async def save_definition(self, definition: Definition, *, current: bool) -> None:
        """See `Store`."""
        await self._reach("save_definition", lambda: self._inner.save_definition(definition, current=current))

    async def find_definition(self, name: str, fingerprint: str | None = None) -> Definition | None:
        """See `Store`."""
        return await self._reach("find_definition", lambda: self._inner.find_definition(name, fingerprint))

    async def definition_names(self) -> list[str]:
        """See `Store`."""
        return await self._reach("definition_names", self._inner.definition_names)

    async def save_snapshot(self, key: int, epoch: int, snapshot: Snapshot) -> None:
        """See `Store`."""
        await self._reach("save_snapshot", lambda: self._inner.save_snapshot(key, epoch, snapshot))
