"""`AsyncEngine` and `AsyncHandle`, and `arun`: the public face of a node, for async programs."""

import asyncio
import contextlib
import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from holdfast.core.entries import Paused, RunCancelled, Unpaused
from holdfast.definition.duration import Duration, to_ms
from holdfast.definition.policies import Retention
from holdfast.errors import UsageError
from holdfast.ports import Chance, Clock, Heart, Ids, Threads
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.executors import DaemonThreads
from holdfast.runtime.explain import Explanation
from holdfast.runtime.ids import SystemChance, SystemIds
from holdfast.runtime.leases import ThreadHeart
from holdfast.runtime.limits import CONCURRENCY, LEASE, THREADS_MAX
from holdfast.runtime.node import Ending, Node
from holdfast.runtime.starts import Definable, OnConflict
from holdfast.runtime.urls import store_at
from holdfast.runtime.views import JournalEntry, RunStatus, RunSummary
from holdfast.stores.base import Store
from holdfast.stores.records import DEFAULT_QUEUE

URL_VARIABLE = "HOLDFAST_URL"


class AsyncEngine:
    """Starts runs, drives them in this process, and answers about them. Use it with `async with`.

        async with AsyncEngine("sqlite:///orders.db", workflows=[flow]) as engine:
            handle = await engine.start(flow, order, id="order-42")
            receipt = await handle.result(timeout=30)

    When the block ends, nothing new is started, bodies that run get 10 s to finish, and unfinished runs are
    given back: whoever opens the store next goes on with them.
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
        heart: Heart | None = None,
        threads: Threads | None = None,
    ) -> None:
        """Bind the workflows; nothing is opened before the `async with` block begins.

        Args:
            url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://user@host/database` or
                `memory://`; default the environment variable `HOLDFAST_URL`.
            workflows: What this process can drive: flows and workflows, each name once.
            worker: Drive runs: "auto" if no other process owns the SQLite file, True or fail, False never. On
                PostgreSQL any number of processes drive.
            concurrency: Runs that are active at once, 1 to 100,000; waiting ones do not count.
            queues: Drive the runs of these; a child may be in one of its own (`ctx.child(..., queue=)`).
            lease: On PostgreSQL, how long others wait after the last sign of life of this process before they
                take its runs over; a body that blocks the event loop for 0.6 of it loses its run.
            retention: How long runs are kept after their end: a duration such as "30d" for completed and
                cancelled ones, or one for each status; default for ever. A workflow's own counts first.
            store: Instead of `url`: an object of the Store protocol.
            clock: Instead of the machine's, for tests; so are the next ones.
            ids: Where new names come from.
            chance: What jitter is made of.
            heart: What renews the lease of this process.
            threads: Where sync bodies run.

        Raises:
            DefinitionError: A workflow cannot be built; `.problems` lists all of it.
            UsageError: No URL, one of no known store, or a bound that is not kept.
        """
        threads = threads or DaemonThreads(THREADS_MAX, name="holdfast-task")
        clock = clock or SystemClock()
        self._node = Node(
            store or store_at(_url(url), worker=worker, clock=clock, lease_ms=to_ms(lease, what="lease")),
            workflows,
            ids=ids or SystemIds(),
            clock=clock,
            heart=heart or ThreadHeart(clock),
            attempts=Attempts(threads=threads, chance=chance or SystemChance(), clock=clock),
            concurrency=concurrency,
            queues=queues,
            retention=retention,
        )
        self._exit = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open the store and begin to work.

        Raises:
            StoreOwnedError: `worker=True`, and another process owns the file; the error names it.
            StoreOpenError: The file cannot be created or opened.
            FormatError: No database, a foreign one or a newer format; it was not touched.
        """
        await self._exit.enter_async_context(self._node.running())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain, give unfinished runs back, and close the store."""
        await self._exit.__aexit__(kind, error, traceback)

    @property
    def url(self) -> str:
        """Where the runs are kept, without secrets."""
        return self._node.store.url

    @property
    def is_driving(self) -> bool:
        """Whether this process drives runs; False for a client of someone else's worker."""
        return self._node.store.may_drive

    async def start(
        self,
        workflow: Definable | str,
        input: object = None,
        *,
        id: str | None = None,
        on_conflict: OnConflict = "fail",
    ) -> "AsyncHandle":
        """Start a run. When this returns, the run is on disk and will be driven to its end.

        Args:
            workflow: One of `workflows`, or the name of one that any worker has brought to this store.
            input: Argument of the first step; checked against its annotation here.
            id: 1 to 255 bytes; default a new one. It makes starting the same thing twice harmless.
            on_conflict: If the id is taken: "fail"; "use_existing" to get that run if workflow and input are
                the same; or "restart" to put this run in its place: the old one's journal and signals are gone,
                and whoever drives it is stopped.

        Raises:
            WorkflowNotFoundError, InputError, RunExistsError, RunConflictError, UsageError: Nothing was
                started.
            StoreUnavailableError: Does not happen while the engine runs: it asks again until it works.
        """
        run_id, ending = await self._node.start(workflow, input, run_id=id, on_conflict=on_conflict)
        return AsyncHandle(self._node, run_id, ending)

    async def get(self, id: str) -> "AsyncHandle":
        """A handle on a run that is there.

        Raises:
            RunNotFoundError: No run has that id.
        """
        await self._node.find(id)
        return AsyncHandle(self._node, id)

    async def list(
        self,
        *,
        status: str | None = None,
        workflow: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[RunSummary]:
        """A page of runs, the last started first.

        Args:
            status: Only runs with it, such as "failed".
            workflow: Only runs of it, by name.
            limit: Runs of one page, 1 to 1,000.
            after: Id of the last run of the page before.

        Raises:
            UsageError: No such status, or a limit out of bounds.
            RunNotFoundError: `after` is no run.
        """
        return await self._node.list_runs(status=status, workflow=workflow, limit=limit, after=after)

    async def send_signal(
        self, run_id: str, name: str, payload: object = None, *, id: str | None = None
    ) -> str:
        """Send a signal to a run; see `AsyncHandle.signal`."""
        return await self._node.signal(run_id, name, payload, id)

    async def retry(self, id: str, *, by: str = "") -> "AsyncHandle":
        """Let a failed run go on at the step that failed, with new retries; the same run, id and journal.

        Branches that were stopped by the failure go on where they were, their clocks as they stood then. A
        time-out of the run begins anew.

        Raises:
            RunNotFoundError: No run has that id.
            RunStateError: It has not failed, or no step of it has; nothing happened.
        """
        await self._node.retry(id, by)
        return AsyncHandle(self._node, id)

    async def delete(self, id: str) -> None:
        """Remove a run that is over, with its journal and its signals.

        Raises:
            RunNotFoundError: No run has that id.
            RunStateError: It is not over, or the run that started it is not; nothing was removed.
        """
        await self._node.delete(id)

    async def alone(self, workflow: Definable, input: object = None) -> Any:  # noqa: ANN401 - what the workflow returns
        """Start a run that nobody outside knows of, and return its output; see `arun`."""
        self._node.worker.is_alone = True
        run_id, _ = await self._node.start(workflow, input, run_id=None, on_conflict="fail")
        return await self._node.alone(run_id)

    async def resume(self, id: str) -> Any:  # noqa: ANN401 - what the workflow returns
        """Drive one run here and now, if nobody does, and return its output; one that is over just returns it.

        Raises:
            RunNotFoundError: No run has that id.
            TaskError: It failed or was cancelled.
        """
        return await self._node.resume(id)


class AsyncHandle:
    """One run, by id; made by `AsyncEngine.start` and `get`."""

    def __init__(self, node: Node, run_id: str, ending: Ending | None = None) -> None:
        """Made by the engine."""
        self._node = node
        self._ending = ending
        self.id = run_id

    def __repr__(self) -> str:
        """Show the id."""
        return f"<run {self.id}>"

    async def result(self, timeout: Duration | None = None) -> Any:  # noqa: ANN401 - what the workflow returns
        """Wait until the run is over, in whatever process, and return its output.

        Args:
            timeout: How long to wait; default for ever.

        Raises:
            TaskError: It failed or was cancelled; `.failure` says where and why.
            ResultTimeoutError: Not over in time; it goes on.
            RunBlockedError: It cannot go on by itself.
            CodecError: The output does not fit what the last step is annotated to return.
            RunNotFoundError: It is not there any more.
        """
        return await self._node.result(self.id, self._ending, timeout)

    async def signal(self, name: str, payload: object = None, *, id: str | None = None) -> str:
        """Send a signal. Now it is on disk, and waits in order of sending until a branch takes it.

        Args:
            name: What `wait_for_signal` names, 1 to 255 bytes.
            payload: JSON-like data, a dataclass, ...; at most 2 MiB.
            id: Makes sending it twice harmless: one id is stored once for each run. Default a new one.

        Returns:
            The id.

        Raises:
            RunNotFoundError: No run has that id.
            RunStateError: The run is over; nothing was stored.
            SignalLimitError: 10,000 signals are pending; nothing was stored.
            CodecError: The payload cannot be encoded, or is too large.
        """
        return await self._node.signal(self.id, name, payload, id)

    async def pause(
        self, reason: str = "", *, by: str = "", branch: str | None = None, freeze: bool = True
    ) -> None:
        """Let the run start nothing more; bodies that run end, and signals are still received.

        Pausing what is paused is fine, and changes nothing.

        Args:
            reason: For whoever looks at it.
            by: Who pauses.
            branch: Only this one, and branches that it starts; default the whole run.
            freeze: Sleeps, time-outs and retries stand still until it is unpaused; False lets them run.

        Raises:
            RunNotFoundError, RunStateError, BranchNotFoundError, RunBlockedError: Nothing happened.
        """
        await self._node.control(self.id, Paused(branch or "", reason, by, freeze))

    async def unpause(self, *, by: str = "", branch: str | None = None) -> None:
        """Let the run go on: all of it and pauses of its branches too, or only one branch. Idempotent.

        Raises:
            RunNotFoundError, RunStateError, BranchNotFoundError, RunBlockedError: Nothing happened.
        """
        await self._node.control(self.id, Unpaused(branch or "", by))

    async def cancel(self, reason: str = "", *, by: str = "", wait: bool = False) -> None:
        """End the run. Now it is cancelled, or it will be and cannot end otherwise any more.

        Async bodies get `CancelledError`, sync ones see `get_task_context().cancelled`. Cancelling a
        cancelled run is fine.

        Args:
            reason: For whoever looks at it.
            by: Who cancels.
            wait: Return only when it is over.

        Raises:
            RunNotFoundError: No run has that id.
            RunStateError: It has completed or failed before.
        """
        await self._node.control(self.id, RunCancelled(reason, by))
        if wait:
            await self._node.ended(self.id)

    async def explain(self) -> Explanation:
        """Why the run does not go on, or that it does: one reason, and who must act."""
        return await self._node.explain(self.id)

    async def status(self) -> RunStatus:
        """Status, branches, what it waits for, output and failure, as recorded now."""
        return await self._node.status(self.id)

    async def journal(self) -> list[JournalEntry]:
        """Everything recorded about the run, in order."""
        return await self._node.journal(self.id)


async def arun(flow: Definable, input: object = None) -> Any:  # noqa: ANN401 - what the workflow returns
    """Run a workflow in memory and return its output; journalled like any run, gone when it is over.

    Raises:
        DefinitionError: The flow cannot be built.
        InputError: The input does not fit the first step.
        TaskError: The run failed; `.failure` says where and why.
        RunWaitingError: It waits for a signal, or is paused: nobody outside can reach it.
    """
    async with AsyncEngine("memory://", workflows=[flow]) as engine:
        return await engine.alone(flow, input)


def _url(url: str | None) -> str:
    given = url or os.environ.get(URL_VARIABLE)
    if not given:
        raise UsageError(
            what="no store is named",
            fix=f'pass a URL such as "sqlite:///orders.db", or set {URL_VARIABLE}',
        )
    return given


def in_running_loop() -> bool:
    """Whether the calling thread runs an event loop, which a blocking call would stop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
