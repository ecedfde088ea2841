"""`SimulatedLoop`: an asyncio loop in virtual time, whose order of ready callbacks a seed decides.

Nothing here waits, reads a clock, opens a selector or starts a thread: when nothing is ready, time jumps to the
next timer. Each callback belongs to a *lane*, found in its context. Lanes can be paused (a frozen process, a
blocked event loop) and can die, which is how several processes live in one loop.
"""

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar, TypeVarTuple, Unpack

from holdfast.ports import Chance

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
ROUNDS_MAX = 200
"""Cancellations of a dead lane's tasks: one that has not ended by then refuses to."""


class Lane:
    """Callbacks that run, pause and die together: a process's event loop, or its threads.

    Attributes:
        name: Part of its tasks' names.
        owner: Whatever it belongs to.
        pauses: While there are any, its callbacks wait in `parked`.
        is_dead: Its callbacks are dropped.
        parked: What became ready while it was paused.
        tasks: All of its tasks that may not be done yet.
    """

    __slots__ = ("is_dead", "name", "owner", "parked", "pauses", "tasks", "tasks_made")

    def __init__(self, name: str, owner: object = None) -> None:
        """A lane that runs."""
        self.name = name
        self.owner = owner
        self.pauses = 0
        self.is_dead = False
        self.parked: list[Call] = []
        self.tasks: list[SimulatedTask[Any]] = []
        self.tasks_made = 0


LANE: contextvars.ContextVar[Lane | None] = contextvars.ContextVar("holdfast_simulated_lane", default=None)


class SimulatedTask(asyncio.Task[T]):
    """A task whose hash is its number, so that sets of tasks have the same order in every process."""

    def __init__(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        loop: "SimulatedLoop",
        name: str,
        number: int,
        context: contextvars.Context,
    ) -> None:
        """Args: as a task, and its number."""
        self.number = number
        super().__init__(coro, loop=loop, name=name, context=context)

    __eq__ = object.__eq__

    def __hash__(self) -> int:
        """Its number."""
        return self.number


class Call(asyncio.TimerHandle):
    """A callback that is ready or has a time; the base class only gives it its type."""

    __slots__ = ("args", "at_s", "context", "fn", "is_cancelled", "lane")

    def __init__(
        self,
        fn: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
        lane: Lane,
        at_s: float,
    ) -> None:
        """Args: what to call, in which context and lane, and when."""
        self.fn = fn
        self.args = args
        self.context = context
        self.lane = lane
        self.at_s = at_s
        self.is_cancelled = False

    def __repr__(self) -> str:
        """Show what is called."""
        return f"<call of {self.fn!r} in {self.lane.name}>"

    def cancel(self) -> None:
        """See `asyncio.Handle`."""
        self.is_cancelled = True

    def cancelled(self) -> bool:
        """See `asyncio.Handle`."""
        return self.is_cancelled

    def when(self) -> float:
        """See `asyncio.TimerHandle`."""
        return self.at_s


