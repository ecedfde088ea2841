"""SIGINT and SIGTERM as a request to end in good order."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator

from holdfast.cli.output import note
from holdfast.runtime.limits import GRACE_MS

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Which signal has ended a block, if any."""

    def __init__(self, scope: asyncio.Timeout) -> None:
        """Args: what the signal lets expire."""
        self.signal: signal.Signals | None = None
        self._scope = scope

    def take(self, number: signal.Signals) -> None:
        """A signal has come."""
        self.signal = number
        self._scope.reschedule(asyncio.get_running_loop().time())


@contextlib.asynccontextmanager
async def until_stopped() -> AsyncGenerator[Stop, None]:
    """Run the block to its end or to the first SIGINT or SIGTERM, which cancels what it awaits.

    After the block the signals act as ever again: a second one ends the process at once. It belongs
    *inside* an engine's block, so that the signal ends the waiting, and leaving the engine drains it.
    """
    loop = asyncio.get_running_loop()
    # A time-out that only a signal lets expire: asyncio has no other way to cancel a block and go
    # on after it.
    scope = asyncio.timeout(None)
    stop = Stop(scope)
    try:
        async with scope:
            for number in SIGNALS:
                loop.add_signal_handler(number, stop.take, number)
            try:
                yield stop
            finally:
                for number in SIGNALS:
                    loop.remove_signal_handler(number)
    except TimeoutError:
        if stop.signal is None:
            raise
        note(
            f"{stop.signal.name}: steps that are under way get {GRACE_MS // 1_000} s;"
            " a second signal ends them at once"
        )
