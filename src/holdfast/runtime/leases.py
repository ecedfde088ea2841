"""A worker's lease as its own process sees it, and the heart that renews it.

A lease must outlive user code that blocks the event loop, so it is renewed from a thread (invariant 40). It
must not outlive a process that cannot act, so it is renewed only while the loop has ticked lately. And a worker
must stop before others can take its runs: at a part of the lease after it *sent* its last good renewal, by a
clock that nobody sets (invariant 10). A SQLite owner needs none of it: its lock on the file is the lease.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

from holdfast.errors import StoreUnavailableError
from holdfast.ports import Clock, Heart, Ids
from holdfast.runtime.patience import until_answered
from holdfast.stores.base import Renewals, Store
from holdfast.stores.records import LeaseTimes

NEVER_AGAIN_MS = -1.0
AGAIN_MS = 1_000
"""Between renewals while the store does not answer, at most."""


class Lease:
    """One identity's lease: from its registration until it lapses; then another identity is needed.

    Attributes:
        worker: The identity.
        is_stuck: Whether the heart has found that the loop does not tick: what runs here may be the cause.
    """

    def __init__(
        self, worker: str, times: LeaseTimes, renewals: Renewals, clock: Clock, *, sent_ms: float
    ) -> None:
        """Args: a registered identity, and the monotonic time when its registration was sent."""
        self.worker = worker
        self.is_stuck = False
        self._times = times
        self._renewals = renewals
        self._clock = clock
        self._good_until_ms = sent_ms + times.self_stop_ms
        self._ticked_ms = sent_ms

    @property
    def left_ms(self) -> float:
        """How long the worker may still act; 0 or less when it has lapsed, which is for ever."""
        return self._good_until_ms - self._clock.monotonic_ms()

    def has_lapsed(self) -> bool:
        """Whether nothing may be started or committed any more under this identity."""
        return self._clock.monotonic_ms() >= self._good_until_ms

    def tick(self) -> None:
        """Called by the event loop, so that the heart knows that it is alive."""
        self._ticked_ms = self._clock.monotonic_ms()

    def beat(self, now_ms: float) -> float:
        """Renew, in the heart's thread; gives the wait in ms before the next time."""
        times = self._times
        if now_ms >= self._good_until_ms:
            return NEVER_AGAIN_MS
        if now_ms - self._ticked_ms >= times.self_stop_ms:
            self.is_stuck = True
            return times.heartbeat_ms
        try:
            is_alive = self._renewals.renew(self.worker)
        except StoreUnavailableError:
            return min(times.heartbeat_ms, AGAIN_MS)
        if not is_alive:
            self._good_until_ms = now_ms
            return NEVER_AGAIN_MS
        if self._clock.monotonic_ms() < self._good_until_ms:
            # Counted from before it was sent. One that was answered too late revives nothing: the loop may have
            # seen the lapse already.
            self._good_until_ms = now_ms + times.self_stop_ms
        return times.heartbeat_ms


class Identity:
    """Under which name this process holds runs, for as long as its lease lives; then under another one.

    Attributes:
        worker: The name; none was ever used before, not even by this process.
    """

    def __init__(
        self, store: Store, ids: Ids, clock: Clock, heart: Heart, *, workflows: Sequence[str] = ()
    ) -> None:
        """Args: the store whose leases they are, the ports, and what this process can drive."""
        self.worker = ids.worker_id()
        self._workflows = workflows
        self._store = store
        self._ids = ids
        self._clock = clock
        self._heart = heart
        self._lease: Lease | None = None
        self._renewals: Renewals | None = None

    def has_lapsed(self) -> bool:
        """Whether nothing may be started or committed any more; never where there are no leases."""
        return self._lease is not None and self._lease.has_lapsed()

    async def take(self) -> None:
        """Register under a new name, however long the store takes, and let the heart keep the lease."""
        times = self._store.lease
        if times is None:
            await until_answered(self._register, what="registering a worker")
            return
        self.end()
        sent_ms = await until_answered(self._register, what="registering a worker")
        self._renewals = self._store.renewals()
        self._lease = Lease(self.worker, times, self._renewals, self._clock, sent_ms=sent_ms)
        self._heart.start(self._lease.beat)

    async def _register(self) -> float:
        """Under another name with each try; gives the monotonic time when it was sent."""
        sent_ms = self._clock.monotonic_ms()
        if self._store.lease is not None:
            self.worker = self._ids.worker_id()
        await self._store.register(self.worker, self._workflows)
        return sent_ms

    async def keep(self, lapse: Callable[[Lease], Awaitable[None]]) -> None:
        """Tell the heart that the loop is alive, and call `lapse` as soon as the lease has run out."""
        times = self._store.lease
        while times is not None and (lease := self._lease) is not None:
            lease.tick()
            if lease.has_lapsed():
                await lapse(lease)
            else:
                await asyncio.sleep(min(lease.left_ms, times.heartbeat_ms / 2) / 1_000)

    def end(self) -> None:
        """Renew no more, and let go of what the renewals needed."""
        self._heart.stop()
        renewals, self._renewals = self._renewals, None
        if renewals is not None:
            renewals.close()


class ThreadHeart:
    """`Heart` in a daemon thread of its own."""

    def __init__(self, clock: Clock) -> None:
        """Args: what `beat` is told as now."""
        self._clock = clock
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def start(self, beat: Callable[[float], float]) -> None:
        """See `Heart`."""
        self.stop()
        self._stopped = threading.Event()
        thread = threading.Thread(
            target=self._run, args=(beat, self._stopped), name="holdfast-heart", daemon=True
        )
        thread.start()

    def stop(self) -> None:
        """See `Heart`. A beat under way ends by itself: waiting for it would stop the event loop."""
        with self._lock:
            self._stopped.set()

    def _run(self, beat: Callable[[float], float], stopped: threading.Event) -> None:
        wait_ms = 0.0
        while wait_ms >= 0 and not stopped.wait(wait_ms / 1_000):
            with self._lock:
                if stopped.is_set():
                    return
            wait_ms = beat(self._clock.monotonic_ms())
