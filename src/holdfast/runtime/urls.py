"""Store URLs: `memory://`, `sqlite:///relative.db`, `sqlite:////absolute.db`."""

from holdfast.errors import UsageError
from holdfast.ports import Clock
from holdfast.runtime.executors import DaemonThreads
from holdfast.stores.base import Store
from holdfast.stores.memory import MemoryStore
from holdfast.stores.sqlite.store import SqliteStore, WorkerMode

_SQLITE = "sqlite:///"


def store_at(url: str, *, worker: WorkerMode, clock: Clock) -> Store:
    """Make the store a URL names; nothing is opened yet.

    Raises:
        UsageError: No URL of a known store.
    """
    if url == "memory://":
        return MemoryStore(clock)
    path = url.removeprefix(_SQLITE)
    if path in {url, "", ":memory:"}:
        raise UsageError(
            what=f"{url!r} is no URL of a store",
            fix='use "sqlite:///relative.db", "sqlite:////absolute.db" or "memory://"',
        )
    return SqliteStore(
        path,
        worker=worker,
        clock=clock,
        writer=DaemonThreads(1, name="holdfast-writer"),
        reader=DaemonThreads(1, name="holdfast-reader"),
    )
