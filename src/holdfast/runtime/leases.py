"""The heart: a thread that calls one function over and over, whatever the event loop is doing.

A lease must outlive user code that blocks the loop, so it is renewed from here (invariant 40). A SQLite
owner needs none: its lock on the file is the lease.
"""

import threading
from collections.abc import Callable

from holdfast.ports import Clock


class ThreadHeart:
    """`Heart` in a daemon thread of its own."""

    def __init__(self, clock: Clock) -> None:
        """Args: what `beat` is told as now."""
        self._clock = clock
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, beat: Callable[[float], float]) -> None:
        """See `Heart`."""
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run, args=(beat,), name="holdfast-heart", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """See `Heart`."""
        self._stopped.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self, beat: Callable[[float], float]) -> None:
        while not self._stopped.is_set():
            wait_ms = beat(self._clock.monotonic_ms())
            if wait_ms < 0:
                return
            self._stopped.wait(wait_ms / 1_000)