class SimulatedLoop(asyncio.AbstractEventLoop):
    """An event loop in virtual time.

    Attributes:
        calls: Callbacks run so far.
        outside: The lane of everything that is in no process: the network, the database, chaos.
        problems: What was raised where nobody could catch it.
    """

    def __init__(self, chance: Chance, *, is_shuffled: bool = True) -> None:
        """Args: what orders ready callbacks, unless they run first in, first out."""
        self.calls = 0
        self.outside = Lane("outside")
        self.problems: list[str] = []
        self._chance = chance.random
        self._is_shuffled = is_shuffled
        self._now_s = 0.0
        self._ready: list[Call] = []
        self._urgent: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Call]] = []
        self._timers_made = 0
        self._tasks_made = 0
        self._closed = False

    # Time and callbacks, as asyncio knows them.

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_s

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Call:
        """See `asyncio`. Among all that is ready, chance decides what runs first."""
        return self._add(callback, args, context, self._now_s)

    call_soon_threadsafe = call_soon

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Call:
        """See `asyncio`."""
        return self._add(callback, args, context, self._now_s + delay)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Call:
        """See `asyncio`."""
        return self._add(callback, args, context, when)

    def post(self, lane: Lane, delay_s: float, callback: Callable[[], object]) -> Call:
        """Call `callback` in another lane, as what arrives from outside does."""
        context = contextvars.copy_context()
        context.run(LANE.set, lane)
        return self._add(callback, (), context, self._now_s + delay_s)

    def urge(self, callback: Callable[[], object]) -> None:
        """Call `callback` before any other, as soon as the one that runs now has ended."""
        self._urgent.append(callback)

    def _add(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
        at_s: float,
    ) -> Call:
        context = contextvars.copy_context() if context is None else context
        lane = context.get(LANE) or self.outside
        call = Call(callback, args, context, lane, at_s)
        if lane.is_dead:
            call.is_cancelled = True
        elif at_s > self._now_s:
            self._timers_made += 1
            heapq.heappush(self._timers, (at_s, self._timers_made, call))
        elif lane.pauses:
            lane.parked.append(call)
        else:
            self._ready.append(call)
        return call

    def create_future(self) -> asyncio.Future[Any]:
        """See `asyncio`."""
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> SimulatedTask[T]:
        """See `asyncio`. Names count the tasks of a lane, so that they are the same in each replay."""
        context = contextvars.copy_context() if context is None else context
        lane = context.get(LANE) or self.outside
        self._tasks_made += 1
        lane.tasks_made += 1
        task = SimulatedTask(
            coro,
            loop=self,
            name=f"{lane.name}/{lane.tasks_made}" if name is None else str(name),
            number=self._tasks_made,
            context=context,
        )
        if len(lane.tasks) > 2 * ROUNDS_MAX:
            lane.tasks = [each for each in lane.tasks if not each.done()]
        lane.tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """See `asyncio`. Keeps what happened as a problem."""
        self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        """See `asyncio`."""
        return False

    def is_running(self) -> bool:
        """See `asyncio`."""
        return not self._closed

    def is_closed(self) -> bool:
        """See `asyncio`."""
        return self._closed

    # Running.

    def run(self, is_over: Callable[[], bool], *, calls_max: int) -> bool:
        """Run until `is_over`, asked whenever time moves, or until nothing is left or too much has run.

        Returns:
            Whether it is over.
        """
        asyncio._set_running_loop(self)  # noqa: SLF001 - documented as for implementers of loops
        try:
            while self._ready or self._urgent or not is_over():
                if self.calls >= calls_max or not self._step():
                    return False
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001 - as above
        return True

    def _step(self) -> bool:
        if self._urgent:
            self._urgent.popleft()()
            return True
        ready = self._ready
        while not ready:
            if not self._timers:
                return False
            self._advance()
        if self._is_shuffled:
            at = int(self._chance() * len(ready))
            call, ready[at] = ready[at], ready[-1]
            ready.pop()
        else:
            call = ready.pop(0)
        if not call.is_cancelled:
            self._run(call)
        return True

    def _advance(self) -> None:
        """Go to the time of the next timer, and make everything ready that is due then."""
        timers = self._timers
        self._now_s = max(timers[0][0], self._now_s)
        while timers and timers[0][0] <= self._now_s:
            call = heapq.heappop(timers)[2]
            lane = call.lane
            if call.is_cancelled or lane.is_dead:
                continue
            (lane.parked if lane.pauses else self._ready).append(call)

    def _run(self, call: Call) -> None:
        lane = call.lane
        if lane.is_dead:
            return
        if lane.pauses:
            lane.parked.append(call)
            return
        self.calls += 1
        call.context.run(call.fn, *call.args)

    # Lanes.

    def pause(self, lane: Lane) -> None:
        """Run nothing of the lane until it was resumed as often as paused."""
        lane.pauses += 1

    def resume(self, lane: Lane) -> None:
        """Take one pause back; after the last one, what has become ready meanwhile runs, in any order."""
        lane.pauses -= 1
        if not lane.pauses:
            self._ready += lane.parked
            lane.parked = []

    def bury(self, lane: Lane) -> bool:
        """End all tasks of a lane, and run nothing of it any more. Not while one of them runs: see `urge`.

        What its tasks do while they are cancelled happens at once and must reach nothing outside.

        Returns:
            Whether all of them have ended.
        """
        lane.pauses += 1
        mine = [call for call in self._ready if call.lane is lane]
        self._ready = [call for call in self._ready if call.lane is not lane]
        lane.parked += mine
        for _ in range(ROUNDS_MAX):
            left = [task for task in lane.tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            while lane.parked:
                parked, lane.parked = lane.parked, []
                for call in parked:
                    if not call.is_cancelled:
                        call.context.run(call.fn, *call.args)
        lane.is_dead = True
        lane.parked = []
        for task in lane.tasks:
            if task.done() and not task.cancelled():
                task.exception()  # nobody else will ask for it
        return all(task.done() for task in lane.tasks)

    def run_urgent(self) -> None:
        """Run only what was urged, until nothing of it is left."""
        asyncio._set_running_loop(self)  # noqa: SLF001 - as above
        try:
            while self._urgent:
                self._urgent.popleft()()
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001 - as above

    def close(self) -> None:
        """Drop everything that is left. Idempotent."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        self._urgent.clear()
