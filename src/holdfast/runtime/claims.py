"""How a worker comes by runs: claims, polls and hints, what a lost answer may have left, and messages."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence

from holdfast.core.run import Run
from holdfast.errors import HoldfastError, LeaseLostError, StoreUnavailableError
from holdfast.ports import Clock
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.definitions import Definitions
from holdfast.runtime.driver import Driver
from holdfast.runtime.folds import folded
from holdfast.runtime.inbox import Inbox
from holdfast.runtime.leases import Identity
from holdfast.runtime.limits import CHECK_MS, CLAIM_MAX, DOUBT_MS, UNAVAILABLE_WAIT_MS
from holdfast.runtime.relatives import given_up
from holdfast.stores.base import Store
from holdfast.stores.group_commit import GroupCommit
from holdfast.stores.records import Claimed, RunRecord, Stored

LOGGER = logging.getLogger("holdfast.worker")
Adopt = Callable[[RunRecord, Run, BoundWorkflow, Inbox], None]


class Claims:
    """Looks for runs that are due and for messages to runs that are driven, whenever there is a reason to.

    Attributes:
        definitions: What this worker can drive, and under which fingerprints.
        is_unsure: Whether there may be runs that are held here and that nobody drives.
    """

    def __init__(
        self,
        store: Store,
        bound: Mapping[str, BoundWorkflow],
        identity: Identity,
        group: GroupCommit,
        *,
        queues: Sequence[str],
        clock: Clock,
        drivers: Mapping[str, Driver],
        free: Callable[[], int],
        adopt: Adopt,
        disown: Callable[[str, int], None],
    ) -> None:
        """Args: where to look and for what, what is driven, how much more may be, who begins and ends it."""
        self.definitions = Definitions(store, bound)
        self.is_unsure = False
        self._store = store
        self._bound = bound
        self._identity = identity
        self._group = group
        self._queues = queues
        self._clock = clock
        self._drivers = drivers
        self._free = free
        self._adopt = adopt
        self._disown = disown
        self._wake = asyncio.Event()
        self._is_asleep = False
        self._claimed: deque[RunRecord] = deque()
        self._next_due_at_ms: int | None = None
        self._pause_ms = 0
        self._doubts_until_ms: float | None = None
        self._checks_at_ms = 0.0
        self._has_mail = False
        self._readers = 0
        self._departed: set[tuple[str, int]] = set()

    @property
    def is_looking(self) -> bool:
        """Whether a look is under way, or about to be."""
        return self._wake.is_set() or not self._is_asleep

    def nudge(self) -> None:
        """Look now."""
        self._wake.set()

    def expect_mail(self) -> None:
        """A message was sent from here to a run that may be driven here, or be on its way."""
        self._has_mail = True
        self._wake.set()

    def left(self, record: RunRecord, due_at_ms: int | None) -> None:
        """A run is driven here no more; if it was given back, it is due then."""
        if self._readers or self._claimed:
            self._departed.add((record.id, record.epoch))
        if due_at_ms is not None:
            known = self._next_due_at_ms
            self._next_due_at_ms = due_at_ms if known is None else min(known, due_at_ms)
        self._wake.set()

    def forget(self) -> None:
        """What was claimed is not ours any more."""
        self._claimed.clear()

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Look for runs until `is_over`, with as few questions as may be."""
        while not is_over():
            self._wake.clear()
            try:
                wait_ms = await self._look()
            except StoreUnavailableError as error:
                LOGGER.warning("looking for due runs: %s", error)
                self._doubt()
                wait_ms = UNAVAILABLE_WAIT_MS
            except LeaseLostError as error:
                LOGGER.warning("looking for due runs: %s", error)
                wait_ms = UNAVAILABLE_WAIT_MS
            if not is_over():
                await self._sleep(wait_ms)

    async def take_one(self, run_id: str) -> None:
        """Hold and drive one run now, due or not, if that can be."""
        try:
            record = await self._store.claim_one(self._identity.worker, run_id)
            if record is not None:
                self._claimed.append(record)
                await self._take_over_claimed()
        except (StoreUnavailableError, LeaseLostError) as error:
            LOGGER.warning("resuming run %r: %s", run_id, error)
            self._doubt()
            self.nudge()

    async def _look(self) -> float | None:
        """Claim what there are slots for, and hear of messages; gives the wait before the next time."""
        if self.is_unsure or self._doubts_until_ms is not None:
            await self._find_what_is_held()
        await self._take_over_claimed()
        if self._drivers and (self._has_mail or self._store.poll_ms is not None):
            self._has_mail = False
            await self._hear()
        if self._drivers and self._store.poll_ms is not None:
            await self._find_what_is_lost()
        limit = min(self._free(), CLAIM_MAX)
        asked_at_ms = self._store.now_ms()
        if limit <= 0 or self._identity.has_lapsed():
            return self._wait_ms(Claimed(), asked_at_ms)
        claimed = await self._store.claim(
            self._identity.worker,
            workflows=list(self._bound),
            queues=self._queues,
            limit=limit,
            suspects=0 if any(driver.is_suspect for driver in self._drivers.values()) else 1,
            excluded=self.definitions.undrivable(),
        )
        self._claimed.extend(claimed.runs)
        await self._take_over_claimed()
        if claimed.expired and await self._store.reap():
            return 0.0
        return 0.0 if len(claimed.runs) == limit else self._wait_ms(claimed, asked_at_ms)

    async def _hear(self) -> None:
        """Tell drivers how many messages others have sent to their runs."""
        driven = {driver.record.key: driver for driver in self._drivers.values()}
        for key, messages_sent in await self._store.counts(self._identity.worker):
            if key in driven:
                driven[key].notice(messages_sent)

    def _doubt(self) -> None:
        """A claim has an unknown outcome, and may be carried out until the store gives it up."""
        self.is_unsure = True
        self._doubts_until_ms = self._clock.monotonic_ms() + DOUBT_MS

    async def _find_what_is_held(self) -> None:
        """A claim whose outcome is unknown may have held runs that nobody drives here."""
        self.is_unsure, asked_at_ms = False, self._clock.monotonic_ms()
        known = {record.id for record in self._claimed}
        try:
            with self._reading():
                for record in await self._store.held(self._identity.worker):
                    if record.id not in self._drivers and record.id not in known:
                        self._claimed.append(record)
        except BaseException:
            self.is_unsure = True
            raise
        if self._doubts_until_ms is not None and asked_at_ms >= self._doubts_until_ms:
            # Asked once more after the last moment at which it could have been carried out.
            self._doubts_until_ms = None

    async def _find_what_is_lost(self) -> None:
        """Drop runs that others have replaced: a body that hangs would never hear that it is for nothing."""
        now_ms = self._clock.monotonic_ms()
        if now_ms < self._checks_at_ms:
            return
        self._checks_at_ms = now_ms + CHECK_MS
        asked = list(self._drivers.values())
        held = {(each.key, each.epoch) for each in await self._store.held(self._identity.worker)}
        for driver in asked:
            record = driver.record
            is_ours = self._drivers.get(record.id) is driver and not driver.is_leaving
            if is_ours and (record.key, record.epoch) not in held:
                self._disown(record.id, record.epoch)

    @contextlib.contextmanager
    def _reading(self) -> Generator[None]:
        """Remember meanwhile which runs have left this worker: what is read of them may be older than that."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers and not self._claimed:
                self._departed.clear()

    def _wait_ms(self, claimed: Claimed, asked_at_ms: int) -> float | None:
        """Until the next poll or the next due time, whichever is first; polls get rarer while nothing comes."""
        dues = [due for due in (claimed.next_due_at_ms, self._next_due_at_ms) if due is not None]
        # Of what was due when we asked, the claim has told. What has become due since is not passed over.
        self._next_due_at_ms = min((due for due in dues if due > asked_at_ms), default=None)
        waits: list[float] = []
        if self._store.poll_ms is not None:
            least_ms, most_ms = self._store.poll_ms
            self._pause_ms = least_ms if claimed.runs else min(max(self._pause_ms * 2, least_ms), most_ms)
            waits.append(self._pause_ms)
        if self._next_due_at_ms is not None and self._free() > 0:
            waits.append(max(self._next_due_at_ms - self._store.now_ms(), 0))
        return min(waits, default=None)

    async def _sleep(self, wait_ms: float | None) -> None:
        timer = None if wait_ms is None else self._clock.call_later(wait_ms, self._wake.set)
        self._is_asleep = True
        try:
            await self._wake.wait()
        finally:
            self._is_asleep = False
            if timer is not None:
                timer.cancel()

    async def _take_over_claimed(self) -> None:
        """Drive what is held; what the store does not let us read now stays listed and is tried again."""
        while self._claimed:
            records = list(self._claimed)
            self._claimed.clear()
            with self._reading():
                try:
                    loaded = await self._store.load([record.key for record in records])
                    for stored in loaded:
                        await self._take_over(records[0], stored)
                        del records[0]
                except (StoreUnavailableError, asyncio.CancelledError):
                    self._claimed.extendleft(reversed(records))
                    raise

    async def _take_over(self, record: RunRecord, stored: Stored) -> None:
        """Fold the journal of a claimed run and drive it; what cannot be read blocks this run only."""
        try:
            bound = await self.definitions.bound_to(record)
            if bound is None:
                await self._store.release([(record.key, record.epoch)])
                return
            run = await folded(self._store, record, stored)
            bound.refuse_foreign(run)
            inbox = Inbox(record.id, stored.inbox, sent=record.messages_sent)
        except (HoldfastError, LookupError, ValueError) as error:
            if isinstance(error, StoreUnavailableError):
                raise
            LOGGER.error("run %r is blocked: %s", record.id, error)  # noqa: TRY400 - the data's fault, not the code's
            await self._group.commit(given_up(record, stored.inbox))
            return
        if (record.id, record.epoch) not in self._departed:
            self._adopt(record, run, bound, inbox)
