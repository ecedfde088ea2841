"""One process's part of a store: opened, with its workflows known and its worker running.

The engines are faces of a node. `running` owns everything that has to end.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from typing import Any, get_args

from holdfast.codecs import json as codec
from holdfast.core.entries import Failure
from holdfast.core.run import Run, evolve
from holdfast.core.run import RunStatus as RunState
from holdfast.definition.duration import Duration, to_ms
from holdfast.definition.task import check_name
from holdfast.definition.workflow import Workflow
from holdfast.errors import CodecError, TaskError, UsageError
from holdfast.ports import Clock, Heart, Ids, Threads
from holdfast.runtime import reads
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.folds import fold
from holdfast.runtime.limits import CONCURRENCY_MAX, LIST_MAX
from holdfast.runtime.patience import until_answered
from holdfast.runtime.starts import (
    Definable,
    OnConflict,
    Start,
    bind_all,
    check_existing,
    encode_input,
    held_record,
    resolve,
)
from holdfast.runtime.views import (
    JournalEntry,
    RunStatus,
    RunSummary,
    run_status,
    run_summary,
)
from holdfast.runtime.worker import Worker
from holdfast.stores.base import Store
from holdfast.stores.records import Applied, Exists, Outcome, Refused, RunRecord

Ending = asyncio.Future[Run | None]
"""Done when a run driven here is over (the run), or has left this worker unfinished (None)."""


class Node:
    """A store with what this process adds to it.

    Attributes:
        store: Open while `running`.
        worker: Drives runs where the store allows it, and commits for everyone here.
    """

    def __init__(
        self,
        store: Store,
        workflows: Iterable[Definable],
        *,
        ids: Ids,
        clock: Clock,
        heart: Heart,
        attempts: Attempts,
        threads: Threads,
        concurrency: int,
    ) -> None:
        """Bind the workflows; nothing is opened yet.

        Raises:
            DefinitionError: A flow cannot be built, or a function not be called by its step.
            UsageError: Two workflows have one name, or concurrency is out of bounds.
        """
        if not 1 <= concurrency <= CONCURRENCY_MAX:
            raise UsageError(
                what=f"concurrency {concurrency!r} is not from 1 to {CONCURRENCY_MAX}",
                fix="it counts the runs that are active at once",
            )
        self.store = store
        self._bound = bind_all(workflows, durable=store.is_durable)
        self.worker = Worker(
            store,
            self._bound,
            ids=ids,
            clock=clock,
            heart=heart,
            attempts=attempts,
            concurrency=concurrency,
        )
        self._ids = ids
        self._threads = threads
        self._is_open = False
        self._was_opened = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Open the store and work until the block ends; then drain and close. Once.

        Raises:
            UsageError: It has been opened before.
        """
        if self._was_opened:
            raise UsageError(what="this engine has been opened before", fix="make a new one")
        self._was_opened = True
        try:
            await self.store.open()
            await self.worker.define()
            async with self._serving():
                self._is_open = True
                yield
        finally:
            self._is_open = False
            self._threads.close()
            await self.store.close()

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncGenerator[None]:
        stopping = asyncio.Event()
        raised: Exception | None = None
        async with asyncio.TaskGroup() as services:
            working = services.create_task(self.worker.run(stopping))
            await self.worker.running.wait()
            try:
                yield
            except Exception as error:  # noqa: BLE001 - the caller's own: a task group would wrap it
                raised = error
            finally:
                stopping.set()
                await asyncio.wait({working})
        if raised is not None:
            raise raised

    async def start(
        self,
        target: Definable | str,
        value: object,
        *,
        run_id: str | None,
        on_conflict: OnConflict,
    ) -> tuple[str, Ending | None]:
        """Record the start of a run; see `AsyncEngine.start`.

        Returns:
            Its id, and its ending where it is driven here.
        """
        self._check_open()
        if on_conflict not in get_args(OnConflict):
            raise UsageError(
                what=f"on_conflict {on_conflict!r} is not known", fix='use "fail" or "use_existing"'
            )
        workflow = await until_answered(lambda: resolve(self.store, self._bound, target), what="starting a run")
        given = self._ids.run_id() if run_id is None else check_name(run_id, what="run id")
        payload = encode_input(workflow, self._bound.get(workflow.name), value)
        start = Start(given, workflow, payload)
        held = workflow.name in self._bound and self.worker.reserve()
        holder = self.worker.worker_id if held else None
        await self._insert(start, workflow, holder, on_conflict)
        self.worker.nudge()
        return given, self.worker.watch(given)

    async def _insert(
        self, start: Start, workflow: Workflow, holder: str | None, on_conflict: OnConflict
    ) -> None:
        new = start.new_run(holder)
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            # Here and not after the wait: a caller who is cancelled must not leave a run that nobody drives.
            if holder is not None:
                if isinstance(outcome, Applied) and outcome.is_held and not start.over:
                    for entry in start.entries:
                        evolve(start.run, entry, outcome.at_ms)
                    record = held_record(new, outcome, holder)
                    self.worker.adopt(record, start.run, self._bound[workflow.name])
                self.worker.unreserve()
            if not answer.done():
                answer.set_result(outcome)

        self.worker.group.submit(new, done)
        outcome = await answer
        if isinstance(outcome, Exists):
            await until_answered(lambda: check_existing(self.store, new, on_conflict), what="starting a run")
        elif isinstance(outcome, Refused):
            raise outcome.error

    async def result(self, run_id: str, ending: Ending | None, timeout: Duration | None) -> Any:  # noqa: ANN401, ASYNC109 - what the task returned; a facade's word
        """The output of a run, waited for; see `AsyncHandle.result`."""
        self._check_open()
        timeout_ms = None if timeout is None else to_ms(timeout, what="timeout")
        run = ending.result() if ending is not None and ending.done() else None
        if run is None:
            run = await reads.ended_in_time(self.store, self.worker, run_id, timeout_ms)
        if run.status != "completed":
            raise TaskError(run_id=run_id, status=run.status, failure=run.failure)
        return self._output(run)

    async def resume(self, run_id: str) -> Any:  # noqa: ANN401 - what the task returned
        """Drive one run now and return its output; see `AsyncEngine.resume`."""
        await self.worker.resume(await self.find(run_id))
        return await self.result(run_id, None, None)

    async def find(self, run_id: str) -> RunRecord:
        """The row of a run.

        Raises:
            RunNotFoundError: No run has that id.
        """
        self._check_open()
        return await reads.find(self.store, run_id)

    async def journal(self, run_id: str) -> list[JournalEntry]:
        """Everything recorded about a run; see `AsyncHandle.journal`."""
        self._check_open()
        return await reads.journal(self.store, run_id)

    async def status(self, run_id: str) -> RunStatus:
        """Everything about a run; see `AsyncHandle.status`."""
        record = await self.find(run_id)
        # The row is read before the journal, so that a run seen as over has its whole journal here.
        if record.status == "blocked":
            failure = Failure("blocked", await reads.why_blocked(self.store, record))
            return run_status(record, Run(run_id), failure, None)
        run = await fold(self.store, record)
        output = self._output(run) if run.status == "completed" else None
        return run_status(record, run, run.failure, output)

    async def list_runs(
        self, *, status: str | None, workflow: str | None, limit: int, after: str | None
    ) -> list[RunSummary]:
        """A page of runs; see `AsyncEngine.list`."""
        self._check_open()
        if status is not None and status not in get_args(RunState):
            raise UsageError(
                what=f"there is no status {status!r}", fix=f"use one of {', '.join(get_args(RunState))}"
            )
        if not 1 <= limit <= LIST_MAX:
            raise UsageError(what=f"limit {limit!r} is not from 1 to {LIST_MAX}", fix="ask page by page")
        key = None if after is None else (await self.find(after)).key
        records: list[RunRecord] = await self.store.list_runs(
            status=status, workflow=workflow, limit=limit, after=key
        )
        return [run_summary(record) for record in records]

    def _check_open(self) -> None:
        if not self._is_open:
            raise UsageError(
                what="the engine is not open", fix='use it inside its "with" or "async with" block'
            )

    def _output(self, run: Run) -> Any:  # noqa: ANN401 - what the task returned
        bound = self._bound.get(run.workflow)
        try:
            if bound is not None:
                return bound.output(run)
            return None if run.output is None else codec.decoder(Any)(codec.flatten(run.output))
        except CodecError as error:
            reason = (
                f"the output of run {run.id!r} is not what its last step is annotated to return: {error.reason}"
            )
            raise CodecError(path=error.path, reason=reason) from error
