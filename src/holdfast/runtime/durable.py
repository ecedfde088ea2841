"""`Context`: what a durable function asks for (semantics section 6)."""
# Its methods give what users' functions and payloads hold, of any type, and name it as users do.
# ruff: noqa: ANN401, ASYNC109, A002

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, Unpack, overload

from holdfast.codecs import json as codec
from holdfast.core.children import Awaited
from holdfast.core.entries import Wait
from holdfast.definition.duration import Duration
from holdfast.definition.flow import Flow
from holdfast.definition.policies import TIMEOUT
from holdfast.definition.step import Sleep, WaitSignal
from holdfast.definition.task import check_name
from holdfast.definition.workflow import Workflow
from holdfast.errors import (
    ChildError,
    ChildTimeoutError,
    OperationCancelledError,
    OperationTimeoutError,
    SignalTimeoutError,
    StepError,
    StepTimeoutError,
    UsageError,
)
from holdfast.runtime.attempting import attempted
from holdfast.runtime.calls import Call, Options, call_of
from holdfast.runtime.facts import Facts
from holdfast.runtime.scopes import (
    Enough,
    Parts,
    Results,
    Scope,
    current_scope,
    enough_of,
    first_ended,
    first_failed,
    never,
)

R = TypeVar("R")
T = TypeVar("T")


