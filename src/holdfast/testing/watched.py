"""`WatchedStore` and `WatchedAttempts`: what is under way in the store, and which bodies were called."""

import inspect
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from holdfast.core.effects import StartAttempt
from holdfast.core.events import AttemptFailed, AttemptSucceeded
from holdfast.core.run import Value
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.bindings import BoundStep, Callee
from holdfast.runtime.calls import Invocation
from holdfast.runtime.context import get_task_context
from holdfast.stores.base import Store
from holdfast.stores.records import Member, NewRun, Outcome
from holdfast.testing.bodies import Bodies
from holdfast.testing.faults import Ask, Choose, Fault, FaultyStore, T
from holdfast.testing.recorded import Key


def never(number: int, group: Sequence[Member]) -> Fault:
    """No fault at all."""
    del number, group
    return Fault.NONE


class WatchedStore(FaultyStore):
    """Wraps a store for `TestEngine`: a store whose calls are counted, so that a test knows when all is done.

    Attributes:
        calls: How many calls have begun and not ended.
    """

    commits: int

    def __init__(self, inner: Store, choose: Choose = never) -> None:
        """Args: the real store, and the fault of each commit."""
        super().__init__(inner, choose)
        self.calls = 0

    @property
    def poll_ms(self) -> tuple[int, int] | None:
        """See `Store`. Never: a virtual month would be 26 million looks; the engine is told to look instead."""
        return None

    async def commit(self, group: Sequence[Member]) -> list[Outcome]:
        """See `Store`."""
        self.calls += 1
        try:
            return await super().commit(group)
        finally:
            self.calls -= 1

    async def replace(self, new: NewRun, *, key: int, epoch: int, keep_inbox: bool = False) -> Outcome:
        """See `Store`. A commit like any other: of a run that begins anew."""
        self.commits += 1
        fault = self._choose(self.commits, [new])
        self.hits[fault] += 1
        if fault is Fault.CRASH_BEFORE:
            await self._crash()
        outcome = await super().replace(new, key=key, epoch=epoch, keep_inbox=keep_inbox)
        if fault is Fault.CRASH_AFTER:
            await self._crash()
        return outcome

    async def _reach(self, call: str, ask: Ask[T]) -> T:
        self.calls += 1
        try:
            return await super()._reach(call, ask)
        finally:
            self.calls -= 1


class WatchedAttempts(Attempts):
    """`Attempts` that notes which bodies it has called: of steps, and of what durable functions call as steps.

    Attributes:
        called: Each call, in the order in which they began.
        functions: Those of them that were bodies of durable functions, which run as often as they are needed.
        running: A number for each that has not ended: threads outlive whoever waits for them.
    """

    def __init__(self, inner: Attempts, bodies: Bodies) -> None:
        """Args: what makes them, and what stands between them and the functions."""
        self._inner = inner
        self._bodies = bodies
        self._numbers = itertools.count()
        self.called: list[Key] = []
        self.functions: set[Key] = set()
        self.running: set[int] = set()

    def close(self) -> None:
        """See `Attempts`."""
        self._inner.close()

    def random(self) -> float:
        """See `Attempts`."""
        return self._inner.random()

    async def make(self, effect: StartAttempt, step: Callee, value: Value) -> AttemptSucceeded | AttemptFailed:
        """See `Attempts`."""
        context = get_task_context()
        if context is None:
            return await self._inner.make(effect, step, value)  # a completion hook, which is no step's
        key = Key(context.run_id, context.incarnation, effect.branch, effect.step, effect.visit, effect.attempt)
        if context.operation:
            key = key._replace(operation=context.operation, operation_attempt=context.attempt)
        elif isinstance(step, BoundStep) and step.takes_context:
            self.functions.add(key)
        if isinstance(step, Invocation):
            step = self._bodies.stand_in(step)
        return await self._inner.make(effect, _Callee(step, key, self), value)

    def begin(self, key: Key) -> int:
        """A body begins; gives a number for it."""
        number = next(self._numbers)
        self.called.append(key)
        self.running.add(number)
        return number


class _Callee:
    """What an attempt calls, with a body that is noted."""

    importable = None

    def __init__(self, inner: Callee, key: Key, watch: WatchedAttempts) -> None:
        self.name = inner.name
        self.is_async = inner.is_async
        self.timeout_ms = inner.timeout_ms
        self._inner = inner
        self._key = key
        self._watch = watch

    @property
    def invoke(self) -> Callable[..., Any]:
        return self._invoke

    def _invoke(self, value: Value) -> Any:  # noqa: ANN401 - what a task returns
        number = self._watch.begin(self._key)
        goes_on = False
        try:
            result = self._inner.invoke(value)
            goes_on = inspect.isawaitable(result)
            return self._ended(number, result) if goes_on else result
        finally:
            if not goes_on:
                self._watch.running.discard(number)

    async def _ended(self, number: int, result: Awaitable[Any]) -> Any:  # noqa: ANN401 - what a task returns
        try:
            return await result
        finally:
            self._watch.running.discard(number)
