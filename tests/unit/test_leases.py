"""A worker's lease as its own process sees it: when it renews, when it stops by itself (invariants 10, 40)."""

import asyncio
from collections.abc import Callable

import pytest

from holdfast.errors import StoreUnavailableError, UsageError
from holdfast.ports import Timer
from holdfast.runtime.leases import AGAIN_MS, NEVER_AGAIN_MS, Identity, Lease
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import LeaseTimes, charged

TIMES = LeaseTimes()


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = 1_000.0

    def monotonic_ms(self) -> float:
        return self.now_ms

    def wall_ms(self) -> int:
        return int(self.now_ms)

    def call_later(self, delay_ms: float, fn: Callable[[], object]) -> Timer:
        raise AssertionError(f"leases need no timers: {delay_ms}, {fn}")


class Renewals:
    """Answers as told, after `takes_ms`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.is_alive = True
        self.is_down = False
        self.takes_ms = 0
        self.asked: list[str] = []

    def renew(self, worker: str) -> bool:
        self.asked.append(worker)
        self._clock.now_ms += self.takes_ms
        if self.is_down:
            raise StoreUnavailableError(store="test", reason="it is down")
        return self.is_alive

    def close(self) -> None:
        pass


class Heart:
    """Beats when the test says so."""

    def __init__(self) -> None:
        self.beat: Callable[[float], float] | None = None
        self.stops = 0

    def start(self, beat: Callable[[float], float]) -> None:
        self.beat = beat

    def stop(self) -> None:
        self.beat = None
        self.stops += 1


class Ids:
    def __init__(self) -> None:
        self.given = 0

    def run_id(self) -> str:
        raise AssertionError

    def worker_id(self) -> str:
        self.given += 1
        return f"worker-{self.given}"


def made() -> tuple[Lease, Clock, Renewals]:
    clock = Clock()
    renewals = Renewals(clock)
    return Lease("me", TIMES, renewals, clock, sent_ms=clock.now_ms), clock, renewals


def test_a_lease_lapses_at_the_self_stop_after_its_registration_was_sent() -> None:
    lease, clock, _ = made()
    clock.now_ms += TIMES.self_stop_ms - 1
    assert not lease.has_lapsed()
    assert lease.left_ms == 1
    clock.now_ms += 1
    assert lease.has_lapsed()


def test_a_renewal_counts_from_when_it_was_sent() -> None:
    lease, clock, renewals = made()
    clock.now_ms += 10_000
    lease.tick()
    renewals.takes_ms = 1_500
    assert lease.beat(clock.now_ms) == TIMES.heartbeat_ms
    assert lease.left_ms == TIMES.self_stop_ms - 1_500


def test_a_renewal_that_fails_prolongs_nothing_and_is_tried_again_within_a_second() -> None:
    lease, clock, renewals = made()
    renewals.is_down = True
    assert lease.beat(clock.now_ms) == AGAIN_MS
    assert lease.left_ms == TIMES.self_stop_ms


def test_an_identity_that_the_store_calls_dead_has_lapsed_at_once_and_for_ever() -> None:
    lease, clock, renewals = made()
    renewals.is_alive = False
    assert lease.beat(clock.now_ms) == NEVER_AGAIN_MS
    assert lease.has_lapsed()
    renewals.is_alive = True
    assert lease.beat(clock.now_ms) == NEVER_AGAIN_MS
    assert lease.has_lapsed()


def test_an_answer_that_comes_after_the_lapse_revives_nothing() -> None:
    lease, clock, renewals = made()
    clock.now_ms += TIMES.self_stop_ms - 1
    lease.tick()
    renewals.takes_ms = 2
    lease.beat(clock.now_ms)
    assert lease.has_lapsed()


def test_a_loop_that_does_not_tick_is_not_kept_alive() -> None:
    lease, clock, renewals = made()
    clock.now_ms += 10_000
    lease.beat(clock.now_ms)
    assert len(renewals.asked) == 1
    clock.now_ms += 8_000
    assert lease.beat(clock.now_ms) == TIMES.heartbeat_ms
    assert len(renewals.asked) == 1
    assert lease.is_stuck


def test_a_lapsed_lease_is_not_renewed() -> None:
    lease, clock, renewals = made()
    clock.now_ms += TIMES.self_stop_ms
    assert lease.beat(clock.now_ms) == NEVER_AGAIN_MS
    assert renewals.asked == []


async def test_an_identity_is_new_with_every_take() -> None:
    clock, heart = Clock(), Heart()
    store = MemoryStore(clock, lease=TIMES)
    identity = Identity(store, Ids(), clock, heart)
    await identity.take()
    first = identity.worker
    clock.now_ms += TIMES.self_stop_ms
    assert identity.has_lapsed()
    await identity.take()
    assert identity.worker != first
    assert not identity.has_lapsed()
    assert heart.beat is not None


async def test_keeping_a_lease_tells_of_its_lapse_and_goes_on_with_the_next_one() -> None:
    clock, heart = Clock(), Heart()
    identity = Identity(MemoryStore(clock, lease=TIMES), Ids(), clock, heart)
    await identity.take()
    clock.now_ms += TIMES.self_stop_ms
    lapsed: list[str] = []
    anew = asyncio.Event()

    async def lapse(lease: Lease) -> None:
        lapsed.append(lease.worker)
        await identity.take()
        anew.set()

    async with asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(identity.keep(lapse))
        await anew.wait()
        keeping.cancel()
    assert lapsed == ["worker-2"]
    assert not identity.has_lapsed()


async def test_where_there_are_no_leases_nothing_lapses_and_no_heart_beats() -> None:
    clock, heart = Clock(), Heart()
    identity = Identity(MemoryStore(clock), Ids(), clock, heart)
    await identity.take()
    await identity.keep(lambda _: asyncio.sleep(0))
    clock.now_ms += 10**9
    assert not identity.has_lapsed()
    assert heart.beat is None


@pytest.mark.parametrize(
    "times",
    [
        {"self_stop_ms": 18_001},
        {"heartbeat_ms": 10_001},
        {"renewal_ms": 2_001},
        {"lease_ms": 29_999},
        {"heartbeat_ms": 0},
        {"renewal_ms": -1},
    ],
)
def test_times_that_cannot_be_safe_are_refused(times: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="is not safe"):
        LeaseTimes(**times)


@pytest.mark.parametrize("lease_ms", [100, 2_000, 7_777, 30_000, 600_000])
def test_the_times_for_any_lease_are_safe(lease_ms: int) -> None:
    times = LeaseTimes.of(lease_ms)
    assert times.self_stop_ms + times.heartbeat_ms + times.renewal_ms <= times.lease_ms == lease_ms


@pytest.mark.parametrize(
    ("before", "beside_suspect", "after"),
    [(0, False, 1), (1, False, 2), (0, True, 0), (1, True, 1), (2, True, 3), (4, True, 5), (2, False, 3)],
)
def test_a_death_is_charged_to_the_suspect_or_else_to_all(
    before: int, beside_suspect: bool, after: int
) -> None:
    assert charged(before, beside_suspect=beside_suspect) == after
