"""What the engine needs of the outside besides a store: time, ids, chance, threads and a heart.

Everything above the core takes these as arguments. Production implementations live in `runtime`; tests
and the simulator bring virtual ones. Nothing else in the package reads a clock or starts a thread.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Timer(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Do not call; harmless when it has been called."""
        ...


class Clock(Protocol):
    """Two clocks: one that only moves forward, one that people set."""

    def monotonic_ms(self) -> float:
        """Milliseconds since an arbitrary moment; never falls, ignores clock changes."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC as the machine believes; may jump either way."""
        ...

    def call_later(self, delay_ms: float, fn: Callable[[], object]) -> Timer:
        """Call `fn` in the running event loop when the monotonic clock has moved on by `delay_ms`."""
        ...


class Ids(Protocol):
    """New names, never given twice."""

    def run_id(self) -> str:
        """`run_` and 26 lower-case base32 characters of 128 random bits."""
        ...

    def message_id(self) -> str:
        """A name for one message to a run, given to it before it is first sent."""
        ...

    def worker_id(self) -> str:
        """A name for one life of one worker process: new with every call."""
        ...


class Chance(Protocol):
    """The only source of randomness, used for jitter."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


class Threads(Protocol):
    """A place where blocking functions run one at a time or side by side."""

    def call(self, fn: Callable[[], T]) -> asyncio.Future[T]:
        """Run `fn` off the event loop.

        Cancelling the returned future abandons the call: it may still run to its end, its result is
        dropped.

        Returns:
            A future of the running loop with `fn`'s result or exception.

        Raises:
            RuntimeError: Closed; nothing was called.
        """
        ...

    def close(self) -> None:
        """Take no further call. Running calls end by themselves; idempotent."""
        ...


class Heart(Protocol):
    """Calls one function over and over from outside the event loop."""

    def start(self, beat: Callable[[float], float]) -> None:
        """Begin to call `beat(now_ms)`; it returns the wait before the next call in ms.

        A negative wait ends the heart. `beat` runs in a thread of its own and must not raise.
        """
        ...

    def stop(self) -> None:
        """End the beating; no call of `beat` begins after this returns. Idempotent."""
        ...
