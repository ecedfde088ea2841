"""The machine's clocks."""

import asyncio
import time
from collections.abc import Callable


class SystemClock:
    """`Clock` over the standard library."""

    def monotonic_ms(self) -> float:
        """See `Clock`."""
        return time.monotonic() * 1_000

    def wall_ms(self) -> int:
        """See `Clock`."""
        return int(time.time() * 1_000)  # noqa: TID251 - the one place that reads it

    def call_later(self, delay_ms: float, fn: Callable[[], object]) -> asyncio.TimerHandle:
        """See `Clock`."""
        return asyncio.get_running_loop().call_later(delay_ms / 1_000, fn)
