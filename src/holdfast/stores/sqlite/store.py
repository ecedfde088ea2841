"""`SqliteStore`: the Store protocol over one file, with a writer thread, a reader thread and the owner lock."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Concatenate, Literal, ParamSpec, TypeVar

from holdfast.errors import HoldfastError, StoreRefusedError
from holdfast.ports import Clock, Threads
from holdfast.stores.records import (
    DEFAULT_QUEUE,
    Claimed,
    Definition,
    Member,
    NewRun,
    Outcome,
    Refused,
    RunRecord,
    Snapshot,
    WorkerRecord,
)
from holdfast.stores.sqlite import journal, leases, queries, removal, steps, workers
from holdfast.stores.sqlite.clock import StoreClock
from holdfast.stores.sqlite.connection import (
    CLIENT_BUSY_MS,
    OWNER_BUSY_MS,
    connect,
    migrate,
    transaction,
    translated,
)
from holdfast.stores.sqlite.ownership import Gate, OwnerLock
from holdfast.stores.sqlite.reads import Reads

P = ParamSpec("P")
T = TypeVar("T")
WorkerMode = Literal["auto"] | bool

QUICK_COMMIT_MS = 0.5
"""While a commit takes less on average, handing it to another thread would cost more than it saves."""
MEAN_WEIGHT = 0.1
LOG_PAGES_MAX = 500
"""Pages (2 MB) after which the log is copied back: writing over it was measured twice as fast as growing it."""
POLL_MS = (100, 100)
INHERIT_MS = 1_000
"""How often a client looks whether the file has lost its owner."""


class SqliteStore(Reads):
    """Keeps runs in one SQLite file: WAL, every acknowledged commit fsynced.

    Exactly one process per file, its owner, drives runs; the others are clients. The lock is the lease.
    """

    def __init__(
        self, path: str, *, worker: WorkerMode, clock: Clock, writer: Threads, reader: Threads
    ) -> None:
        """Prepare; nothing is opened before `open`.

        Args:
            path: The file; created where it does not exist.
            worker: True must own it, False never does, "auto" does if it can.
            clock: The machine's clocks.
            writer: One thread, used for nothing else.
            reader: One thread, used for nothing else.
        """
        super().__init__(path, writer=writer, reader=reader)
        self._mode: WorkerMode = worker
        self._machine_clock = clock
        self._clock = StoreClock(clock)
        self._lock = OwnerLock(path)
        self._gate = Gate(path)
        self._owns = False
        self._is_closed = False
        self._writes_in_flight = 0
        self._commit_mean_ms = 0.0
        self._log_pages = 0
        self._inherits_at_ms = 0.0
        self._due = leases.Due()
        self._registered: WorkerRecord | None = None

    @property
    def is_durable(self) -> bool:
        """See `Store`."""
        return True

    @property
    def is_instant(self) -> bool:
        """See `Store`."""
        return False

    @property
    def may_drive(self) -> bool:
        """See `Store`."""
        return self._owns

    @property
    def poll_ms(self) -> tuple[int, int] | None:
        """See `Store`."""
        return POLL_MS

    def now_ms(self) -> int:
        """See `Store`."""
        return self._clock.now_ms()

    async def open(self) -> None:
        """See `Store`."""
        await self._threads[0].call(self._open)

    def _open(self) -> None:
        self._owns = self._mode is not False and self._lock.acquire()
        if self._mode is True and not self._owns:
            raise self._lock.refusal()
        try:
            with self._gate.alone():
                writer = connect(
                    self._path,
                    busy_ms=OWNER_BUSY_MS if self._owns else CLIENT_BUSY_MS,
                    reads_only=False,
                )
                self._connections = (writer, writer)
                migrate(writer, self._path)
                steps.prepare(writer)
                reader = connect(self._path, busy_ms=CLIENT_BUSY_MS, reads_only=True)
            self._connections = (writer, reader)
            with translated(self._path):
                self._clock.start(reader, owns=self._owns)
            if self._owns:
                self._free_all(writer)
        except BaseException:
            self._close()
            raise

    async def close(self) -> None:
        """See `Store`."""
        writer, reader = self._threads
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await reader.call(lambda: None)  # whatever is being read
        finally:
            # The shield: a file must not stay owned because someone was cancelled while letting go of it.
            closing = writer.call(self._close)
            writer.close()
            reader.close()
            await asyncio.shield(closing)

    def _close(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            writer, reader = connections
            if self._owns:
                self._copy_log_back(writer)
            with self._gate.passing():
                reader.close()
                writer.close()
        self._gate.close()
        self._lock.release()
        self._owns = False

    def commit_now(self, group: Sequence[Member]) -> list[Outcome] | None:
        """See `Store`."""
        quick = self._commit_mean_ms < QUICK_COMMIT_MS
        if len(group) > 1 or not quick or not self._owns or self._writes_in_flight:
            return None
        outcomes = self._commit(group)
        if self._log_pages > LOG_PAGES_MAX:
            self._write_soon(partial(self._copy_log_back, self._opened()[0]))
        return outcomes

    async def commit(self, group: Sequence[Member]) -> list[Outcome]:
        """See `Store`."""
        return await self._on_writer(self._commit_and_tidy, group)

    def _commit_and_tidy(self, connection: sqlite3.Connection, group: Sequence[Member]) -> list[Outcome]:
        outcomes = self._commit(group)
        self._tidy(connection, 0)
        return outcomes

    def _tidy(self, connection: sqlite3.Connection, pages: int) -> None:
        """So many more pages were written; copy the log back where it has become long."""
        self._log_pages += pages
        if self._owns and self._log_pages > LOG_PAGES_MAX:
            self._copy_log_back(connection)

    def _commit(self, group: Sequence[Member]) -> list[Outcome]:
        begun_ms = self._machine_clock.monotonic_ms()
        connection, _ = self._opened()
        with translated(self._path):
            outcomes = steps.write(connection, group, self._clock)
        if outcomes is None:
            outcomes = self._commit_any(connection, group)
        spent_ms = self._machine_clock.monotonic_ms() - begun_ms
        if len(group) == 1:
            self._commit_mean_ms += (spent_ms - self._commit_mean_ms) * MEAN_WEIGHT
        self._log_pages += journal.pages_written(group)
        return outcomes

    def _commit_any(self, connection: sqlite3.Connection, group: Sequence[Member]) -> list[Outcome]:
        try:
            with self._stamped(connection) as at_ms:
                return journal.write_group(connection, group, at_ms)
        except (StoreRefusedError, journal.PartlyFencedError):
            with self._stamped(connection) as at_ms:
                return journal.write_one_by_one(connection, group, at_ms)

    @contextlib.contextmanager
    def _stamped(self, connection: sqlite3.Connection) -> Generator[int]:
        """A transaction and its stamp."""
        try:
            with transaction(connection, self._path):
                yield self._clock.stamp(connection)
        except HoldfastError:
            self._clock.reserve_again()
            raise

    def _copy_log_back(self, connection: sqlite3.Connection) -> None:
        with self._gate.closed() as alone:
            if alone:
                with translated(self._path):
                    connection.execute("pragma wal_checkpoint(passive)").fetchall()
                self._log_pages = 0

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
        if not self._owns and not await self._inherit():
            return Claimed()
        names = (tuple(dict.fromkeys(queues)), tuple(dict.fromkeys(workflows)))
        asked = (*names, suspects, json.dumps(excluded))
        due = await self._on_reader(self._due.look, self._clock, asked, limit)
        runs = await self._on_writer(self._hold, due, worker) if due else []
        return Claimed(runs, self._due.next_at_ms)

    async def _inherit(self) -> bool:
        """Become the owner if the one there was has gone and this process may; looks once a second."""
        now_ms = self._machine_clock.monotonic_ms()
        if self._mode != "auto" or now_ms < self._inherits_at_ms:
            return False
        self._inherits_at_ms = now_ms + INHERIT_MS
        return await self._on_writer(self._take_ownership)

    def _take_ownership(self, connection: sqlite3.Connection) -> bool:
        if not self._lock.acquire():
            return False
        connection.execute(f"pragma busy_timeout={OWNER_BUSY_MS}")
        try:
            self._free_all(connection)
        except BaseException:
            self._lock.release()
            raise
        self._owns = True
        return True

    def _free_all(self, connection: sqlite3.Connection) -> None:
        """Begin to own the file: whoever owned it before is dead."""
        with self._stamped(connection) as at_ms:
            leases.free_all(connection, at_ms)
            workers.set_worker(connection, self._registered)

    async def register(self, worker: str, workflows: Sequence[str] = ()) -> None:
        """See `Store`. A client is no worker; one that becomes the owner later says then what it can drive."""
        self._registered = WorkerRecord(worker, tuple(sorted(set(workflows))))
        if self._owns:
            await self._on_writer(self._in_transaction, workers.set_worker, self._registered)

    async def workers(self) -> list[WorkerRecord]:
        """See `Store`, and `workers.alive` for when the owner is another process."""
        return await self._on_reader(workers.alive, self._path, owns=self._owns)

    def _hold(self, connection: sqlite3.Connection, keys: Sequence[int], worker: str) -> list[RunRecord]:
        with transaction(connection, self._path):
            return leases.hold(connection, keys, worker)

    async def claim_one(self, worker: str, run_id: str) -> RunRecord | None:
        """See `Store`."""
        record = await self.find_run(run_id) if self._owns else None
        if record is None or record.worker is not None:
            return None
        return next(iter(await self._on_writer(self._hold, [record.key], worker)), None)

    async def release(self, held: Sequence[tuple[int, int]]) -> None:
        """See `Store`."""
        await self._on_writer(self._give_back, leases.release, held)

    async def retire(self, worker: str) -> None:
        """See `Store`."""
        if self._registered is not None and self._registered.id == worker:
            self._registered = None
        await self._on_writer(self._give_back, leases.retire, worker)

    def _give_back(
        self, connection: sqlite3.Connection, fn: Callable[[sqlite3.Connection, T, int], None], whose: T
    ) -> None:
        with self._stamped(connection) as at_ms:
            fn(connection, whose, at_ms)

    async def replace(self, new: NewRun, *, key: int, epoch: int, keep_inbox: bool = False) -> Outcome:
        """See `Store`."""
        write = partial(removal.replace, key=key, epoch=epoch, keep_inbox=keep_inbox)
        return await self._on_writer(self._replace, new, write)

    def _replace(
        self,
        connection: sqlite3.Connection,
        new: NewRun,
        write: Callable[[sqlite3.Connection, NewRun, int], Outcome],
    ) -> Outcome:
        try:
            with self._stamped(connection) as at_ms:
                outcome = write(connection, new, at_ms)
        except StoreRefusedError as error:
            return Refused(error)
        self._tidy(connection, journal.pages_written([new]) + removal.PAGES_EACH)
        return outcome

    async def delete(self, key: int) -> bool:
        """See `Store`."""
        return await self._on_writer(self._remove, partial(removal.delete, key=key)) > 0

    async def sweep(self, workflow: str, status: str, *, before_ms: int, limit: int) -> int:
        """See `Store`."""
        sweep = partial(removal.sweep, workflow=workflow, status=status, before_ms=before_ms, limit=limit)
        return await self._on_writer(self._remove, sweep)

    def _remove(self, connection: sqlite3.Connection, fn: Callable[[sqlite3.Connection], int]) -> int:
        with transaction(connection, self._path):
            removed = fn(connection)
        self._tidy(connection, removed * removal.PAGES_EACH)
        return removed

    async def save_definition(self, definition: Definition, *, current: bool) -> None:
        """See `Store`."""
        save = partial(queries.save_definition, definition=definition, current=current)
        await self._on_writer(self._in_transaction, save)

    async def save_snapshot(self, key: int, epoch: int, snapshot: Snapshot) -> None:
        """See `Store`."""
        await self._on_writer(self._in_transaction, queries.save_snapshot, key, epoch, snapshot)

    def _in_transaction(
        self,
        connection: sqlite3.Connection,
        fn: Callable[Concatenate[sqlite3.Connection, P], None],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        with transaction(connection, self._path):
            fn(connection, *args, **kwargs)

    async def _on_writer(
        self,
        fn: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `fn(connection, ...)` on the writer thread; outsiders pass the gate for it."""
        # The shield keeps the count right: the thread goes on also where the caller is cancelled.
        connection = self._opened()[0]
        return await asyncio.shield(self._write_soon(partial(fn, connection, *args, **kwargs)))

    def _gated(self, fn: Callable[[], T]) -> T:
        if self._owns:
            return fn()
        with self._gate.passing():
            return fn()

    def _write_soon(self, fn: Callable[[], T]) -> asyncio.Future[T]:
        writer, _ = self._threads
        self._writes_in_flight += 1
        future = writer.call(partial(self._gated, fn))
        future.add_done_callback(self._written)
        return future

    def _written(self, future: asyncio.Future[T]) -> None:
        self._writes_in_flight -= 1
        if not future.cancelled():
            future.exception()
