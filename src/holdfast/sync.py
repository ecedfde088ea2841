"""`Engine`, `Handle` and `run`: the same names as in `engine`, blocking. One portal thread runs the loop."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from holdfast.definition.duration import Duration
from holdfast.definition.policies import Retention
from holdfast.engine import AsyncEngine, AsyncHandle, arun, in_running_loop
from holdfast.errors import UsageError
from holdfast.ports import Chance, Clock, Ids
from holdfast.runtime.explain import Explanation
from holdfast.runtime.limits import CONCURRENCY, LEASE
from holdfast.runtime.starts import Definable, OnConflict
from holdfast.runtime.views import JournalEntry, RunStatus, RunSummary
from holdfast.stores.base import Store
from holdfast.stores.records import DEFAULT_QUEUE

T = TypeVar("T")


class Portal:
    """A thread with an event loop in which one async engine lives."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Args: the engine to enter when the portal opens."""
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="holdfast-engine", daemon=True)

    def open(self) -> None:
        """Start the thread and wait until the engine works; raises what entering it raised.

        Raises:
            UsageError: It has been opened before.
        """
        if self._thread.ident is not None:
            raise UsageError(what="this engine has been opened before", fix="make a new one")
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error

    def close(self) -> None:
        """Leave the engine and wait for the thread; raises what leaving it raised. Idempotent."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def call(self, body: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it.

        Raises:
            UsageError: The engine is not open, or the caller runs an event loop itself.
        """
        if self._loop is None or not self._thread.is_alive():
            body.close()
            raise UsageError(what="the engine is not open", fix='use it inside "with Engine(...)"')
        if in_running_loop():
            body.close()
            raise UsageError(
                what="a blocking call inside a running event loop would stop the loop",
                fix="use AsyncEngine and await",
            )
        future = asyncio.run_coroutine_threadsafe(body, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        self._stopping = asyncio.Event()
        async with self._engine:
            self._loop = asyncio.get_running_loop()
            self._ready.set()
            await self._stopping.wait()


class Engine:
    """`AsyncEngine` for blocking programs: the same arguments, names, errors and guarantees.

    with Engine("sqlite:///orders.db", workflows=[flow]) as engine:
        handle = engine.start(flow, order, id="order-42")
        receipt = handle.result(timeout=30)
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        workflows: Iterable[Definable] = (),
        worker: Literal["auto"] | bool = "auto",
        concurrency: int = CONCURRENCY,
        queues: Sequence[str] = (DEFAULT_QUEUE,),
        lease: Duration = LEASE,
        retention: Retention | None = None,
        store: Store | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
        chance: Chance | None = None,
    ) -> None:
        """See `AsyncEngine`."""
        self._engine = AsyncEngine(
            url,
            workflows=workflows,
            worker=worker,
            concurrency=concurrency,
            queues=queues,
            lease=lease,
            retention=retention,
            store=store,
            clock=clock,
            ids=ids,
            chance=chance,
        )
        self._portal = Portal(self._engine)

    def __enter__(self) -> Self:
        """See `AsyncEngine.__aenter__`."""
        self._portal.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """See `AsyncEngine.__aexit__`."""
        self._portal.close()

    @property
    def url(self) -> str:
        """See `AsyncEngine.url`."""
        return self._engine.url

    @property
    def is_driving(self) -> bool:
        """See `AsyncEngine.is_driving`."""
        return self._engine.is_driving

    def start(
        self,
        workflow: Definable | str,
        input: object = None,
        *,
        id: str | None = None,
        on_conflict: OnConflict = "fail",
    ) -> "Handle":
        """See `AsyncEngine.start`."""
        starting = self._engine.start(workflow, input, id=id, on_conflict=on_conflict)
        return Handle(self._portal, self._portal.call(starting))

    def get(self, id: str) -> "Handle":
        """See `AsyncEngine.get`."""
        return Handle(self._portal, self._portal.call(self._engine.get(id)))

    def list(
        self,
        *,
        status: str | None = None,
        workflow: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[RunSummary]:
        """See `AsyncEngine.list`."""
        listing = self._engine.list(status=status, workflow=workflow, limit=limit, after=after)
        return self._portal.call(listing)

    def send_signal(self, run_id: str, name: str, payload: object = None, *, id: str | None = None) -> str:
        """See `AsyncEngine.send_signal`."""
        return self._portal.call(self._engine.send_signal(run_id, name, payload, id=id))

    def retry(self, id: str, *, by: str = "") -> "Handle":
        """See `AsyncEngine.retry`."""
        return Handle(self._portal, self._portal.call(self._engine.retry(id, by=by)))

    def delete(self, id: str) -> None:
        """See `AsyncEngine.delete`."""
        self._portal.call(self._engine.delete(id))

    def resume(self, id: str) -> Any:  # noqa: ANN401 - what the workflow returns
        """See `AsyncEngine.resume`."""
        return self._portal.call(self._engine.resume(id))


class Handle:
    """One run, by id; made by `Engine.start` and `get`."""

    def __init__(self, portal: Portal, handle: AsyncHandle) -> None:
        """Made by the engine."""
        self._portal = portal
        self._handle = handle
        self.id = handle.id

    def __repr__(self) -> str:
        """Show the id."""
        return f"<run {self.id}>"

    def result(self, timeout: Duration | None = None) -> Any:  # noqa: ANN401 - what the workflow returns
        """See `AsyncHandle.result`."""
        return self._portal.call(self._handle.result(timeout))

    def signal(self, name: str, payload: object = None, *, id: str | None = None) -> str:
        """See `AsyncHandle.signal`."""
        return self._portal.call(self._handle.signal(name, payload, id=id))

    def pause(self, reason: str = "", *, by: str = "", branch: str | None = None, freeze: bool = True) -> None:
        """See `AsyncHandle.pause`."""
        self._portal.call(self._handle.pause(reason, by=by, branch=branch, freeze=freeze))

    def unpause(self, *, by: str = "", branch: str | None = None) -> None:
        """See `AsyncHandle.unpause`."""
        self._portal.call(self._handle.unpause(by=by, branch=branch))

    def cancel(self, reason: str = "", *, by: str = "", wait: bool = False) -> None:
        """See `AsyncHandle.cancel`."""
        self._portal.call(self._handle.cancel(reason, by=by, wait=wait))

    def explain(self) -> Explanation:
        """See `AsyncHandle.explain`."""
        return self._portal.call(self._handle.explain())

    def status(self) -> RunStatus:
        """See `AsyncHandle.status`."""
        return self._portal.call(self._handle.status())

    def journal(self) -> list[JournalEntry]:
        """See `AsyncHandle.journal`."""
        return self._portal.call(self._handle.journal())


def run(flow: Definable, input: object = None) -> Any:  # noqa: ANN401 - what the workflow returns
    """Run a workflow in memory and return its output; see `arun`.

    Raises:
        UsageError: Called inside a running event loop; await `arun` there.
    """
    if in_running_loop():
        raise UsageError(what="run() was called inside a running event loop", fix="await arun(...)")
    return asyncio.run(arun(flow, input))
