"""Workers that are known: while their lease lives, with the workflows that they can drive."""

from holdfast.stores.records import WorkerRecord
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.leases import lease_ms, outlive
from holdfast.testing.contract.place import ME, OTHER, Place
from holdfast.testing.contract.tests import Tests

BOTH = [WorkerRecord(ME, ()), WorkerRecord(OTHER, ())]
"""Who is there when a place has been opened."""


class Workers(Tests):
    """What is known of the workers that share a store."""

    async def test_workers_are_told_by_id_with_what_they_can_drive(self, place: Place) -> None:
        async with place.opened() as store:
            assert await store.workers() == BOTH
            await store.register("b", ["order", "invoice", "order"])
            await store.register("a", ["order"])
            driving = [WorkerRecord("a", ("order",)), WorkerRecord("b", ("invoice", "order"))]
            assert await store.workers() == [*driving, *BOTH]

    async def test_who_registers_again_is_told_once(self, place: Place) -> None:
        async with place.opened() as store:
            for _ in range(2):
                await store.register("a", ["order"])
            assert await store.workers() == [WorkerRecord("a", ("order",)), *BOTH]

    async def test_who_has_retired_is_not_told(self, place: Place) -> None:
        async with place.opened() as store:
            await store.register("a", ["order"])
            await store.retire("a")
            await store.retire(ME)
            assert await store.workers() == BOTH[1:]

    async def test_whose_lease_has_expired_is_not_told(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            await store.register("a", ["order"])
            clock.advance(lease_ms(store) - 1)
            assert len(await store.workers()) == 3
            clock.advance(1)
            assert await store.workers() == []

    async def test_who_renews_is_told(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            await outlive(store, clock, OTHER)
            assert await store.workers() == [WorkerRecord(OTHER, ())]

    async def test_who_was_reaped_is_not_told(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            await store.register("a", ["order"])
            await outlive(store, clock, ME)
            await store.reap()
            assert await store.workers() == [WorkerRecord(ME, ())]

    async def test_another_opening_is_told_the_same(self, place: Place) -> None:
        async with place.opened() as one, place.opened() as two:
            await one.register("a", ["order"])
            assert await two.workers() == [WorkerRecord("a", ("order",)), *BOTH]
