"""A worker: claims due runs, drives them, and gives them back when it stops. One task group owns it all."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from holdfast.codecs import json as codec
from holdfast.core.children import Awaited
from holdfast.core.effects import StartAttempt
from holdfast.core.run import Run
from holdfast.errors import StoreUnavailableError
from holdfast.ports import Clock, Heart, Ids, Timer
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.claims import Claims
from holdfast.runtime.driver import Driver
from holdfast.runtime.host import Driven
from holdfast.runtime.inbox import Inbox
from holdfast.runtime.leases import Identity, Lease
from holdfast.runtime.limits import GRACE_MS
from holdfast.runtime.patience import until_answered
from holdfast.runtime.replacing import replace
from holdfast.runtime.starts import Definable, child_of, encode_input, resolve
from holdfast.stores.base import Store
from holdfast.stores.group_commit import GroupCommit
from holdfast.stores.records import InboxRow, NewRun, RunRecord, Snapshot

LOGGER = logging.getLogger("holdfast.worker")


class Worker:
    """Drives the runs of the workflows it knows, up to `concurrency` at once.

    Attributes:
        group: Where everything of this process is committed.
        attempts: Calls tasks.
        has_lapsed: Whether the lease has run out: nothing may be started or committed any more.
        is_alone: Whether nobody outside knows of its runs, so that children of any queue are for it.
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
        queues: list[str],
    ) -> None:
        """Args: a store, workflows by name, the bound of active runs, and the queues they are taken from."""
        self._identity = Identity(store, ids, clock, heart, workflows=sorted(bound))
        self.has_lapsed = self._identity.has_lapsed
        self.group = GroupCommit(store, has_lapsed=self.has_lapsed)
        self.attempts = attempts
        self.is_alone = False
        self.running = asyncio.Event()
        self.is_draining = False
        self._store = store
        self._bound = bound
        self._ids = ids
        self._clock = clock
        self._concurrency = concurrency
        self._queues = queues
        self._drivers: dict[str, Driver] = {}
        self._claims = Claims(
            store,
            bound,
            self._identity,
            self.group,
            queues=queues,
            clock=clock,
            drivers=self._drivers,
            free=self._free,
            adopt=self.adopt,
            disown=self.disown,
        )
        self.nudge = self._claims.nudge
        self.expect_mail = self._claims.expect_mail
        self._busy = 0
        self._watchers: dict[str, list[asyncio.Future[Run | None]]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._saving: set[asyncio.Task[None]] = set()
        self._ready: deque[tuple[Driven, StartAttempt]] = deque()
        self._is_idle = asyncio.Event()
        store.on_hint(self.nudge)

    # What drivers need (`driver.Host`).

    def now_ms(self) -> int:
        """See `Host`."""
        return self._store.now_ms()

    def call_later(self, delay_ms: float, fn: Callable[[], object]) -> Timer:
        """See `Host`."""
        return self._clock.call_later(delay_ms, fn)

    async def read_inbox(self, key: int, after: int) -> list[InboxRow]:
        """See `Host`."""
        return await until_answered(lambda: self._store.read_inbox(key, after=after), what="reading messages")

    def message_id(self) -> str:
        """See `Host`."""
        return self._ids.message_id()

    async def new_child(
        self,
        record: RunRecord,
        awaited: Awaited,
        position: int,
        target: Definable | str,
        value: object,
        *,
        detach: bool,
        queue: str | None = None,
    ) -> NewRun:
        """See `Host`."""
        workflow = await until_answered(
            lambda: resolve(self._store, self._bound, target), what="starting a child"
        )
        payload = encode_input(workflow, self._bound.get(workflow.name), value)
        new = child_of(record, awaited, position, workflow, payload, detach=detach, queue=queue)
        if self.is_alone and new.queue not in self._queues:
            self._queues.append(new.queue)
        return new

    def encode_input(self, workflow: str, value: object) -> bytes:
        """See `Host`."""
        bound = self._bound[workflow]
        return encode_input(bound.workflow, bound, value)

    def decode_output(self, workflow: str, payload: bytes) -> Any:  # noqa: ANN401 - typed by the workflow
        """See `Host`."""
        bound = self._bound.get(workflow)
        return (codec.decoder(Any) if bound is None else bound.decode_output)(payload)

    async def begin_anew(self, record: RunRecord, new: NewRun) -> None:
        """See `Host`."""
        await replace(self._store, new, record, keep_inbox=True)
        self.nudge()

    @property
    def worker_id(self) -> str:
        """Under which name runs are held: new with every start, and after each lapse of the lease."""
        return self._identity.worker

    def spawn(self, body: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """See `Host`."""
        if self._tasks is None:
            raise RuntimeError("the worker is not running")
        return self._tasks.create_task(body)

    def save_snapshot(self, driver: Driven, state: bytes) -> None:
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

    def left(self, driver: Driven, *, due_at_ms: int | None) -> None:
        """See `Host`."""
        run_id = driver.record.id
        if self._drivers.get(run_id) is driver:
            del self._drivers[run_id]
        self._claims.left(driver.record, due_at_ms)
        for watcher in self._watchers.pop(run_id, ()):
            if not watcher.done():
                watcher.set_result(driver.run if driver.run.is_over else None)
        self._is_idle.set()

    def occupy(self, slots: int) -> None:
        """See `Host`."""
        self._busy += slots
        while self._ready and self._free() > 0:
            driver, effect = self._ready.popleft()
            driver.begin(effect)
        self.nudge()
        self._is_idle.set()

    def begin_when_free(self, driver: Driven, effect: StartAttempt) -> None:
        """See `Host`."""
        if self._free() > 0:
            driver.begin(effect)
        else:
            self._ready.append((driver, effect))

    # What engines need.

    def reserve(self, queue: str) -> bool:
        """Take a slot for a run that is about to be inserted as held; False where there is none for it."""
        if (
            queue not in self._queues
            or self.is_draining
            or not self._store.may_drive
            or self._free() <= 0
            or self.has_lapsed()
        ):
            return False
        self._busy += 1
        return True

    def unreserve(self) -> None:
        """Give a reserved slot back: the run is driven by now, or was not inserted."""
        self.occupy(-1)

    def adopt(self, record: RunRecord, run: Run, bound: BoundWorkflow, inbox: Inbox) -> None:
        """Drive a run that this worker holds, and whose journal and inbox were read already.

        Nothing if that is not so any more: the worker has another name, or has driven it meanwhile.
        """
        known = self._drivers.get(record.id)
        if record.worker != self.worker_id or self.has_lapsed() or run.position != record.position:
            self._claims.is_unsure = True
            return
        if known is not None:
            if known.record.epoch >= record.epoch:
                return
            # Its last commit gave the run back, and it has not heard so yet.
            known.drop()
            self.left(known, due_at_ms=None)
        driver = Driver(self, record, run, bound, inbox)
        self._drivers[record.id] = driver
        driver.start()

    def disown(self, run_id: str, epoch: int) -> None:
        """Stop driving a run, without a trace: its epochs up to this one are over."""
        driver = self._drivers.get(run_id)
        if driver is not None and driver.record.epoch <= epoch:
            driver.drop()
            self.left(driver, due_at_ms=None)

    def is_driven(self, run_id: str) -> bool:
        """Whether this worker holds the run now."""
        return run_id in self._drivers

    def watch(self, run_id: str) -> asyncio.Future[Run | None]:
        """The run when it is over, or None, the next time that it leaves this worker; see `unwatch`."""
        future: asyncio.Future[Run | None] = asyncio.get_running_loop().create_future()
        self._watchers.setdefault(run_id, []).append(future)
        return future

    def unwatch(self, run_id: str, future: asyncio.Future[Run | None]) -> None:
        """Nobody waits for it any more."""
        watchers = self._watchers.get(run_id, [])
        if future in watchers:
            watchers.remove(future)
            if not watchers:
                del self._watchers[run_id]

    def notice(self, run_id: str, messages_sent: int) -> None:
        """Messages were sent from here: whoever drives the run reads them, or it has become due."""
        driver = self._drivers.get(run_id)
        if driver is None:
            self._claims.expect_mail()
        else:
            driver.notice(messages_sent)

    async def define(self) -> None:
        """Tell the store which workflows are here; if this process drives, they become the current ones."""
        # Only who drives decides what is current: an old client must not put back what it knows.
        await self._claims.definitions.save(current=self._store.may_drive)

    async def missing_tasks(self, record: RunRecord) -> list[str]:
        """Tasks that a run's structure calls and that are not here; none where its workflow is not here."""
        return await self._claims.definitions.missing_tasks(record)

    async def resume(self, record: RunRecord) -> None:
        """Drive one run now, due or not; nothing if someone holds it, or its workflow is not known here."""
        if self._store.may_drive and record.id not in self._drivers and record.workflow in self._bound:
            # In a task of the worker's: a caller who is cancelled must not leave a run that nobody drives.
            await asyncio.shield(self.spawn(self._claims.take_one(record.id)))

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
            claiming = tasks.create_task(self._claim())
            try:
                await stopping.wait()
                await self._drain(claiming)
            except asyncio.CancelledError:
                # No time to drain: nothing may start while the tasks are cancelled, and no timer fire later.
                self.is_draining = True
                self._identity.end()
                self._cancel_bodies()
                raise
            for task in (*serving, *self._saving):
                task.cancel()

    async def _claim(self) -> None:
        driving = self._store.may_drive

        def is_over() -> bool:
            return self.is_draining or self._store.may_drive is not driving

        while not self.is_draining:
            await self._claims.run(is_over)
            if self._store.may_drive is not driving:
                # The owner of the file has gone, and this process is it now.
                driving = self._store.may_drive
                await until_answered(self._take_office, what="taking the place of the owner")

    async def _take_office(self) -> None:
        await self._identity.take()
        await self.define()

    async def _lapse(self, lease: Lease) -> None:
        """Drop all runs, and go on under another name.

        Runs are given back where the store was out of reach. Where the loop was stuck they are left to whoever
        reaps them: what blocks a worker for so long is charged to its runs.
        """
        LOGGER.warning("worker %s has lost its lease and drops its %d runs", lease.worker, len(self._drivers))
        self._claims.forget()
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

    @property
    def is_busy(self) -> bool:
        """Whether anything is under way for a run that is driven here: a body, a commit, a read."""
        return any(driver.under_way for driver in self._drivers.values())

    @property
    def under_way(self) -> int:
        """How much goes on by itself, without time: 0 means that only time or a caller can change anything."""
        driven = sum(driver.under_way for driver in self._drivers.values())
        is_looking = self._claims.is_looking and not self.is_draining
        return driven + len(self._saving) + is_looking + self.group.is_writing

    def _free(self) -> int:
        return self._concurrency - self._busy

    async def _drain(self, claiming: asyncio.Task[None]) -> None:
        """Wait for claims, bodies and commits under way up to the grace time, then give every run back."""
        self.is_draining = True
        self.nudge()
        claiming.add_done_callback(lambda _: self._is_idle.set())
        grace = self._clock.call_later(GRACE_MS, lambda: self._end_grace(claiming))
        try:
            while not claiming.done() or self.is_busy:
                self._is_idle.clear()
                await self._is_idle.wait()
        finally:
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
        self._is_idle.set()
