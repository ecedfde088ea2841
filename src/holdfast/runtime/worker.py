"""A worker: claims due runs, drives them, and gives them back when it stops. One task group owns it all."""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any

from holdfast.core.effects import StartAttempt
from holdfast.core.run import Run
from holdfast.errors import HoldfastError, LeaseLostError, StoreUnavailableError
from holdfast.ports import Clock, Heart, Ids
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.definitions import Definitions
from holdfast.runtime.driver import Driver
from holdfast.runtime.folds import fold
from holdfast.runtime.leases import Identity, Lease
from holdfast.runtime.limits import CLAIM_MAX, DOUBT_MS, GRACE_MS, UNAVAILABLE_WAIT_S
from holdfast.stores.base import Store
from holdfast.stores.group_commit import GroupCommit
from holdfast.stores.records import Append, Claimed, RunRecord, Snapshot

LOGGER = logging.getLogger("holdfast.worker")


class Worker:
    """Drives the runs of the workflows it knows, up to `concurrency` at once.

    Attributes:
        group: Where everything of this process is committed.
        attempts: Calls tasks.
        has_lapsed: Whether the lease has run out: nothing may be started or committed any more.
        running: Set once runs can be driven.
        is_draining: Whether it is about to stop: nothing new is started.
    """

    def __init__(
        self,
        store: Store,
        bound: Mapping[str, BoundWorkflow],
        *,
        ids: Ids,
        clock: Clock,
        heart: Heart,
        attempts: Attempts,
        concurrency: int,
    ) -> None:
        """Args: a store, workflows by name, and the bound of active runs."""
        self._identity = Identity(store, ids, clock, heart)
        self.has_lapsed = self._identity.has_lapsed
        self.group = GroupCommit(store, has_lapsed=self.has_lapsed)
        self.attempts = attempts
        self.running = asyncio.Event()
        self.is_draining = False
        self._store = store
        self._bound = bound
        self._clock = clock
        self._definitions = Definitions(store, bound)
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
        self._pause_ms = 0
        self._is_unsure = False
        self._doubts_until_ms = 0.0
        self._is_looking = False
        self._departed: set[str] = set()
        store.on_hint(self.nudge)

    # What drivers need (`driver.Host`).

    def now_ms(self) -> int:
        """See `Host`."""
        return self._store.now_ms()

    @property
    def worker_id(self) -> str:
        """Under which name runs are held: new with every start, and after each lapse of the lease."""
        return self._identity.worker

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
        if self._is_looking:
            self._departed.add(run_id)
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
        if self.is_draining or not self._store.may_drive or self._free() <= 0 or self.has_lapsed():
            return False
        self._busy += 1
        return True

    def unreserve(self) -> None:
        """Give a reserved slot back: the run is driven by now, or was not inserted."""
        self.occupy(-1)

    def adopt(self, record: RunRecord, run: Run, bound: BoundWorkflow) -> None:
        """Drive a run that this worker holds and whose journal is folded already.

        Nothing if that is not so any more: the worker has another name, or has driven it meanwhile.
        """
        known = self._drivers.get(record.id)
        if record.worker != self.worker_id or self.has_lapsed() or run.position != record.position:
            self._is_unsure = True
            return
        if known is not None:
            if known.record.epoch >= record.epoch:
                return
            # Its last commit gave the run back, and it has not heard so yet.
            known.drop()
            self.left(known, due_at_ms=None)
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
        # Only who drives decides what is current: an old client must not put back what it knows.
        await self._definitions.save(current=self._store.may_drive)

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
        except (StoreUnavailableError, LeaseLostError) as error:
            LOGGER.warning("resuming run %r: %s", run_id, error)
            self._doubt()
            self.nudge()

    # Its life.

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set, then drain: bodies get the grace time, all runs are given back."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            if self._store.may_drive:
                await self._identity.take()
            serving = [
                tasks.create_task(self.group.run()),
                tasks.create_task(self._identity.keep(self._lapse)),
            ]
            self.running.set()
            claiming = tasks.create_task(self._claim_for_ever())
            try:
                await stopping.wait()
            except asyncio.CancelledError:
                # No time to drain: nothing may start any more while the tasks are cancelled.
                self.is_draining = True
                self._identity.end()
                self._cancel_bodies()
                raise
            await self._drain(claiming)
            for task in (*serving, *self._saving):
                task.cancel()

    async def _lapse(self, lease: Lease) -> None:
        """Drop all runs, and go on under another name.

        Runs are given back where the store was out of reach. Where the loop was stuck they are left to whoever
        reaps them: what blocks a worker for so long is charged to its runs.
        """
        LOGGER.warning("worker %s has lost its lease and drops its %d runs", lease.worker, len(self._drivers))
        self._claimed.clear()
        self._ready.clear()
        for driver in list(self._drivers.values()):
            driver.drop()
            self.left(driver, due_at_ms=None)
        self.group.fence()
        await self._identity.take()
        if not lease.is_stuck:
            await self._retire(lease.worker)
        self.nudge()

    async def _retire(self, worker: str) -> None:
        try:
            await self._store.retire(worker)
        except StoreUnavailableError as error:
            LOGGER.warning("runs of worker %s could not be given back: %s", worker, error)

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
                self._doubt()
                wait_s = UNAVAILABLE_WAIT_S
            except LeaseLostError as error:
                LOGGER.warning("looking for due runs: %s", error)
                wait_s = UNAVAILABLE_WAIT_S
            if not self.is_draining:
                await self._sleep(wait_s)

    async def _claim(self) -> float | None:
        """Claim what there are slots for; returns how long to wait for a reason to look again."""
        if self._is_unsure or self._clock.monotonic_ms() < self._doubts_until_ms:
            await self._find_what_is_held()
        await self._take_over_claimed()
        limit = min(self._free(), CLAIM_MAX)
        if limit <= 0 or self.has_lapsed():
            return None
        claimed = await self._store.claim(
            self.worker_id,
            workflows=list(self._bound),
            limit=limit,
            suspects=0 if any(driver.is_suspect for driver in self._drivers.values()) else 1,
            excluded=self._definitions.undrivable(),
        )
        self._claimed.extend(claimed.runs)
        await self._take_over_claimed()
        if claimed.expired and await self._store.reap():
            return 0.0
        return 0.0 if len(claimed.runs) == limit else self._wait_s(claimed)

    def _doubt(self) -> None:
        """A claim has an unknown outcome, and may be carried out until the store gives it up."""
        self._is_unsure = True
        self._doubts_until_ms = self._clock.monotonic_ms() + DOUBT_MS

    async def _find_what_is_held(self) -> None:
        """A claim whose outcome is unknown may have held runs that nobody drives here."""
        self._is_unsure, self._is_looking = False, True
        self._departed.clear()
        known = {record.id for record in self._claimed}
        try:
            for record in await self._store.held(self.worker_id):
                if record.id not in self._drivers and record.id not in self._departed | known:
                    self._claimed.append(record)
        except BaseException:
            self._is_unsure = True
            raise
        finally:
            self._is_looking = False

    def _wait_s(self, claimed: Claimed) -> float | None:
        """Until the next poll or the next due time, whichever is first; polls get rarer while nothing comes."""
        now_ms = self.now_ms()
        dues = [due for due in (claimed.next_due_at_ms, self._next_due_at_ms) if due is not None]
        self._next_due_at_ms = min((due for due in dues if due > now_ms), default=None)
        waits: list[float] = []
        if self._store.poll_ms is not None:
            least_ms, most_ms = self._store.poll_ms
            self._pause_ms = least_ms if claimed.runs else min(max(self._pause_ms * 2, least_ms), most_ms)
            waits.append(self._pause_ms)
        if self._next_due_at_ms is not None:
            waits.append(self._next_due_at_ms - now_ms)
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
            bound = await self._definitions.bound_to(record)
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
        self._identity.end()
        await self._retire(self.worker_id)

    def _end_grace(self, claiming: asyncio.Task[None]) -> None:
        LOGGER.warning("what is still under way after %d ms is cancelled", GRACE_MS)
        claiming.cancel()
        self._cancel_bodies()

    def _cancel_bodies(self) -> None:
        for driver in self._drivers.values():
            driver.drop()
        self._wake.set()
