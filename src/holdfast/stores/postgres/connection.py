"""Reaching a PostgreSQL server: addresses without secrets, connections, and driver errors in our words.

asyncpg is not typed: `Connection` is the part of it that this package uses.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false, reportArgumentType=false

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from holdfast.errors import (
    FormatError,
    LeaseLostError,
    StoreConnectError,
    StoreRefusedError,
    StoreUnavailableError,
    UsageError,
)

CONNECT_S = 5.0
STATEMENT_S = 10.0
"""A server that answers nothing for this long counts as lost; what it was asked to write is unknown."""
RECONNECT_S = 1.0
"""Between two attempts to reach a server that could not be reached."""
SETTINGS = {
    "application_name": "holdfast",
    # Compiling costs more than any of our statements.
    "jit": "off",
    # A plan outlives the day on which the table was small enough to be read whole.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "plan_cache_mode": "force_generic_plan",
    # The server's own bounds: a client that freezes in a transaction keeps no locks.
    "statement_timeout": "10s",
    "idle_in_transaction_session_timeout": "10s",
}
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_REFUSED = re.compile(r"22...|23...|54000|54001|54011|54023")
"""Data exceptions, broken constraints, program limits: the same value fails every time
(https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
_UNREACHABLE = re.compile(r"28...|3D000|42501|0A000")
"""Wrong user or password, no such database, no rights: asking again changes nothing."""

Row = tuple[Any, ...]


class Transaction(Protocol):
    """A transaction, or a savepoint inside of one."""

    async def __aenter__(self) -> object: ...
    async def __aexit__(self, *error: object) -> None: ...


class Connection(Protocol):
    """The part of asyncpg's connection that the store uses."""

    async def fetch(self, query: str, *args: object) -> list[Row]:
        """All rows."""
        ...

    async def fetchrow(self, query: str, *args: object) -> Row | None:
        """The first row, or None."""
        ...

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:  # noqa: ASYNC109 - the driver's name
        """The server's word for what was done."""
        ...

    def transaction(self) -> Transaction:
        """To be entered."""
        ...

    def is_closed(self) -> bool:
        """Whether either side has closed it."""
        ...

    def terminate(self) -> None:
        """Close it without a word to the server."""
        ...

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the driver's name
        """Close it."""
        ...

    async def add_listener(self, channel: str, callback: Callable[..., None]) -> None:
        """Call back for each notification."""
        ...

    def add_termination_listener(self, callback: Callable[..., None]) -> None:
        """Call back when it is closed."""
        ...


class Address:
    """Where a store is, and how to speak to it. Its `url` is for people, `dsn` holds the secrets."""

    __slots__ = ("dsn", "hints", "prepared", "schema", "url")

    def __init__(self, url: str, *, schema: str, hints: bool = True) -> None:
        """Read a URL; what its query says of `schema`, `hints` and `prepared` holds.

        Raises:
            UsageError: No name for a schema, or neither `on` nor `off`.
        """
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.schema = query.pop("schema", schema)
        if _SCHEMA.fullmatch(self.schema) is None:
            raise UsageError(
                what=f"{self.schema!r} is no name for a schema",
                fix="use 1 to 63 of a-z, 0-9 and _, and no digit first",
            )
        self.hints = _is_on(query, "hints", otherwise=hints)
        self.prepared = _is_on(query, "prepared", otherwise=True)
        self.dsn = urlunsplit(parts._replace(query=urlencode(query)))
        query.pop("password", None)
        user, _, hosts = parts.netloc.rpartition("@")
        place = f"{user.partition(':')[0]}@{hosts}" if user else hosts
        shown = {**query, "schema": self.schema} if self.schema != "holdfast" else query
        self.url = urlunsplit(parts._replace(netloc=place, query=urlencode(shown, safe="/")))

    def sql(self, statement: str) -> str:
        """A statement over the tables of this schema. Its name was checked, so quoting it is enough."""
        return statement.replace("{schema}", f'"{self.schema}"')


def _is_on(query: dict[str, str], name: str, *, otherwise: bool) -> bool:
    value = query.pop(name, "on" if otherwise else "off")
    if value not in {"on", "off"}:
        raise UsageError(what=f"{name}={value} in the URL of the store", fix=f"use {name}=on or {name}=off")
    return value == "on"


async def connect(address: Address, *, made_as: type[Any] = asyncpg.Connection) -> Connection:
    """Open a connection, in `CONNECT_S` at most.

    Behind a pooler (`prepared=off`) nothing outlives a transaction: no named statement, and no setting.

    Raises:
        Whatever the driver raises: call it inside `opening` or `translated`.
    """
    connection: Connection = await asyncpg.connect(
        address.dsn,
        timeout=CONNECT_S,
        command_timeout=STATEMENT_S,
        statement_cache_size=100 if address.prepared else 0,
        server_settings=SETTINGS if address.prepared else None,
        connection_class=made_as,
    )
    return connection


@contextlib.contextmanager
def opening(store: str) -> Generator[None]:
    """Turn the driver's errors at opening into ours: what only a person can mend is told as such."""
    try:
        with translated(store):
            yield
    except StoreUnavailableError as error:
        cause = error.__cause__
        if isinstance(cause, asyncpg.PostgresError):
            if _UNREACHABLE.fullmatch(str(cause.sqlstate)) is None:
                raise
        elif not isinstance(cause, OSError | ValueError):
            raise
        raise StoreConnectError(store=store, reason=error.reason) from cause


@contextlib.contextmanager
def translated(store: str) -> Generator[None]:
    """Turn the driver's errors into ours; the one place where that happens."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if _REFUSED.fullmatch(str(error.sqlstate)) is not None:
            # What the client cannot even encode has a cause; its own text would show the whole value.
            raise StoreRefusedError(reason=str(error.__cause__ or error)) from error
        raise StoreUnavailableError(store=store, reason=str(error)) from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, EOFError) as error:
        reason = str(error) or "no answer in time"
        raise StoreUnavailableError(store=store, reason=reason) from error


@contextlib.asynccontextmanager
async def on_one_server(connection: Connection, address: Address) -> AsyncGenerator[None]:
    """Behind a pooler a transaction, or each half of a statement might be answered by another server."""
    if address.prepared:
        yield
        return
    async with connection.transaction():
        await connection.execute("set local jit = off")
        yield


class Pool:
    """A few connections, made when they are needed. Nothing waits for a second one while it has one."""

    def __init__(self, address: Address, *, size: int) -> None:
        """Args: where to, and how many at most."""
        self._address = address
        self._slots = asyncio.Semaphore(size)
        self._connecting = asyncio.Lock()
        self._idle: list[Connection] = []
        self._refusal = ""
        self._again_at_s = 0.0
        self._is_closed = False

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncGenerator[Connection]:
        """Lend a connection; one that failed in an unknown state is not used again.

        Raises:
            StoreUnavailableError: No answer, or none in time.
            StoreRefusedError: A value that PostgreSQL can never hold.
        """
        async with self._slots:
            connection = await self._take()
            try:
                with translated(self._address.url):
                    if self._address.prepared:
                        yield connection
                    else:
                        async with on_one_server(connection, self._address):
                            yield connection
            except (StoreRefusedError, LeaseLostError, FormatError):
                self.put(connection)
                raise
            except BaseException:
                connection.terminate()
                raise
            self.put(connection)

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        async with self._connecting:
            loop = asyncio.get_running_loop()
            if self._refusal and loop.time() < self._again_at_s:
                raise StoreUnavailableError(store=self._address.url, reason=self._refusal)
            try:
                with translated(self._address.url):
                    connection = await connect(self._address)
            except StoreUnavailableError as error:
                self._refusal, self._again_at_s = error.reason, loop.time() + RECONNECT_S
                raise
            self._refusal = ""
            return connection

    def put(self, connection: Connection) -> None:
        """Take a connection in, or end it if the pool was closed while it was lent."""
        if self._is_closed:
            connection.terminate()
        else:
            self._idle.append(connection)

    def open(self) -> None:
        """Keep connections from now on."""
        self._is_closed = False

    async def close(self) -> None:
        """Close what is not lent; idempotent. It is open again as soon as `open` says so."""
        self._is_closed = True
        while self._idle:
            connection = self._idle.pop()
            try:
                with translated(self._address.url):
                    await connection.close(timeout=1)
            except StoreUnavailableError:
                connection.terminate()
