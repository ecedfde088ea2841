"""The virtual clock: it stands still, and what is due when it moves is called at its own time."""

import asyncio
from datetime import UTC, datetime

import pytest

from holdfast.errors import UsageError
from holdfast.testing import VirtualClock


def test_time_stands_still_until_it_is_moved() -> None:
    clock = VirtualClock()
    before = clock.monotonic_ms(), clock.wall_ms()
    assert (clock.monotonic_ms(), clock.wall_ms()) == before
    clock.advance(1_500)
    assert (clock.monotonic_ms(), clock.wall_ms()) == (before[0] + 1_500, before[1] + 1_500)


def test_timers_fire_in_order_each_at_its_own_time() -> None:
    clock = VirtualClock()
    begin_ms = clock.monotonic_ms()
    fired: list[tuple[str, float]] = []

    def fire(name: str) -> None:
        fired.append((name, clock.monotonic_ms() - begin_ms))

    clock.call_later(200, lambda: fire("second"))
    clock.call_later(100, lambda: clock.call_later(50, lambda: fire("first")))
    clock.call_later(200, lambda: fire("third"))
    clock.call_later(501, lambda: fire("too late"))
    cancelled = clock.call_later(120, lambda: fire("cancelled"))
    cancelled.cancel()
    clock.advance(500)
    assert fired == [("first", 150), ("second", 200), ("third", 200)]
    assert clock.next_in_ms() == 1


def test_it_begins_when_it_is_told_to() -> None:
    clock = VirtualClock(datetime(2030, 1, 1, 9, tzinfo=UTC))
    clock.advance(86_400_000)
    assert clock.now() == datetime(2030, 1, 2, 9, tzinfo=UTC)
    with pytest.raises(UsageError, match="time zone"):
        VirtualClock(datetime(2030, 1, 1, 9))  # noqa: DTZ001 - the point


def test_setting_the_wall_clock_takes_no_time() -> None:
    clock = VirtualClock()
    fired: list[int] = []
    clock.call_later(1, lambda: fired.append(1))
    clock.set_wall(3_600_000)
    assert not fired
    assert clock.monotonic_ms() == 5_000


async def test_sleep_lasts_as_long_as_it_says_by_this_clock() -> None:
    clock = VirtualClock()
    sleeping = asyncio.create_task(clock.sleep("1h"))
    await asyncio.sleep(0)
    clock.advance(3_599_999)
    await asyncio.sleep(0)
    assert not sleeping.done()
    clock.advance(1)
    await sleeping
    assert clock.next_in_ms() is None


async def test_a_sleep_that_is_cancelled_leaves_no_timer() -> None:
    clock = VirtualClock()
    sleeping = asyncio.create_task(clock.sleep("1h"))
    await asyncio.sleep(0)
    sleeping.cancel()
    await asyncio.wait({sleeping})
    assert clock.next_in_ms() is None
