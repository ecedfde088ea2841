"""The SQLite store's clock: wall time at open, raised to what was stamped before, then monotonic.

So it never falls, and a wall clock that jumps while the process lives changes nothing. The high-water mark is
written ahead by a second, which makes it one small write per second and not one per commit.
"""

import sqlite3

from holdfast.ports import Clock

AHEAD_MS = 1_000


class StoreClock:
    """Gives stamps, and keeps their high-water mark in the file."""

    def __init__(self, clock: Clock) -> None:
        """Args: the machine's clocks."""
        self._clock = clock
        self._base_ms = 0.0
        self._reserved_ms = 0

    def start(self, connection: sqlite3.Connection) -> None:
        """Begin at the wall clock or the file's mark, whichever is later."""
        high_ms = int(connection.execute("select high_ms from clock").fetchone()[0])
        self._base_ms = max(self._clock.wall_ms(), high_ms) - self._clock.monotonic_ms()

    def now_ms(self) -> int:
        """The time, in integer ms."""
        return int(self._base_ms + self._clock.monotonic_ms())

    def stamp(self, connection: sqlite3.Connection) -> int:
        """The time of the transaction that is open on `connection`."""
        at_ms = self.now_ms()
        if at_ms > self._reserved_ms:
            self._reserved_ms = at_ms + AHEAD_MS
            connection.execute("update clock set high_ms = max(high_ms, ?)", (self._reserved_ms,))
        return at_ms
