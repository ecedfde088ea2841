"""`VirtualClock`: time that passes when a test says so."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime

from holdfast.definition.duration import Duration, instant_ms, to_ms
from holdfast.runtime.context import TaskContext, get_task_context

BEGIN_MS = 1_700_000_000_000
"""Where the wall clock begins: 2023-11-14 22:13:20 UTC."""


class VirtualTimer:
    """A call that is to come; see `Timer`."""

    def __init__(self, due_ms: float, fn: Callable[[], object]) -> None:
        """Args: when, by the monotonic clock, and what."""
        self.due_ms = due_ms
        self.fn = fn
        self.is_cancelled = False

    def cancel(self) -> None:
        """See `Timer`."""
        self.is_cancelled = True


class VirtualClock:
    """Both clocks of a machine, which stand still until they are moved."""

    def __init__(self, begin: datetime | None = None) -> None:
        """Stand still at a moment.

        Args:
            begin: What the wall clock shows, with its time zone; default 2023-11-14 22:13:20 UTC.

        Raises:
            UsageError: It has no time zone.
        """
        begin_ms = BEGIN_MS if begin is None else instant_ms(begin, what="begin")
        self._now_ms = 5_000.0
        self._wall_ahead_ms = begin_ms - 5_000
        self._numbers = itertools.count()
        self._timers: list[tuple[float, int, VirtualTimer]] = []
        self._sleeping: set[TaskContext] = set()

    def monotonic_ms(self) -> float:
        """See `Clock`."""
        return self._now_ms

    def wall_ms(self) -> int:
        """See `Clock`."""
        return int(self._now_ms) + self._wall_ahead_ms

    def now(self) -> datetime:
        """What the wall clock shows, in UTC."""
        return datetime.fromtimestamp(self.wall_ms() / 1_000, tz=UTC)

    def set_wall(self, by_ms: int) -> None:
        """Someone sets the wall clock; no time passes."""
        self._wall_ahead_ms += by_ms

    def call_later(self, delay_ms: float, fn: Callable[[], object]) -> VirtualTimer:
        """See `Clock`. `fn` is called by `advance`."""
        timer = VirtualTimer(self._now_ms + max(delay_ms, 0), fn)
        heapq.heappush(self._timers, (timer.due_ms, next(self._numbers), timer))
        return timer

    async def sleep(self, duration: Duration) -> None:
        """Wait until so much of this clock's time has passed; for stand-ins of tasks that take their time.

        A body that waits here lets time pass. One that waits for anything else does not: it may be done at
        any moment.
        """
        over = asyncio.Event()
        timer = self.call_later(to_ms(duration), over.set)
        body = get_task_context()
        if body is not None:
            self._sleeping.add(body)
        try:
            await over.wait()
        finally:
            timer.cancel()
            if body is not None:
                self._sleeping.discard(body)

    @property
    def bodies_asleep(self) -> int:
        """How many bodies of tasks wait in `sleep`."""
        return len(self._sleeping)

    def next_in_ms(self) -> float | None:
        """How long until the next timer; None if there is none."""
        while self._timers and self._timers[0][2].is_cancelled:
            heapq.heappop(self._timers)
        return max(self._timers[0][0] - self._now_ms, 0) if self._timers else None

    def advance(self, ms: float) -> None:
        """Time passes; what has become due is called, each at its own time.

        This moves the clock and nothing else. `TestEngine.advance` also lets the engine do what is due.
        """
        until_ms = self._now_ms + ms
        while (wait_ms := self.next_in_ms()) is not None and self._now_ms + wait_ms <= until_ms:
            due_ms, _, timer = heapq.heappop(self._timers)
            self._now_ms = max(self._now_ms, due_ms)
            timer.fn()
        self._now_ms = until_ms
