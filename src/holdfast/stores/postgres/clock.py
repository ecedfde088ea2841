"""What the server's clock shows now, estimated from its answers: never ahead of it, and it never falls.

An answer was stamped before it was received, so stamp plus the monotonic time since then is at most the truth.
The answer that was quickest under way gives the largest estimate. The best one is replaced after a while: two
oscillators drift apart by up to 0.1 ms in a second.
"""

from holdfast.ports import Clock

WINDOW_MS = 10_000
"""Of two windows of this length the better estimate holds, so it rests on an answer of the last 20 s."""
_UNKNOWN = float("-inf")


class StoreClock:
    """Estimates the server's clock. Who hears nothing for long goes on with the last answer."""

    def __init__(self, clock: Clock) -> None:
        """Args: the machine's clocks, of which only the monotonic one is read."""
        self._clock = clock
        self._before_ms = _UNKNOWN
        self._best_ms = _UNKNOWN
        self._since_ms = 0.0
        self._shown_ms = 0

    def heard(self, at_ms: int) -> None:
        """The server has answered with this stamp just now."""
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._since_ms >= WINDOW_MS:
            self._before_ms, self._best_ms = self._best_ms, _UNKNOWN
            self._since_ms = now_ms
        self._best_ms = max(self._best_ms, at_ms - now_ms)

    def now_ms(self) -> int:
        """The time in integer ms; 0 before the first answer."""
        base_ms = max(self._before_ms, self._best_ms)
        if base_ms != _UNKNOWN:
            self._shown_ms = max(self._shown_ms, int(base_ms + self._clock.monotonic_ms()))
        return self._shown_ms
