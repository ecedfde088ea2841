"""The store's clock: only it says what is due, and its stamps never fall."""

from holdfast.stores.records import Applied
from holdfast.testing.clock import BEGIN_MS, VirtualClock
from holdfast.testing.contract.place import (
    DAY_MS,
    Place,
    append,
    applied,
    claim,
    insert_held,
    new_run,
    parked,
)
from holdfast.testing.contract.tests import Tests


class Times(Tests):
    """The store's clock."""

    async def test_the_store_clock_moves_with_time(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            assert store.now_ms() == BEGIN_MS
            clock.advance(1_500)
            assert store.now_ms() == BEGIN_MS + 1_500

    async def test_setting_the_wall_clock_changes_nothing(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, parked(key, due_in_ms=1_000))
            for by_ms in (DAY_MS, -3 * DAY_MS):
                clock.set_wall(by_ms)
                assert store.now_ms() == BEGIN_MS
                assert await claim(store) == []
            clock.advance(1_000)
            assert await claim(store) == ["a"]

    async def test_the_stamp_never_falls(self, place: Place, clock: VirtualClock) -> None:
        stamps: list[int] = []
        async with place.opened() as store:
            key = await insert_held(store, "a")
            for n in range(20):
                clock.advance(n % 3 * 400)
                clock.set_wall(-1_000)
                stamps.append((await applied(store, append(key, position=1 + n))).at_ms)
        clock.set_wall(-DAY_MS)
        async with place.opened() as store:
            stamps.append((await applied(store, new_run("b"))).at_ms)
            rows = await store.read_journal(key)
        assert stamps == sorted(stamps)
        assert [row.at_ms for row in rows[1:]] == stamps[:-1]

    async def test_the_stamp_never_falls_after_a_group_with_a_refused_member(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            clock.advance(DAY_MS)
            before, _ = await store.commit([new_run("a"), new_run("lone \ud800 surrogate")])
            assert isinstance(before, Applied)
        clock.set_wall(-DAY_MS // 2)
        async with place.opened() as store:
            assert (await applied(store, new_run("b"))).at_ms >= before.at_ms
