"""Hints: a notification after a commit that made a run due which another process may drive.

A hint makes waiting short and nothing else; looking tells the truth. So it is sent outside of the commit: a
transaction that notifies takes a lock that all others wait for when they commit. One process sends at most one
hint in `QUIET_S`.
"""

# The driver is not typed.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import asyncio
import contextlib
import socket
from collections.abc import Callable

import asyncpg

from holdfast.errors import StoreError
from holdfast.stores.postgres.connection import RECONNECT_S, Address, Connection, Pool, connect, opening

QUIET_S = 0.02
KEEPALIVE_S = 4
"""A listener's silent connection is probed by the operating system after this time, and again after half of it:
one that is dead is noticed within 10 s and without a statement."""
_NOTIFY = "select pg_notify($1, $2)"


class Listening(asyncpg.Connection):  # type: ignore[misc] # of Any
    """A connection that notices when the other end has vanished without a word."""

    def keep_alive(self) -> None:
        """Let the operating system probe it; over a local socket there is nothing to probe."""
        reached = self._transport.get_extra_info("socket")
        if reached is None or reached.family not in {socket.AF_INET, socket.AF_INET6}:
            return
        reached.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = {"TCP_KEEPIDLE": KEEPALIVE_S, "TCP_KEEPINTVL": KEEPALIVE_S // 2, "TCP_KEEPCNT": 2}
        for name, value in options.items():
            if hasattr(socket, name):
                reached.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Hints:
    """Sends hints and hears those of others; both are endless tasks for a task group."""

    def __init__(self, address: Address, *, listen_to: Address) -> None:
        """Args: of the store, and of a server that can be listened to: the same, past a pooler."""
        self._address = address
        self._listen_to = listen_to
        self._wanted = asyncio.Event()
        self._hint: Callable[[], None] = lambda: None
        self._sender = ""

    def on_hint(self, hint: Callable[[], None]) -> None:
        """Whom to tell."""
        self._hint = hint

    def send_as(self, sender: str) -> None:
        """Name this process, so that it does not hear itself."""
        self._sender = sender

    def send(self) -> None:
        """Let others know, soon."""
        self._wanted.set()

    async def run_sender(self, pool: Pool) -> None:
        """Send what is wanted until cancelled; a hint that cannot be sent is lost."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            with contextlib.suppress(StoreError):
                async with pool.connection() as connection:
                    await connection.execute(_NOTIFY, self._address.schema, self._sender)
            await asyncio.sleep(QUIET_S)

    async def run_listener(self) -> None:
        """Listen until cancelled; a lost connection is replaced, once a second at most."""
        while True:
            with contextlib.suppress(StoreError):
                await self._listen()
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        lost = asyncio.Event()
        with opening(self._listen_to.url):
            connection = await connect(self._listen_to, made_as=Listening)
            try:
                connection.add_termination_listener(lambda *_: lost.set())
                await connection.add_listener(self._address.schema, self._heard)
                if isinstance(connection, Listening):
                    connection.keep_alive()
                self._hint()  # for whatever was said before anyone listened
                await lost.wait()
            finally:
                connection.terminate()

    def _heard(self, _connection: Connection, _pid: int, _channel: str, sender: str) -> None:
        if sender != self._sender:
            self._hint()
