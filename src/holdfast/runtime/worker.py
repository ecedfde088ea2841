"""A worker: claims due runs, drives them, and gives them back when it stops. One task group owns it all."""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from holdfast.core.effects import StartAttempt
from holdfast.core.run import Run
from holdfast.definition.task import Task
from holdfast.definition.workflow import Workflow
from holdfast.errors import FormatError, HoldfastError, StoreUnavailableError
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.driver import Driver
from holdfast.runtime.folds import fold
from holdfast.runtime.limits import CLAIM_MAX, GRACE_MS
from holdfast.stores.base import Append, Definition, RunRecord, Snapshot, Store
from holdfast.stores.group_commit import GroupCommit

LOGGER = logging.getLogger("holdfast.worker")
UNAVAILABLE_WAIT_S = 1.0
"""Between looks at a store that does not answer."""


class Worker:
    """Drives the runs of the workflows it knows, up to `concurrency` at once.

    Attributes:
        worker_id: New with every start of a worker.
        group: Where everything of this process is committed.
        attempts: Calls tasks.
        running: Set once runs can be driven.
        is_draining: Whether it is about to stop: nothing new is started.
    """

    def __init__(
        self,
        store: Store,
        bound: Mapping[str, BoundWorkflow],
        *,
        worker_id: str,
        attempts: Attempts,
        concurrency: int,
    ) -> None:
        """Args: an open store, workflows by name, an id never used before, and the bound of active runs."""
        self.worker_id = worker_id
        self.group = GroupCommit(store)
        self.attempts = attempts
        self.running = asyncio.Event()
        self.is_draining = False
        self._store = store
        self._bound = bound
        self._pinned: dict[str, BoundWorkflow | None] = {
            each.workflow.fingerprint: each for each in bound.values()
        }
        self._concurrency = concurrency
        self._drivers: dict[str, Driver] = {}
        self._busy = 0
        self._watchers: dict[str, list[asyncio.Future[Run | None]]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._saving: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._claimed: deque[RunRecord] = deque()
        self._ready: deque[tuple[Driver, StartAttempt]] = deque()
        self._next_due_at_ms: int | None = None

    # What drivers need (`driver.Host`).

    def now_ms(self) -> int:
        """See `Host`."""
        return self._store.now_ms()

    def spawn(self, body: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """See `Host`."""
        if self._tasks is None:
            raise RuntimeError("the worker is not running")
        return self._tasks.create_task(body)

    def save_snapshot(self, driver: Driver, state: bytes) -> None:
        """See `Host`."""
        snapshot = Snapshot(driver.run.position, state)
        saving = self.spawn(self._save_snapshot(driver.record, snapshot))
        self._saving.add(saving)
        saving.add_done_callback(self._saving.discard)

    async def _save_snapshot(self, record: RunRecord, snapshot: Snapshot) -> None:
        try:
            await self._store.save_snapshot(record.key, record.epoch, snapshot)
        except StoreUnavailableError as error:
            LOGGER.info("no snapshot of run %r was kept: %s", record.id, error)

    def left(self, driver: Driver, *, due_at_ms: int | None) -> None:
        """See `Host`."""
        run_id = driver.record.id
        if self._drivers.get(run_id) is driver:
            del self._drivers[run_id]
        if due_at_ms is not None:
            known = self._next_due_at_ms
            self._next_due_at_ms = due_at_ms if known is None else min(known, due_at_ms)
        for watcher in self._watchers.pop(run_id, ()):
            if not watcher.done():
                watcher.set_result(driver.run if driver.run.is_over else None)
        self._wake.set()

    def occupy(self, slots: int) -> None:
        """See `Host`."""
        self._busy += slots
        while self._ready and self._free() > 0:
            driver, effect = self._ready.popleft()
            driver.begin(effect)
        self._wake.set()

    def begin_when_free(self, driver: Driver, effect: StartAttempt) -> None:
        """See `Host`."""
        if self._free() > 0:
            driver.begin(effect)
        else:
            self._ready.append((driver, effect))

    # What engines need.

    def reserve(self) -> bool:
        """Take a slot for a run that is about to be inserted as held; False where none is free."""
        if self.is_draining or not self._store.may_drive or self._free() <= 0:
            return False
        self._busy += 1
        return True

    def unreserve(self) -> None:
        """Give a reserved slot back: the run is driven by now, or was not inserted."""
        self.occupy(-1)

    def adopt(self, record: RunRecord, run: Run, bound: BoundWorkflow) -> None:
        """Drive a run that this worker holds and whose journal is folded already."""
        driver = Driver(self, record, run, bound)
        self._drivers[record.id] = driver
        driver.start()

    def watch(self, run_id: str) -> asyncio.Future[Run | None] | None:
        """The run when it is over, or None in the future when it leaves this worker unfinished.

        Returns:
            None at once for a run that is not driven here.
        """
        if run_id not in self._drivers:
            return None
        future: asyncio.Future[Run | None] = asyncio.get_running_loop().create_future()
        self._watchers.setdefault(run_id, []).append(future)
        return future

    async def define(self) -> None:
        """Tell the store which workflows are here; if this process drives, they become the current ones."""
        for bound in self._bound.values():
            workflow = bound.workflow
            definition = Definition(
                workflow.name, workflow.fingerprint, workflow.structure(), bound.input_schema()
            )
            # Only who drives decides what is current: an old client must not put back what it knows.
            await self._store.save_definition(definition, current=self._store.may_drive)

    def nudge(self) -> None:
        """Look for due runs now."""
        self._wake.set()

    async def resume(self, record: RunRecord) -> None:
        """Drive one run now, due or not; nothing if someone holds it, or its workflow is not known here."""
        if self._store.may_drive and record.id not in self._drivers and record.workflow in self._bound:
            # In a task of the worker's: a caller who is cancelled must not leave a run that nobody drives.
            await asyncio.shield(self.spawn(self._resume(record.id)))

    async def _resume(self, run_id: str) -> None:
        try:
            record = await self._store.claim_one(self.worker_id, run_id)
            if record is not None:
                self._claimed.append(record)
                await self._take_over_claimed()
        except StoreUnavailableError as error:
            LOGGER.warning("resuming run %r: %s", run_id, error)
            self.nudge()

    # Its life.

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set, then drain: bodies get the grace time, all runs are given back."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self.running.set()
            committing = tasks.create_task(self.group.run())
            claiming = tasks.create_task(self._claim_for_ever())
            try:
                await stopping.wait()
            except asyncio.CancelledError:
                # No time to drain: nothing may start any more while the tasks are cancelled.
                self.is_draining = True
                self._cancel_bodies()
                raise
            await self._drain(claiming)
            for task in (committing, *self._saving):
                task.cancel()

    async def _claim_for_ever(self) -> None:
        driving = self._store.may_drive
        while not self.is_draining:
            self._wake.clear()
            try:
                wait_s = await self._claim()
                if self._store.may_drive and not driving:
                    await self.define()
                    driving = True
            except StoreUnavailableError as error:
                LOGGER.warning("looking for due runs: %s", error)
                wait_s = UNAVAILABLE_WAIT_S
            if not self.is_draining:
                await self._sleep(wait_s)

    async def _claim(self) -> float | None:
        """Claim what there are slots for; returns how long to wait for a reason to look again."""
        await self._take_over_claimed()
        limit = min(self._free(), CLAIM_MAX)
        if limit <= 0:
            return None
        records = await self._store.claim(
            self.worker_id,
            workflows=list(self._bound),
            limit=limit,
            excluded=[mark for mark, bound in self._pinned.items() if bound is None],
        )
        self._claimed.extend(records)
        await self._take_over_claimed()
        if len(records) == limit:
            return 0.0
        return self._wait_s()

    def _wait_s(self) -> float | None:
        """Until the next poll or the next due time, whichever is first."""
        poll_ms, now_ms = self._store.poll_ms, self.now_ms()
        dues = [due for due in (self._store.next_due_at_ms(), self._next_due_at_ms) if due is not None]
        self._next_due_at_ms = min((due for due in dues if due > now_ms), default=None)
        waits = [] if poll_ms is None else [float(poll_ms)]
        if self._next_due_at_ms is not None:
            waits.append(float(self._next_due_at_ms - now_ms))
        return min(waits) / 1_000 if waits else None

    async def _sleep(self, wait_s: float | None) -> None:
        if wait_s is None:
            await self._wake.wait()
            return
        handle = asyncio.get_running_loop().call_later(wait_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            handle.cancel()

    async def _take_over_claimed(self) -> None:
        """Drive what is held; what the store does not let us read now stays listed and is tried again."""
        while self._claimed:
            record = self._claimed.popleft()
            try:
                await self._take_over(record)
            except (StoreUnavailableError, asyncio.CancelledError):
                self._claimed.appendleft(record)
                raise

    async def _take_over(self, record: RunRecord) -> None:
        """Fold the journal of a claimed run and drive it; what cannot be read blocks this run only."""
        try:
            bound = await self._bound_to(record)
            if bound is None:
                await self._store.release([(record.key, record.epoch)])
                return
            run = await fold(self._store, record)
            bound.refuse_foreign(run)
        except (HoldfastError, LookupError, ValueError) as error:
            if isinstance(error, StoreUnavailableError):
                raise
            LOGGER.error("run %r is blocked: %s", record.id, error)  # noqa: TRY400 - the data's fault, not the code's
            await self._block(record)
            return
        self.adopt(record, run, bound)

    async def _block(self, record: RunRecord) -> None:
        await self.group.commit(
            Append(record.key, record.epoch, record.position, (), "blocked", None, None, messages_read=None)
        )

    async def _bound_to(self, record: RunRecord) -> BoundWorkflow | None:
        """The structure a run is pinned to, with the deployed code; None where tasks of it are gone."""
        mark = record.fingerprint
        if mark not in self._pinned:
            self._pinned[mark] = await self._load(record)
        return self._pinned[mark]

    async def _load(self, record: RunRecord) -> BoundWorkflow | None:
        stored = await self._store.find_definition(record.workflow, record.fingerprint)
        if stored is None:
            raise FormatError(
                subject=f"run {record.id!r}",
                reason=f"its definition {record.fingerprint} is not in the store",
                fix="restore the table `definitions` from a backup",
            )
        workflow = Workflow.from_structure(stored.structure, tasks=self._tasks_deployed(record))
        missing = workflow.missing_tasks()
        if missing:
            LOGGER.warning(
                "runs of %s with definition %s wait: task %s is not deployed here",
                record.workflow,
                record.fingerprint,
                ", ".join(missing),
            )
            return None
        return BoundWorkflow(workflow)

    def _tasks_deployed(self, record: RunRecord) -> Sequence[Task[..., Any]]:
        return list(self._bound[record.workflow].workflow.tasks.values())

    def _free(self) -> int:
        return self._concurrency - self._busy

    async def _drain(self, claiming: asyncio.Task[None]) -> None:
        """Wait for claims, bodies and commits under way up to the grace time, then give every run back."""
        self.is_draining = True
        self._wake.set()
        claiming.add_done_callback(lambda _: self._wake.set())
        grace = asyncio.get_running_loop().call_later(GRACE_MS / 1_000, self._end_grace, claiming)
        while not claiming.done() or any(driver.is_busy for driver in self._drivers.values()):
            self._wake.clear()
            await self._wake.wait()
        grace.cancel()
        for driver in list(self._drivers.values()):
            driver.drop()
            self.left(driver, due_at_ms=None)
        try:
            await self._store.release_all(self.worker_id)
        except StoreUnavailableError as error:
            LOGGER.warning("runs could not be given back: %s", error)

    def _end_grace(self, claiming: asyncio.Task[None]) -> None:
        LOGGER.warning("what is still under way after %d ms is cancelled", GRACE_MS)
        claiming.cancel()
        self._cancel_bodies()

    def _cancel_bodies(self) -> None:
        for driver in self._drivers.values():
            driver.drop()
        self._wake.set()
