"""One process's part of a store: opened, with its workflows known and its worker running.

The engines are faces of a node. `running` owns everything that has to end.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, get_args

from holdfast.codecs import json as codec
from holdfast.core.entries import Failure, Paused, RunCancelled, Unpaused
from holdfast.core.run import OVER, Run
from holdfast.core.run import RunStatus as RunState
from holdfast.definition.duration import Duration, to_ms
from holdfast.definition.policies import Retention, retention_ms
from holdfast.definition.task import check_name
from holdfast.errors import CodecError, RunStateError, RunWaitingError, TaskError, UsageError
from holdfast.ports import Clock, Heart, Ids
from holdfast.runtime import reads
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.controls import Controls
from holdfast.runtime.explain import Explanation, explain
from holdfast.runtime.folds import UNREADABLE, fold
from holdfast.runtime.insertion import Insertion
from holdfast.runtime.limits import CONCURRENCY_MAX, LIST_MAX, RESULT_POLL_FIRST_MS, RESULT_POLL_MAX_MS
from holdfast.runtime.patience import until_answered
from holdfast.runtime.retention import Sweeper
from holdfast.runtime.serving import refuse_while_starting
from holdfast.runtime.starts import Definable, OnConflict, Start, bind_all, encode_input, resolve
from holdfast.runtime.views import (
    JournalEntry,
    RunStatus,
    RunSummary,
    run_status,
    run_summary,
)
from holdfast.runtime.worker import Worker
from holdfast.stores.base import Store
from holdfast.stores.records import InboxRow, RunRecord

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
        concurrency: int,
        queues: Sequence[str],
        retention: Retention | None = None,
    ) -> None:
        """Bind the workflows; nothing is opened yet.

        Raises:
            DefinitionError: A flow cannot be built, or a function not be called by its step.
            UsageError: Two workflows have one name, or concurrency or a queue is out of bounds.
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
            queues=_queues(queues),
        )
        self._ids = ids
        self._controls = Controls(store, self.worker, ids)
        self._sweeper = Sweeper(store, self._bound, retention_ms(retention), clock)
        self._attempts = attempts
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
        refuse_while_starting()
        self._was_opened = True
        try:
            await self.store.open()
            await self.worker.define()
            async with self._serving():
                self._is_open = True
                yield
        finally:
            self._is_open = False
            self._attempts.close()
            await self.store.close()

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncGenerator[None]:
        stopping = asyncio.Event()
        raised: Exception | None = None
        async with asyncio.TaskGroup() as services:
            working = services.create_task(self.worker.run(stopping))
            sweeping = services.create_task(self._sweeper.run())
            await self.worker.running.wait()
            try:
                yield
            except Exception as error:  # noqa: BLE001 - the caller's own: a task group would wrap it
                raised = error
            finally:
                sweeping.cancel()
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
                what=f"on_conflict {on_conflict!r} is not known", fix='use "fail", "use_existing" or "restart"'
            )
        workflow = await until_answered(lambda: resolve(self.store, self._bound, target), what="starting a run")
        given = self._ids.run_id() if run_id is None else check_name(run_id, what="run id")
        payload = encode_input(workflow, self._bound.get(workflow.name), value)
        start = Start(given, workflow, payload)
        bound = self._bound.get(workflow.name)
        await Insertion(self.store, self.worker, start, bound).insert(on_conflict)
        self.worker.nudge()
        return given, self.worker.watch(given) if self.worker.is_driven(given) else None

    async def result(self, run_id: str, ending: Ending | None, timeout: Duration | None) -> Any:  # noqa: ANN401, ASYNC109 - what the task returned; a facade's word
        """The output of a run, waited for; see `AsyncHandle.result`."""
        self._check_open()
        timeout_ms = None if timeout is None else to_ms(timeout, what="timeout")
        run = ending.result() if ending is not None and ending.done() else None
        # A completed run stays so; one that failed may have been reopened since.
        if run is None or run.status != "completed":
            run = await reads.ended_in_time(self.store, self.worker, run_id, timeout_ms)
        if run.status != "completed":
            raise TaskError(run_id=run_id, status=run.status, failure=run.failure)
        return self._output(run)

    async def resume(self, run_id: str) -> Any:  # noqa: ANN401 - what the task returned
        """Drive one run now and return its output; see `AsyncEngine.resume`."""
        await self.worker.resume(await self.find(run_id))
        return await self.result(run_id, None, None)

    async def signal(self, run_id: str, name: str, payload: object, message_id: str | None) -> str:
        """Send a signal; see `AsyncHandle.signal`."""
        self._check_open()
        return await self._controls.signal(run_id, name, payload, message_id)

    async def control(self, run_id: str, wanted: Paused | Unpaused | RunCancelled) -> None:
        """Pause, unpause or cancel; see `AsyncHandle`."""
        self._check_open()
        await self._controls.control(run_id, wanted)

    async def ended(self, run_id: str) -> None:
        """Return when the run is over, however it ends."""
        self._check_open()
        await reads.ended(self.store, self.worker, run_id)

    async def retry(self, run_id: str, by: str) -> None:
        """Reopen a failed run; see `AsyncEngine.retry`."""
        self._check_open()
        await self._controls.retry(run_id, by)

    async def delete(self, run_id: str) -> None:
        """Remove a run that is over; see `AsyncEngine.delete`."""
        record = await self.find(run_id)
        if record.status not in OVER:
            what, fix = "cannot be deleted", "cancel it first, or wait until it is over"
            raise RunStateError(run_id=run_id, status=record.status, what=what, fix=fix)
        if not await self.store.delete(record.key):
            record = await self.find(run_id)
            what, fix = "cannot be deleted: the run that started it is not over", "delete it after that one"
            raise RunStateError(run_id=run_id, status=record.status, what=what, fix=fix)

    async def explain(self, run_id: str) -> Explanation:
        """Why a run does not go on; see `AsyncHandle.explain`."""
        record = await self.find(run_id)
        workers, now_ms = await self.store.workers(), self.store.now_ms()
        if record.status == "blocked":
            run, _, failure = await self._blocked(record)
            return explain(record, run, workers, now_ms, why_blocked=failure.message)
        if record.status in OVER:
            return explain(record, None, workers, now_ms)
        try:
            run, _ = await fold(self.store, record)
        except UNREADABLE as error:
            return explain(record, None, workers, now_ms, why_blocked=str(error))
        missing = await self.worker.missing_tasks(record)
        found = explain(record, run, workers, now_ms, missing_tasks=missing)
        if found.child is None:
            return found
        child = await self.store.find_run(found.child)
        return explain(record, run, workers, now_ms, missing_tasks=missing, child=child)

    async def alone(self, run_id: str) -> Any:  # noqa: ANN401 - what the task returned
        """The output of a run that nobody outside can reach; see `arun`.

        Raises:
            RunWaitingError: It waits for somebody.
        """
        pause_ms = RESULT_POLL_FIRST_MS
        while True:
            watching = self.worker.watch(run_id)
            status = await self.status(run_id)
            if status.status in OVER or status.status == "blocked":
                return await self.result(run_id, None, None)
            waits = await self._in_vain(status)
            if waits:
                raise RunWaitingError(run_id=run_id, waiting=waits)
            # A short wait keeps the run in memory, so that nothing tells of it.
            await asyncio.wait({watching}, timeout=pause_ms / 1_000)
            self.worker.unwatch(run_id, watching)
            pause_ms = min(pause_ms * 2, RESULT_POLL_MAX_MS)

    async def _in_vain(self, status: RunStatus) -> list[str] | None:
        """What a run waits for that nobody here will give it or its children; None while any of them works."""
        is_active = any(b.status == "active" and b.pause is None for b in status.branches.values())
        if status.status in OVER or is_active:
            return None
        waits = [wait.detail for wait in status.waiting if wait.reason in {"signal", "pause"}]
        for wait in status.waiting:
            if wait.child is None:
                continue
            child = await self.status(wait.child)
            if child.status == "blocked" and child.failure is not None:
                waits.append(f"{wait.detail}, which is blocked: {child.failure.message}")
                continue
            below = await self._in_vain(child)
            if below is None:
                return None
            waits += [f"{wait.detail}, which waits {each}" for each in below]
        return waits

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
        while True:
            record = await self.find(run_id)
            # The row is read before the journal, so that a run seen as over has its whole journal here.
            if record.status == "blocked":
                run, inbox, failure = await self._blocked(record)
                return run_status(record, run, inbox, failure, None)
            try:
                run, inbox = await (reads.fold_over if record.status in OVER else fold)(self.store, record)
            except UNREADABLE as error:
                if record.status == "completed":
                    raise
                return run_status(record, Run(run_id), (), Failure("unreadable", str(error)), None)
            if run.is_over or record.status not in OVER:
                break
        output = self._output(run) if run.status == "completed" else None
        return run_status(record, run, inbox, run.failure, output)

    async def _blocked(self, record: RunRecord) -> tuple[Run, list[InboxRow], Failure]:
        """What can be read of a blocked run, and why it is blocked."""
        why = await reads.why_blocked(self.store, record)
        try:
            run, inbox = await fold(self.store, record)
        except UNREADABLE:
            return Run(record.id), [], Failure("blocked", why)
        known = run.blocked
        if known is None or known.detail != why:
            return run, inbox, Failure("blocked", why)
        return run, inbox, Failure(known.code, why, (known.code,), step=known.step)

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


def _queues(given: Sequence[str]) -> list[str]:
    if isinstance(given, str) or not given:
        raise UsageError(
            what=f"queues={given!r} is no list of names", fix='give some, such as queues=["default"]'
        )
    return [check_name(each, what="queue") for each in dict.fromkeys(given)]
