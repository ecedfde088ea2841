"""Keeping a lease alive from a thread of its own: an event loop and a connection that nothing else uses.

So a loop that is kept busy by someone's code, or a pool that is all lent out, does not cost a worker its life.
"""

import asyncio
import threading

from holdfast.errors import StoreUnavailableError
from holdfast.stores.postgres.connection import Address, Connection, connect, on_one_server, translated
from holdfast.stores.postgres.leases import RENEW
from holdfast.stores.records import LeaseTimes


class PostgresRenewals:
    """See `Renewals`."""

    def __init__(self, address: Address, lease: LeaseTimes) -> None:
        """Args: where to, and the times of the lease."""
        self._address = address
        self._lease = lease
        self._lock = threading.Lock()
        self._runner: asyncio.Runner | None = None
        self._connection: Connection | None = None
        self._renewing: asyncio.Task[bool] | None = None
        self._is_closed = False

    def renew(self, worker: str) -> bool:
        """See `Renewals`. Called from one thread, in which no event loop runs."""
        with self._lock:
            if self._is_closed:
                raise self._unavailable("it is closed")
            if self._runner is None:
                self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            try:
                return self._runner.run(self._renew(worker))
            except asyncio.CancelledError as error:
                raise self._unavailable("it was closed meanwhile") from error

    def _unavailable(self, reason: str) -> StoreUnavailableError:
        return StoreUnavailableError(store=self._address.url, reason=reason)

    async def _renew(self, worker: str) -> bool:
        self._renewing = asyncio.current_task()
        if self._is_closed:
            raise self._unavailable("it is closed")
        connection, self._connection = self._connection, None
        try:
            with translated(self._address.url):
                async with asyncio.timeout(self._lease.renewal_ms / 1_000):
                    if connection is None or connection.is_closed():
                        connection = await connect(self._address)
                    renew = self._address.sql(RENEW)
                    async with on_one_server(connection, self._address):
                        row = await connection.fetchrow(renew, worker, self._lease.lease_ms)
        except BaseException:
            # In an unknown state: the next call makes another one.
            if connection is not None:
                connection.terminate()
            raise
        finally:
            self._renewing = None
        self._connection = connection
        return row is not None

    def close(self) -> None:
        """See `Renewals`."""
        self._is_closed = True
        runner, renewing = self._runner, self._renewing
        if runner is not None and renewing is not None:
            runner.get_loop().call_soon_threadsafe(renewing.cancel)
        # A loop cannot be run in a thread in which another one is running, and the caller's may be.
        closing = threading.Thread(target=self._close, name="holdfast-renewals-closing")
        closing.start()
        closing.join()

    def _close(self) -> None:
        with self._lock:
            runner, self._runner = self._runner, None
            if runner is not None:
                runner.run(self._disconnect())
                runner.close()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
            await asyncio.sleep(0)  # the loop lets go of the socket in its next round
