"""Calls a task: argument in, body, time-out, outcome as an event. One of two places with `except Exception`."""

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from holdfast.codecs import json as codec
from holdfast.core.effects import StartAttempt
from holdfast.core.entries import Failure
from holdfast.core.events import AttemptFailed, AttemptSucceeded
from holdfast.core.run import Value
from holdfast.ports import Chance, Clock, Threads, Timer
from holdfast.runtime import failures
from holdfast.runtime.bindings import Callee
from holdfast.runtime.context import CURRENT
from holdfast.runtime.processes import Processes
from holdfast.runtime.scopes import Unwinding

T = TypeVar("T")


class Attempts:
    """Carries out `StartAttempt` for all runs of a worker."""

    def __init__(
        self, *, threads: Threads, chance: Chance, clock: Clock, processes: Processes | None = None
    ) -> None:
        """Nothing is started before a body needs it.

        Args:
            threads: Where sync bodies run.
            chance: What jitter is made of.
            clock: What time-outs go by.
            processes: Where bodies run that want a process; default as many as the machine has processors.
        """
        self._threads = threads
        self._chance = chance
        self._clock = clock
        self._processes = Processes() if processes is None else processes

    def close(self) -> None:
        """Take no further body. Processes are killed, threads end by themselves. Idempotent."""
        self._threads.close()
        self._processes.close()

    def random(self) -> float:
        """A number in [0, 1), for a body that asks for one."""
        return self._chance.random()

    async def make(self, effect: StartAttempt, step: Callee, value: Value) -> AttemptSucceeded | AttemptFailed:
        """Call the task once and report what came of it.

        Cancelling the call cancels an async body, kills the process of one in a process, and abandons one in
        a thread; nothing is reported then.
        """
        try:
            if step.timeout_ms is not None:
                result = await self._call_in_time(step, value, step.timeout_ms)
                output = codec.encode(result) if step.importable is None else result
            elif step.is_async:
                output = codec.encode(await step.invoke(value))
            elif step.importable is None:
                output = codec.encode(await self._call_in_thread(partial(step.invoke, value)))
            else:
                output = await self._call_in_process(step, value)
        except _TimedOutError:
            return self._failed(effect, failures.timed_out(step.name, (step.timeout_ms or 0) / 1_000))
        except _FailedElsewhereError as error:
            return self._failed(effect, error.failure)
        except (KeyboardInterrupt, GeneratorExit, Unwinding):
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                # It was told to stop: what it answers is no failure of its step.
                _tell_to_stop()
                raise asyncio.CancelledError from error
            failure, culprit = failures.from_exception(error, step.name), failures.culprit(error)
            return self._failed(effect, failure, culprit)
        return AttemptSucceeded(effect.branch, effect.step, effect.visit, effect.attempt, output)

    async def _call_in_thread(self, body: Callable[[], Any]) -> Any:  # noqa: ANN401 - what a task returns
        result = await self._threads.call(body)
        return await result if inspect.isawaitable(result) else result

    async def _call_in_process(
        self, step: Callee, value: Value, begun: Callable[[], object] = lambda: None
    ) -> bytes:
        payload = value if isinstance(value, bytes) else codec.flatten(value)
        outcome = await self._processes.call(step, payload, CURRENT.get(), begun)
        if isinstance(outcome, Failure):
            raise _FailedElsewhereError(outcome)
        return outcome

    async def _call_in_time(self, step: Callee, value: Value, timeout_ms: int) -> Any:  # noqa: ANN401 - as above
        deadline = _Deadline(self._clock, timeout_ms)
        try:
            if step.is_async:
                deadline.begin()
                result = await step.invoke(value)
            elif step.importable is None:
                result = await self._call_in_thread(deadline.begun_by(partial(step.invoke, value)))
            else:
                result = await self._call_in_process(step, value, deadline.begin_from_thread)
        except asyncio.CancelledError:
            # Only our own cancellation is taken back; one from outside goes on outwards.
            if deadline.take_back() and not deadline.task.cancelling():
                raise _TimedOutError from None
            raise
        except Exception as error:
            if deadline.take_back():
                # The body's answer to being cancelled; it came too late all the same.
                raise _TimedOutError from error
            raise
        finally:
            deadline.end()
        if deadline.take_back():
            raise _TimedOutError
        return result

    def _failed(self, effect: StartAttempt, failure: Failure, culprit: str = "") -> AttemptFailed:
        return AttemptFailed(
            effect.branch,
            effect.step,
            effect.visit,
            effect.attempt,
            failure,
            self._chance.random(),
            culprit,
        )


def _tell_to_stop() -> None:
    context = CURRENT.get()
    if context is not None:
        context.stop()


class _Deadline:
    """Cancels the current task when a body has run for too long.

    A sync body begins when a thread or a process is there for it: waiting for that is no part of its time.
    """

    def __init__(self, clock: Clock, timeout_ms: int) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an attempt runs inside a task")
        self.task = task
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._timer: Timer | None = None
        self._context = CURRENT.get()
        self._is_over = False
        self._fired = False

    def begin(self) -> None:
        if not self._is_over:
            self._timer = self._clock.call_later(self._timeout_ms, self._fire)

    def begin_from_thread(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self.begin)

    def begun_by(self, body: Callable[[], T]) -> Callable[[], T]:
        """The body, which begins the time when a thread calls it."""

        def timed() -> T:
            self.begin_from_thread()
            return body()

        return timed

    def end(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()

    def take_back(self) -> bool:
        """Whether the time was up; then the cancellation is taken back, once."""
        fired, self._fired = self._fired, False
        if fired:
            self.task.uncancel()
        return fired

    def _fire(self) -> None:
        self._fired = True
        if self._context is not None:
            self._context.stop()
        self.task.cancel()


class _TimedOutError(Exception):
    """The attempt's own time-out has fired."""


class _FailedElsewhereError(Exception):
    """The body has failed in its process."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.summary())
        self.failure = failure
