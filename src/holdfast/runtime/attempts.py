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
from holdfast.ports import Chance, Threads
from holdfast.runtime import failures
from holdfast.runtime.bindings import BoundStep

T = TypeVar("T")


class Attempts:
    """Carries out `StartAttempt` for all runs of a worker."""

    def __init__(self, *, threads: Threads, chance: Chance) -> None:
        """Args: where sync bodies run, and what jitter is made of."""
        self._threads = threads
        self._chance = chance

    async def make(
        self, effect: StartAttempt, step: BoundStep, value: Value
    ) -> AttemptSucceeded | AttemptFailed:
        """Call the task once and report what came of it.

        Cancelling the call cancels an async body and abandons a sync one; nothing is reported then.
        """
        try:
            if step.timeout_s is not None:
                result = await self._call_in_time(step, value, step.timeout_s)
            elif step.is_async:
                result = await step.invoke(value)
            else:
                result = await self._call_in_thread(partial(step.invoke, value))
            output = codec.encode(result)
        except _TimedOutError:
            return self._failed(effect, failures.timed_out(step.name, step.timeout_s or 0))
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                # It was told to stop: what it answers is no failure of its step.
                raise asyncio.CancelledError from error
            return self._failed(effect, failures.from_exception(error, step.name))
        return AttemptSucceeded(effect.branch, effect.step, effect.visit, effect.attempt, output)

    async def _call_in_thread(self, body: Callable[[], Any]) -> Any:  # noqa: ANN401 - what a task returns
        result = await self._threads.call(body)
        return await result if inspect.isawaitable(result) else result

    async def _call_in_time(self, step: BoundStep, value: Value, timeout_s: float) -> Any:  # noqa: ANN401 - as above
        deadline = _Deadline(timeout_s)
        try:
            if step.is_async:
                deadline.begin()
                result = await step.invoke(value)
            else:
                result = await self._call_in_thread(deadline.begun_by(partial(step.invoke, value)))
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

    def _failed(self, effect: StartAttempt, failure: Failure) -> AttemptFailed:
        return AttemptFailed(
            effect.branch,
            effect.step,
            effect.visit,
            effect.attempt,
            failure,
            self._chance.random(),
        )


class _Deadline:
    """Cancels the current task when a body has run for too long.

    A sync body begins when a thread is free for it: waiting for that is no part of its time.
    """

    def __init__(self, timeout_s: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an attempt runs inside a task")
        self.task = task
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._handle: asyncio.TimerHandle | None = None
        self._is_over = False
        self._fired = False

    def begin(self) -> None:
        if not self._is_over:
            self._handle = self._loop.call_later(self._timeout_s, self._fire)

    def begun_by(self, body: Callable[[], T]) -> Callable[[], T]:
        """The body, which begins the time when a thread calls it."""

        def timed() -> T:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self.begin)
            return body()

        return timed

    def end(self) -> None:
        self._is_over = True
        if self._handle is not None:
            self._handle.cancel()

    def take_back(self) -> bool:
        """Whether the time was up; then the cancellation is taken back, once."""
        fired, self._fired = self._fired, False
        if fired:
            self.task.uncancel()
        return fired

    def _fire(self) -> None:
        self._fired = True
        self.task.cancel()


class _TimedOutError(Exception):
    """The attempt's own time-out has fired."""
