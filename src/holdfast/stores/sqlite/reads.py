"""The part of the SQLite store that only reads: on a thread and a connection of its own."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from holdfast.errors import StoreUnavailableError
from holdfast.ports import Threads
from holdfast.stores.base import Leaseless
from holdfast.stores.records import Definition, InboxRow, JournalRow, RunRecord, Stored
from holdfast.stores.sqlite import inbox, journal, leases, queries
from holdfast.stores.sqlite.connection import translated

P = ParamSpec("P")
T = TypeVar("T")


class Reads(Leaseless):
    """A store's two connections, and what it reads with the second one."""

    def __init__(self, path: str, *, writer: Threads, reader: Threads) -> None:
        """Args: the file, and the threads of the two connections."""
        self._path = path
        self._threads = (writer, reader)
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None

    @property
    def url(self) -> str:
        """See `Store`."""
        return f"sqlite:///{self._path}"

    async def held(self, worker: str) -> list[RunRecord]:
        """See `Store`."""
        return await self._on_reader(leases.held, worker)

    async def counts(self, worker: str) -> list[tuple[int, int]]:
        """See `Store`."""
        return await self._on_reader(leases.counts, worker)

    async def read_journal(self, key: int, *, after: int = 0) -> list[JournalRow]:
        """See `Store`."""
        return await self._on_reader(journal.read_journal, key, after)

    async def read_inbox(self, key: int, *, after: int = 0) -> list[InboxRow]:
        """See `Store`."""
        return await self._on_reader(inbox.read_inbox, key, after)

    async def load(self, keys: Sequence[int]) -> list[Stored]:
        """See `Store`."""
        return await self._on_reader(queries.load, keys)

    async def pending(self, key: int) -> int:
        """See `Store`."""
        return await self._on_reader(inbox.pending, key)

    async def find_run(self, run_id: str) -> RunRecord | None:
        """See `Store`."""
        return await self._on_reader(queries.find_run, run_id)

    async def list_runs(
        self, *, status: str | None, workflow: str | None, limit: int, after: int | None
    ) -> list[RunRecord]:
        """See `Store`."""
        return await self._on_reader(
            queries.list_runs, status=status, workflow=workflow, limit=limit, after=after
        )

    async def find_definition(self, name: str, fingerprint: str | None = None) -> Definition | None:
        """See `Store`."""
        return await self._on_reader(queries.find_definition, name, fingerprint)

    async def definition_names(self) -> list[str]:
        """See `Store`."""
        return await self._on_reader(queries.definition_names)

    async def _on_reader(
        self,
        fn: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `fn(connection, ...)` on the reader thread."""
        _, reader = self._threads
        connection = self._opened()[1]
        reading = reader.call(partial(self._read, partial(fn, connection, *args, **kwargs)))
        return await asyncio.shield(reading)

    def _read(self, fn: Callable[[], T]) -> T:
        with translated(self._path):
            return fn()

    def _opened(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        if self._connections is None:
            raise StoreUnavailableError(store=self.url, reason="it is closed")
        return self._connections
