"""Store URLs: `memory://`, `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://user@host/database`.

Options of ours stand in the query of a PostgreSQL URL; what else is there goes to the driver:

    schema=holdfast        where the tables are
    migrate=on             bring the schema up to date at open; else `holdfast db migrate` does
    hints=off              behind a transaction pooler: no LISTEN, others are seen by looking
    listen_url=...         a direct URL for LISTEN, where the other one leads to a pooler
    prepared=off           behind a pooler that keeps no prepared statements
"""

import contextlib
import re
from collections.abc import Generator
from types import ModuleType
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from holdfast.errors import UsageError
from holdfast.ports import Clock
from holdfast.runtime.executors import DaemonThreads
from holdfast.stores.base import Store
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import LeaseTimes
from holdfast.stores.sqlite.store import SqliteStore, WorkerMode

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql://", "postgres://")
_PASSWORD = re.compile(r"(://[^/@:]*):[^/@]*(?=@)|(?<=password=)[^&]*")
_OURS = ("migrate", "listen_url")


def store_at(url: str, *, worker: WorkerMode, clock: Clock, lease_ms: int = LeaseTimes().lease_ms) -> Store:
    """Make the store a URL names; nothing is opened yet.

    Raises:
        UsageError: No URL of a known store, options that it does not have, or a driver that is not installed.
    """
    if url == "memory://":
        return MemoryStore(clock)
    if url.startswith(_POSTGRES):
        return _postgres(url, worker=worker, clock=clock, lease_ms=lease_ms)
    path = url.removeprefix(_SQLITE)
    if path in {url, "", ":memory:"}:
        raise UsageError(
            what=f"{without_password(url)!r} is no URL of a store",
            fix='use "sqlite:///relative.db", "sqlite:////absolute.db", "postgresql://..." or "memory://"',
        )
    return SqliteStore(
        path,
        worker=worker,
        clock=clock,
        writer=DaemonThreads(1, name="holdfast-writer", hands_over=True),
        reader=DaemonThreads(1, name="holdfast-reader"),
    )


def without_ours(url: str) -> tuple[str, dict[str, str]]:
    """A PostgreSQL URL as its store takes it, and those of the options that are not the store's."""
    parts = urlsplit(url)
    given = parse_qsl(parts.query, keep_blank_values=True)
    ours = {name: value for name, value in given if name in _OURS}
    rest = urlencode([(name, value) for name, value in given if name not in _OURS], safe="/")
    return urlunsplit(parts._replace(query=rest)), ours


def without_password(url: str) -> str:
    """The URL as people may see it; also of one that was mistyped."""
    return _PASSWORD.sub(r"\1", url)


def is_postgres(url: str) -> bool:
    """Whether a URL names a PostgreSQL database."""
    return url.startswith(_POSTGRES)


def postgres_schema() -> ModuleType:
    """The module that knows the tables of a PostgreSQL database.

    Raises:
        UsageError: The driver is not installed.
    """
    with _driver():
        from holdfast.stores.postgres import schema  # noqa: PLC0415 - an optional driver's
    return schema


@contextlib.contextmanager
def _driver() -> Generator[None]:
    try:
        yield
    except ImportError as error:
        raise UsageError(
            what=f"PostgreSQL needs a driver that is not installed ({error})",
            fix='pip install "holdfast[postgres]"',
        ) from error


def _postgres(url: str, *, worker: WorkerMode, clock: Clock, lease_ms: int) -> Store:
    with _driver():
        from holdfast.stores.postgres.store import PostgresStore  # noqa: PLC0415 - an optional driver's
    address, ours = without_ours(url)
    migrate = ours.get("migrate", "off")
    if migrate not in {"on", "off"}:
        raise UsageError(what=f"migrate={migrate} in the URL of the store", fix="use migrate=on or migrate=off")
    return PostgresStore(
        address,
        clock=clock,
        lease=LeaseTimes.of(lease_ms),
        drives=worker is not False,
        migrate=migrate == "on",
        listen_url=ours.get("listen_url"),
    )
