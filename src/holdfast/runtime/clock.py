"""The machine's clocks."""

import time


class SystemClock:
    """`Clock` over the standard library."""

    def monotonic_ms(self) -> float:
        """See `Clock`."""
        return time.monotonic() * 1_000

    def wall_ms(self) -> int:
        """See `Clock`."""
        return int(time.time() * 1_000)  # noqa: TID251 - the one place that reads it