class Context(Facts):
    """What a durable function, and any task whose first parameter is annotated with it, may ask for.

    Everything asked for is recorded before the function goes on. After a crash or a long wait the function runs
    again from its first line, and what is recorded is given at once. So its own code, between what it asks for,
    must do the same each time: time, chance and the outside world come from here.

    Attributes:
        task: Facts about the attempt: run id, workflow, branch, attempt, metadata, idempotency key.
    """

    __slots__ = ()

    @overload
    async def step(
        self,
        fn: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        name: str | None = None,
        **options: Unpack[Options],
    ) -> R: ...
    @overload
    async def step(
        self, fn: Callable[..., R], /, *args: Any, name: str | None = None, **options: Unpack[Options]
    ) -> R: ...
    async def step(
        self, fn: Callable[..., Any], /, *args: Any, name: str | None = None, **options: Unpack[Options]
    ) -> Any:
        """Call `fn` with `args`, once: its output is recorded, and given whenever the function runs again.

        Args:
            fn: A task, or any callable, sync or async. A sync one runs in a thread.
            args: Whatever it takes; they are not recorded.
            name: Its name in the journal; default that of the task or function.
            options: `retries`, `retry`, `timeout` and `executor` of this call, as of `task()`.

        Returns:
            What `fn` returned, encoded and decoded by its annotation, also the first time.

        Raises:
            StepError: It failed and its retries are used up; recorded as well. `StepTimeoutError` where its
                time was up.
            UsageError: It cannot be called so, or not from here; nothing was recorded.
        """
        scope = current_scope(self._body, "ctx.step")
        call = self._body.calls.of(fn, options)
        if call.takes_context:
            raise UsageError(
                what=f"{call.name} takes a Context, so it is no step",
                fix=f"await {call.name}(ctx, ...) itself, or start it with ctx.child(...)",
            )
        label = call.name if name is None else check_name(name, what="step name")
        invocation = call(args)
        key, operation = scope.ask("step", label)
        if operation is None or operation.status == "backoff":
            operation = await attempted(self._body, key, invocation, call.retry)
        if operation.failure is not None and operation.status == "failed":
            is_late = operation.failure.type == TIMEOUT
            raise (StepTimeoutError if is_late else StepError)(operation=key, failure=operation.failure)
        return call.decode_output(operation.output)

    async def sleep(
        self, duration: Duration | None = None, *, until: datetime | None = None, name: str = "sleep"
    ) -> None:
        """Wait; for longer than a second without costing more than a row.

        Args:
            duration: How long, such as "3d", counted from the commit that begins it.
            until: Instead of it a moment, with its time zone; a pause does not move it.
            name: Its name in the journal.
        """
        scope = current_scope(self._body, "ctx.sleep")
        if (duration is None) == (until is None):
            raise UsageError(what="ctx.sleep needs a duration or until", fix="give one of them")
        sleep = Sleep.of(duration, until=until)
        key, operation = scope.ask("sleep", check_name(name, what="name of a sleep"))
        if operation is None:
            await self._body.request(key, "sleep", wait=Wait("", sleep.duration_ms, sleep.until_ms))
        operation = await self._body.done(key)
        if operation.failure is not None:
            raise OperationTimeoutError(operation=key, failure=operation.failure)

    @overload
    async def wait_signal(self, name: str, *, timeout: Duration | None = None, type: type[T]) -> T: ...
    @overload
    async def wait_signal(self, name: str, *, timeout: Duration | None = None) -> Any: ...
    async def wait_signal(self, name: str, *, timeout: Duration | None = None, type: Any = Any) -> Any:
        """Wait for a signal, and take it.

        Args:
            name: As in `handle.signal(name, payload)`.
            timeout: How long to wait; default for ever.
            type: What its payload is decoded into; default plain data.

        Raises:
            SignalTimeoutError: None came in time; recorded as well.
            CodecError: The payload is not of that type.
        """
        scope = current_scope(self._body, "ctx.wait_signal")
        wait = WaitSignal.of(check_name(name, what="signal name"), timeout=timeout)
        key, operation = scope.ask("wait_signal", name)
        if operation is None:
            await self._body.request(key, "wait_signal", wait=Wait(wait.signal, wait.timeout_ms))
        operation = await self._body.done(key)
        if operation.failure is not None:
            raise SignalTimeoutError(operation=key, failure=operation.failure)
        return codec.decoder(type)(operation.output)

    async def child(
        self,
        workflow: Flow | Workflow | str,
        input: object = None,
        *,
        name: str | None = None,
        detach: bool = False,
        queue: str | None = None,
    ) -> Any:
        """Start a run of another workflow, and wait for its output.

        It is started once, in the commit that records it, with an id made of this run's and the key. It is
        paused, unpaused and cancelled with this one.

        Args:
            workflow: One that some worker knows, or its name.
            input: Its input.
            name: Its name in the journal; default the workflow's.
            detach: Do not wait: returns the child's id, and it goes its own way.
            queue: Which workers drive it: those with `queues=[queue]`. Default those that drive this run.

        Raises:
            ChildError: It failed or was cancelled; recorded as well.
            WorkflowNotFoundError, InputError: It cannot be started; nothing was recorded.
        """
        scope = current_scope(self._body, "ctx.child")
        target = workflow if isinstance(workflow, str) else workflow.name
        label = target if name is None else check_name(name, what="name of a child")
        if queue is not None:
            check_name(queue, what="queue")
        key, operation = scope.ask("child", label, may_be_missing=True)
        if operation is None:
            body = self._body
            awaited = Awaited(body.at.branch, body.at.step, body.at.visit, key)
            record, position = body.driver.record, body.driver.run.position
            new = await body.host.new_child(
                record, awaited, position, workflow, input, detach=detach, queue=queue
            )
            scope.check(f"child {key}")
            await self._body.start_child(key, new, detach=detach)
        operation = await self._body.done(key)
        if operation.failure is not None:
            run_id = "" if operation.child is None else operation.child.id
            kind = ChildTimeoutError if operation.failure.type == TIMEOUT else ChildError
            raise kind(operation=key, failure=operation.failure, run_id=run_id)
        if detach:
            return codec.decoder(str)(operation.output)
        return self._body.host.decode_output(target, operation.output)

    async def record(self, key: str, fn: Callable[[], Awaitable[R] | R], *, type: Any = Any) -> R:
        """Call `fn` here, and record what it gives; later runs of the function get that without calling it.

        For what is quick and must be the same each time. An error is not recorded: it is raised as it is.

        Args:
            key: Its name in the journal.
            fn: Without parameters, sync or async.
            type: What its value is decoded into; default plain data.
        """
        scope = current_scope(self._body, "ctx.record")
        name, operation = scope.ask("record", check_name(key, what="key"), may_be_missing=True)
        if operation is None:
            await self._body.may_begin()
            with self._body.outside():
                value: object = fn()
                if inspect.isawaitable(value):
                    value = await value
            scope.check(f"record {name}")
            await self._body.succeed(name, "record", codec.encode(value))
            operation = self._body.branch.operations[name]
        given: R = codec.decoder(type)(operation.output)
        return given

    async def gather(self, *parts: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
        """Run parts of the function side by side, each with its own place in the journal.

        Args:
            parts: Coroutines: of `ctx.step(...)`, of other methods, or of functions that use them.
            return_exceptions: Give errors in the list. Else the first one cancels the rest, and is raised.

        Returns:
            What they returned, in their order.
        """
        scope = self._scope_for("ctx.gather", parts)
        results = await self._run(scope, "gather", parts, never if return_exceptions else first_failed)
        if not return_exceptions:
            for each in results:
                if each is not None and each.error is not None:
                    raise each.error
        return [each.error or each.value for each in results if each is not None]

    async def race(self, *parts: Awaitable[T]) -> T:
        """Run parts of the function side by side until the first has ended, and cancel the rest.

        Returns:
            What the first returned, or raises what it raised. Which one that was is recorded.
        """
        scope = self._scope_for("ctx.race", parts)
        if not parts:
            raise UsageError(what="ctx.race has nobody to run", fix="give it one coroutine at least")
        results = await self._run(scope, "race", parts, first_ended)
        first = next(each for each in results if each is not None)
        if first.error is not None:
            raise first.error
        return first.value  # type: ignore[no-any-return]

    async def map(
        self,
        fn: Callable[..., Any],
        items: Iterable[Any],
        /,
        *,
        concurrency: int | None = None,
        min_completed: int | None = None,
        failures_max: int | None = None,
    ) -> list[Any]:
        """Call `fn` for each item, side by side: as a step, or with `ctx` first if it takes a `Context`.

        Args:
            fn: A task or any callable of one item; or an async function of a `Context` and an item.
            items: The same, in the same order, whenever the function runs.
            concurrency: How many at once; default all.
            min_completed: So many are enough: the rest is cancelled. Default all.
            failures_max: So many may fail; one more cancels the rest, and the first of them is raised. Default
                as many as `min_completed` leaves over: none without it.

        Returns:
            A list in the order of the items: what each gave, the error of one that failed, and
            `OperationCancelledError` for one that was cancelled.
        """
        scope = current_scope(self._body, "ctx.map")
        listed = list(items)
        enough = len(listed) if min_completed is None else min_completed
        failed_max = max(len(listed) - enough, 0) if failures_max is None else failures_max
        needed = len(listed) - failed_max if min_completed is None else min_completed
        _check_bounds(concurrency, enough, failed_max)
        call = call_of(fn, {})
        parts = [partial(self._mapped, call, fn, item) for item in listed]
        is_over = partial(enough_of, enough=enough, failures_max=failed_max, items=len(listed))
        results = await Parts(self._body, scope, "map", parts).run(
            is_over, limit=concurrency or len(parts) or 1
        )
        errors = [each.error for each in results if each is not None and each.error is not None]
        if errors and (len(errors) > failed_max or len(listed) - len(errors) < needed):
            raise errors[0]
        return [
            OperationCancelledError(operation=f"item {number}") if each is None else each.error or each.value
            for number, each in enumerate(results)
        ]

    async def continue_as_new(self, input: object = None) -> None:
        """End here, and begin anew with another input: the same id, an empty journal.

        For functions that go on for ever: a journal has 50,000 entries at most. Signals that were not received
        are kept. Does not return.

        Raises:
            InputError: The input does not fit; nothing happened.
            UsageError: Other branches of the run are open, or parts of this function.
        """
        scope = current_scope(self._body, "ctx.continue_as_new")
        if scope.parent is not None or self._body.driver.run.open > 1:
            raise UsageError(
                what="ctx.continue_as_new was called while other parts of the run are open",
                fix="call it where nothing else runs",
            )
        payload = self._body.host.encode_input(self.task.workflow, input)
        scope.check("continue_as_new")
        raise self._body.continue_as_new(payload)

    async def _run(
        self,
        scope: Scope,
        name: str,
        given: Sequence[Awaitable[Any]],
        enough: Enough,
    ) -> Results:
        parts = [partial(_awaited, part) for part in given]
        try:
            return await Parts(self._body, scope, name, parts).run(enough, limit=len(parts) or 1)
        finally:
            _close(given)  # those that did not run again; nothing for the others

    def _scope_for(self, what: str, given: Sequence[Awaitable[Any]]) -> Scope:
        try:
            return current_scope(self._body, what)
        except BaseException:
            _close(given)
            raise

    async def _mapped(self, call: Call, fn: Callable[..., Any], item: object) -> Any:
        if call.takes_context:
            return await call.fn(self, item)
        return await self.step(fn, item)


def _close(given: Sequence[Awaitable[Any]]) -> None:
    """Do not run what was not run: Python would warn of it."""
    for part in given:
        if isinstance(part, Coroutine):
            part.close()


async def _awaited(part: Awaitable[T]) -> T:
    return await part


def _check_bounds(concurrency: int | None, min_completed: int, failures_max: int) -> None:
    if (concurrency is not None and concurrency < 1) or min_completed < 0 or failures_max < 0:
        raise UsageError(
            what=f"ctx.map cannot run with {concurrency=}, {min_completed=}, {failures_max=}",
            fix="concurrency is 1 or more, the others are 0 or more",
        )
