"""Calls a task: argument in, body, time-out, outcome as an event. One of two places with `except Exception`."""

import asyncio
import inspect
from functools import partial
from typing import Any

from holdfast.codecs import json as codec
from holdfast.core.effects import StartAttempt
from holdfast.core.entries import Failure
from holdfast.core.events import AttemptFailed, AttemptSucceeded
from holdfast.core.run import Value
from holdfast.ports import Chance, Threads
from holdfast.runtime import failures
from holdfast.runtime.bindings import BoundStep


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
                result = await self._call_in_thread(step, value)
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

    async def _call_in_thread(self, step: BoundStep, value: Value) -> Any:  # noqa: ANN401 - what a task returns
        result = await self._threads.call(partial(step.invoke, value))
        return await result if inspect.isawaitable(result) else result

    async def _call_in_time(self, step: BoundStep, value: Value, timeout_s: float) -> Any:  # noqa: ANN401 - as above
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("an attempt runs inside a task")
        fired = False

        def fire() -> None:
            nonlocal fired
            fired = True
            task.cancel()

        handle = asyncio.get_running_loop().call_later(timeout_s, fire)
        try:
            if step.is_async:
                result = await step.invoke(value)
            else:
                result = await self._call_in_thread(step, value)
        except asyncio.CancelledError:
            # Only our own cancellation is taken back; one from outside goes on outwards.
            if fired and task.uncancel() == 0:
                raise _TimedOutError from None
            raise
        except Exception as error:
            if fired:
                # The body's answer to being cancelled; it came too late all the same.
                task.uncancel()
                raise _TimedOutError from error
            raise
        finally:
            handle.cancel()
        if fired:
            task.uncancel()
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


class _TimedOutError(Exception):
    """The attempt's own time-out has fired."""
