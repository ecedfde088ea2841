"""Clock, ids, threads and heart of a simulated process."""

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from holdfast.testing.simulator.loop import Lane
from holdfast.testing.simulator.world import World

T = TypeVar("T")
EPOCH_MS = 1_700_000_000_000
"""Wall clock at virtual time 0."""
THREAD_WAIT_S = 0.002
"""Until a thread is free, at most."""


class BodyError(Exception):
    """What bodies of programs raise: the only errors that simulated threads carry."""


class SimulatedClock:
    """`Clock` of one process.

    Attributes:
        skew_ms: How far the wall clock is ahead.
        ahead_ms: How far the thread that runs now is ahead of virtual time: a call that blocks takes time.
    """

    def __init__(self, world: World, *, offset_ms: float = 0.0, skew_ms: int = 0) -> None:
        """Args: whose time, where the monotonic clock begins, and how wrong the wall clock is."""
        self._world = world
        self._offset_ms = offset_ms
        self.skew_ms = skew_ms
        self.ahead_ms = 0.0

    def monotonic_ms(self) -> float:
        """See `Clock`."""
        return self._world.now_s * 1_000 + self._offset_ms + self.ahead_ms

    def wall_ms(self) -> int:
        """See `Clock`."""
        return int(EPOCH_MS + self._world.now_s * 1_000 + self.skew_ms)

    def call_later(self, delay_ms: float, fn: Callable[[], object]) -> asyncio.TimerHandle:
        """See `Clock`. The loop's own time is virtual already."""
        return asyncio.get_running_loop().call_later(delay_ms / 1_000, fn)


class SimulatedIds:
    """`Ids` that count: the same in each replay, and never given twice in a simulation."""

    def __init__(self) -> None:
        """Nothing is given yet."""
        self._given = 0

    def run_id(self) -> str:
        """See `Ids`."""
        self._given += 1
        return f"run_{self._given:026}"

    def message_id(self) -> str:
        """See `Ids`."""
        self._given += 1
        return f"m{self._given}"

    def worker_id(self) -> str:
        """See `Ids`."""
        self._given += 1
        return f"w{self._given}"


class SimulatedThreads:
    """`Threads` in which a body takes as much virtual time as it has told `spend`."""

    def __init__(self, world: World, loop_lane: Lane, thread_lane: Lane) -> None:
        """Args: the lanes of the process."""
        self._world = world
        self._loop_lane = loop_lane
        self._thread_lane = thread_lane
        self._is_closed = False
        self._spent_s = 0.0

    def spend(self, seconds: float) -> None:
        """Called by a body: its call will have taken this long."""
        self._spent_s = seconds

    def call(self, fn: Callable[[], T]) -> asyncio.Future[T]:
        """See `Threads`."""
        if self._is_closed:
            raise RuntimeError("these threads are closed")
        future: asyncio.Future[T] = self._world.loop.create_future()
        begin = partial(self._begin, fn, contextvars.copy_context(), future)
        self._world.loop.post(self._thread_lane, self._world.chance.random() * THREAD_WAIT_S, begin)
        return future

    def close(self) -> None:
        """See `Threads`."""
        self._is_closed = True

    def _begin(self, fn: Callable[[], T], context: contextvars.Context, future: asyncio.Future[T]) -> None:
        if future.cancelled():
            return
        self._spent_s = 0.0
        tell: Callable[[], None]
        try:
            tell = partial(self._succeed, future, context.run(fn))
        except BodyError as error:
            tell = partial(self._fail, future, error)
        loop = self._world.loop
        loop.post(self._thread_lane, self._spent_s, lambda: loop.post(self._loop_lane, 0.0, tell))

    def _succeed(self, future: asyncio.Future[T], result: T) -> None:
        if not future.done():
            future.set_result(result)

    def _fail(self, future: asyncio.Future[T], error: BodyError) -> None:
        if not future.done():
            future.set_exception(error)


class SimulatedHeart:
    """`Heart` in the lane of the process's threads: a blocked event loop does not stop it."""

    def __init__(self, world: World, clock: SimulatedClock, thread_lane: Lane) -> None:
        """Args: what `beat` is told as now, and where it beats."""
        self._world = world
        self._clock = clock
        self._lane = thread_lane
        self._life = 0

    def start(self, beat: Callable[[float], float]) -> None:
        """See `Heart`."""
        self.stop()
        self._world.loop.post(self._lane, 0.0, partial(self._beat, self._life, beat))

    def stop(self) -> None:
        """See `Heart`."""
        self._life += 1

    def _beat(self, life: int, beat: Callable[[float], float]) -> None:
        if life != self._life:
            return
        self._clock.ahead_ms = 0.0
        wait_ms = beat(self._clock.monotonic_ms())
        taken_ms, self._clock.ahead_ms = self._clock.ahead_ms, 0.0
        if wait_ms >= 0:
            self._world.loop.post(self._lane, (taken_ms + wait_ms) / 1_000, partial(self._beat, life, beat))
