"""`PostgresStore`: the Store protocol over one schema of a PostgreSQL database."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from holdfast.errors import StoreRefusedError, StoreUnavailableError
from holdfast.ports import Clock
from holdfast.stores.base import Renewals
from holdfast.stores.postgres import group as groups
from holdfast.stores.postgres import inbox, journal, leases, queries, removal, schema
from holdfast.stores.postgres.clock import StoreClock
from holdfast.stores.postgres.connection import Address, Connection, Pool, connect, opening
from holdfast.stores.postgres.hints import Hints
from holdfast.stores.postgres.journal import Written
from holdfast.stores.postgres.renewals import PostgresRenewals
from holdfast.stores.records import (
    DEFAULT_QUEUE,
    Append,
    Applied,
    Claimed,
    Definition,
    InboxRow,
    JournalRow,
    LeaseTimes,
    Member,
    NewRun,
    Outcome,
    Refused,
    RunRecord,
    Snapshot,
    Stored,
    WorkerRecord,
)

P = ParamSpec("P")
T = TypeVar("T")

POLL_MS = (50, 5_000)
# Besides the stamp, a name for this connection's process: hints carry it, so that nobody hears himself.
_HELLO = "select {schema}.now_ms(), gen_random_uuid()::text"


class PostgresStore:
    """Keeps runs in a schema that any number of processes share.

    An acknowledged commit is as durable as the server's `synchronous_commit` makes it: by default, fsynced.
    Opening frees no run: whoever held it may be alive, and its lease tells. `close` must be called in the task
    that called `open`.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        schema: str = schema.DEFAULT_SCHEMA,
        lease: LeaseTimes | None = None,
        drives: bool = True,
        migrate: bool = False,
        hints: bool = True,
        listen_url: str | None = None,
        pool_max: int = 4,
    ) -> None:
        """Prepare; nothing is connected before `open`.

        Args:
            url: `postgresql://user:password@host:port/database`. What it says of `schema`, `hints` and
                `prepared` holds: `?hints=off&prepared=off` is for a pooler that lends a server for one
                transaction.
            clock: The machine's clocks; only the monotonic one is used, the server's counts.
            schema: Where the tables are.
            lease: The times of workers' leases.
            drives: Whether this process may claim runs, or is a client only.
            migrate: Bring the schema to this version's format at `open`, creating it where there is none.
            hints: Send notifications to other processes and listen to theirs.
            listen_url: Of the server itself, where `url` is that of a pooler.
            pool_max: Connections at most, besides those of the listener and of the renewals.

        Raises:
            UsageError: The URL's options or the schema's name are none.
        """
        self._address = Address(url, schema=schema, hints=hints)
        listen_to = self._address if listen_url is None else Address(listen_url, schema=self._address.schema)
        self._url = url
        self._migrate = migrate
        self._drives = drives
        self._lease = lease or LeaseTimes()
        self._clock = StoreClock(clock)
        self._workers: set[str] = set()
        self._hints = Hints(self._address, listen_to=listen_to)
        # One is kept for the writer, so that no commit waits behind a crowd of readers.
        self._writes = Pool(self._address, size=1)
        self._reads = self._writes if pool_max < 2 else Pool(self._address, size=pool_max - 1)  # noqa: PLR2004 - one each
        self._tasks: asyncio.TaskGroup | None = None
        self._background: list[asyncio.Task[None]] = []
        self._is_open = False
        self._found = 0

    @property
    def url(self) -> str:
        """See `Store`."""
        return self._address.url

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
        return self._drives

    @property
    def poll_ms(self) -> tuple[int, int] | None:
        """See `Store`."""
        return POLL_MS

    @property
    def lease(self) -> LeaseTimes | None:
        """See `Store`."""
        return self._lease

    def now_ms(self) -> int:
        """See `Store`. An estimate that is never ahead of the server's clock."""
        return self._clock.now_ms()

    def on_hint(self, hint: Callable[[], None]) -> None:
        """See `Store`."""
        self._hints.on_hint(hint)

    async def open(self) -> None:
        """See `Store`. Frees nothing: leases tell who is dead.

        Raises:
            StoreConnectError: No server there, or it does not let this user in.
            FormatError: No schema of ours, or one of another format; it was not touched.
        """
        if self._migrate:
            await schema.migrate(self._url, self._address.schema)
        with opening(self._address.url):
            connection = await connect(self._address)
            try:
                self._found = (await schema.check(connection, self._address)).found
                row = await connection.fetchrow(self._address.sql(_HELLO))
            except BaseException:
                connection.terminate()
                raise
        assert row is not None
        self._clock.heard(row[0])
        self._hints.send_as(row[1])
        self._writes.open()
        self._reads.open()
        self._writes.put(connection)
        self._is_open = True
        if self._address.hints:
            self._tasks = tasks = asyncio.TaskGroup()
            await tasks.__aenter__()
            sending = tasks.create_task(self._hints.run_sender(self._reads))
            self._background = [sending, tasks.create_task(self._hints.run_listener())]

    async def close(self) -> None:
        """See `Store`. Called in the task that called `open`."""
        self._is_open = False
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            for task in self._background:
                task.cancel()
            await tasks.__aexit__(None, None, None)
        await self._reads.close()
        await self._writes.close()

    def commit_now(self, group: Sequence[Member]) -> list[Outcome] | None:  # noqa: ARG002 - of the protocol
        """See `Store`. A server is never near enough."""
        return None

    async def commit(self, group: Sequence[Member]) -> list[Outcome]:
        """See `Store`."""
        if not group:
            return []
        try:
            return await self._commit(group)
        except StoreRefusedError as error:
            if len(group) == 1:
                return [Refused(error)]
        # Each in a transaction of its own: nothing of the group was written, and one by one within one
        # transaction they would be locked in no order.
        return [(await self.commit([member]))[0] for member in group]

    async def _commit(self, group: Sequence[Member]) -> list[Outcome]:
        async with self._lend(self._writes) as connection:
            written = await self._write(connection, group)
        if written.at_ms is not None:
            self._clock.heard(written.at_ms)
        if written.hints:
            self._hints.send()
        return written.outcomes

    async def _write(self, connection: Connection, group: Sequence[Member]) -> Written:
        appends = [member for member in group if isinstance(member, Append)]
        if len(appends) < len(group) or any(
            a.messages or a.children or a.consumed or a.returned or not a.is_held for a in appends
        ):
            return await groups.write_group(connection, self._address, group, sorted(self._workers))
        if len(appends) == 1:
            return await journal.write_one(connection, self._address, appends[0])
        return await journal.write_many(connection, self._address, appends)

    async def register(self, worker: str, workflows: Sequence[str] = ()) -> None:
        """See `Store`."""
        await self._ask(
            leases.register, worker, lease_ms=self._lease.lease_ms, workflows=workflows, found=self._found
        )
        self._workers.add(worker)

    async def workers(self) -> list[WorkerRecord]:
        """See `Store`. Tables of format 1 do not tell what a worker can drive."""
        return await self._ask(leases.workers, found=self._found)

    def renewals(self) -> Renewals:
        """See `Store`."""
        return PostgresRenewals(self._address, self._lease)

    async def reap(self) -> int:
        """See `Store`."""
        return self._freed(await self._ask(leases.reap))

    def _freed(self, stamps: Sequence[int]) -> int:
        if stamps:
            self._clock.heard(stamps[0])
            self._hints.send()
        return len(stamps)

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
        if not self._drives:
            return Claimed()
        at_ms, claimed = await self._ask(
            leases.claim,
            worker,
            workflows=workflows,
            queues=queues,
            limit=limit,
            suspects=suspects,
            excluded=excluded,
        )
        self._clock.heard(at_ms)
        return claimed

    async def claim_one(self, worker: str, run_id: str) -> RunRecord | None:
        """See `Store`."""
        return await self._ask(leases.claim_one, worker, run_id)

    async def held(self, worker: str) -> list[RunRecord]:
        """See `Store`."""
        return await self._ask(leases.held, worker)

    async def counts(self, worker: str) -> list[tuple[int, int]]:
        """See `Store`."""
        return await self._ask(leases.counts, worker)

    async def release(self, held: Sequence[tuple[int, int]]) -> None:
        """See `Store`."""
        if held:
            self._freed(await self._ask(leases.release, held))

    async def retire(self, worker: str) -> None:
        """See `Store`."""
        self._freed(await self._ask(leases.retire, worker))
        self._workers.discard(worker)

    async def read_journal(self, key: int, *, after: int = 0) -> list[JournalRow]:
        """See `Store`."""
        return await self._ask(journal.read_journal, key, after)

    async def read_inbox(self, key: int, *, after: int = 0) -> list[InboxRow]:
        """See `Store`."""
        return await self._ask(inbox.read_inbox, key, after)

    async def load(self, keys: Sequence[int]) -> list[Stored]:
        """See `Store`."""
        return await self._ask(queries.load, keys) if keys else []

    async def pending(self, key: int) -> int:
        """See `Store`."""
        return await self._ask(inbox.pending, key)

    async def find_run(self, run_id: str) -> RunRecord | None:
        """See `Store`. An id that PostgreSQL cannot hold is no run's."""
        try:
            return await self._ask(queries.find_run, run_id)
        except StoreRefusedError:
            return None

    async def list_runs(
        self, *, status: str | None, workflow: str | None, limit: int, after: int | None
    ) -> list[RunRecord]:
        """See `Store`."""
        return await self._ask(queries.list_runs, status=status, workflow=workflow, limit=limit, after=after)

    async def replace(self, new: NewRun, *, key: int, epoch: int, keep_inbox: bool = False) -> Outcome:
        """See `Store`."""
        try:
            outcome = await self._ask(removal.replace, new, key=key, epoch=epoch, keep_inbox=keep_inbox)
        except StoreRefusedError as error:
            return Refused(error)
        if isinstance(outcome, Applied):
            self._clock.heard(outcome.at_ms)
            if new.over is None and (new.worker is None or not outcome.is_held):
                self._hints.send()
        return outcome

    async def delete(self, key: int) -> bool:
        """See `Store`."""
        return await self._ask(removal.delete, key)

    async def sweep(self, workflow: str, status: str, *, before_ms: int, limit: int) -> int:
        """See `Store`. Removes nothing from tables of format 1, which do not tell what is to be removed."""
        if self._found == 1:
            return 0
        return await self._ask(removal.sweep, workflow, status, before_ms=before_ms, limit=limit)

    async def save_definition(self, definition: Definition, *, current: bool) -> None:
        """See `Store`."""
        await self._ask(queries.save_definition, definition, current=current)

    async def find_definition(self, name: str, fingerprint: str | None = None) -> Definition | None:
        """See `Store`."""
        return await self._ask(queries.find_definition, name, fingerprint)

    async def definition_names(self) -> list[str]:
        """See `Store`."""
        return await self._ask(queries.definition_names)

    async def save_snapshot(self, key: int, epoch: int, snapshot: Snapshot) -> None:
        """See `Store`."""
        await self._ask(queries.save_snapshot, key, epoch, snapshot)

    async def _ask(
        self,
        fn: Callable[Concatenate[Connection, Address, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `fn(connection, address, ...)` with a connection of the readers."""
        async with self._lend(self._reads) as connection:
            return await fn(connection, self._address, *args, **kwargs)

    def _lend(self, pool: Pool) -> contextlib.AbstractAsyncContextManager[Connection]:
        if not self._is_open:
            raise StoreUnavailableError(store=self.url, reason="it is closed")
        return pool.connection()
