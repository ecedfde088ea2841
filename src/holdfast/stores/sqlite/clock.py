"""The SQLite store's clock: wall time at open, raised to what was stamped before, then monotonic.

So it never falls, and a wall clock that jumps while the process lives changes nothing. The high-water mark is
written ahead by a second, which makes it one small write per second and not one per commit. A mark that lies in
the future at open is therefore either that second or a wall clock set back; the newest stamp tells which.
"""

import sqlite3

from holdfast.ports import Clock

AHEAD_MS = 1_000
# A scan, but only where the mark lies in the future: after a crash within the last second, or a clock set back.
_NEWEST = """
select max(coalesce((select max(updated_at_ms) from runs), 0), coalesce((select max(at_ms) from inbox), 0))
"""


class StoreClock:
    """Gives stamps, and keeps their high-water mark in the file."""

    def __init__(self, clock: Clock) -> None:
        """Args: the machine's clocks."""
        self._clock = clock
        self._base_ms = 0.0
        self._reserved_ms = 0

    def start(self, connection: sqlite3.Connection, *, owns: bool) -> None:
        """Begin at the wall clock, or at the newest stamp if that is later.

        A client takes the mark less its second for the newest stamp: the owner that writes it is alive, and
        looking closely would cost every short-lived client a scan.
        """
        high_ms = self.mark_ms(connection)
        begin_ms = self._clock.wall_ms()
        self._base_ms = begin_ms - self._clock.monotonic_ms()
        if begin_ms < high_ms:
            newest_ms = high_ms - AHEAD_MS
            if owns:
                newest_ms = int(connection.execute(_NEWEST).fetchone()[0])
            # That may have taken long: what has passed meanwhile is not lost.
            self._base_ms = max(self._base_ms, newest_ms - self._clock.monotonic_ms())

    def mark_ms(self, connection: sqlite3.Connection) -> int:
        """The high-water mark that the file holds."""
        return int(connection.execute("select high_ms from clock").fetchone()[0])

    def now_ms(self) -> int:
        """The time, in integer ms."""
        return int(self._base_ms + self._clock.monotonic_ms())

    def reserve_again(self) -> None:
        """A transaction that was stamped has been rolled back, and the mark it wrote perhaps with it."""
        self._reserved_ms = 0

    def stamp(self, connection: sqlite3.Connection) -> int:
        """The time of the transaction that is open on `connection`, or is about to begin."""
        at_ms = self.now_ms()
        if at_ms > self._reserved_ms:
            reserved_ms = at_ms + AHEAD_MS
            connection.execute("update clock set high_ms = max(high_ms, ?)", (reserved_ms,))
            self._reserved_ms = reserved_ms
        return at_ms
