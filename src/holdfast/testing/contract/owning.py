"""A store that one process drives alone: no lease is needed, and what is about leases does nothing."""

from holdfast.stores.records import WorkerRecord
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    DAY_MS,
    ME,
    Place,
    append,
    applied,
    claim,
    find,
    insert,
    insert_held,
    new_run,
    parked,
)
from holdfast.testing.contract.tests import Tests


class Owning(Tests):
    """Stores without leases."""

    async def test_there_are_no_leases(self, place: Place) -> None:
        async with place.opened() as store:
            assert store.lease is None
            assert store.may_drive

    async def test_nobody_expires(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            before = await find(store, "a")
            clock.advance(DAY_MS)
            assert await store.reap() == 0
            assert await find(store, "a") == before
            await applied(store, append(key))
            await insert(store, "b")
            claimed = await store.claim(ME, workflows=["order"], limit=10)
            assert ([run.id for run in claimed.runs], claimed.expired) == (["b"], 0)

    async def test_a_worker_needs_no_registration(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "a")
            assert await claim(store, worker="never-registered") == ["a"]
            assert (await applied(store, new_run("b", worker="nor-this"))).is_held
            await store.register("never-registered")
            assert (await find(store, "a")).worker == "never-registered"

    async def test_a_worker_that_has_retired_may_go_on(self, place: Place) -> None:
        async with place.opened() as store:
            await insert_held(store, "a")
            await store.retire(ME)
            assert await claim(store) == ["a"]

    async def test_who_opens_it_next_frees_what_was_held(self, place: Place) -> None:
        async with place.opened() as store:
            await insert_held(store, "held")
            await applied(store, parked(await insert_held(store, "parked"), due_in_ms=DAY_MS))
        async with place.opened() as store:
            assert await store.held(ME) == []
            assert (await find(store, "held")).recoveries == 1
            assert (await find(store, "parked")).recoveries == 0
            assert await claim(store) == ["held"]

    async def test_the_one_worker_is_told_with_what_it_can_drive(self, place: Place) -> None:
        async with place.opened() as store:
            await store.register("first", ["order", "invoice", "order"])
            assert await store.workers() == [WorkerRecord("first", ("invoice", "order"))]
            for _ in range(2):
                await store.register("second", ["invoice"])
            assert await store.workers() == [WorkerRecord("second", ("invoice",))]

    async def test_a_worker_that_has_retired_is_not_told(self, place: Place) -> None:
        async with place.opened() as store:
            await store.register("w", ["order"])
            await store.retire("another")
            assert len(await store.workers()) == 1
            await store.retire("w")
            assert await store.workers() == []

    async def test_who_opens_it_next_is_not_told_of_the_worker_before(self, place: Place) -> None:
        async with place.opened() as store:
            await store.register("w", ["order"])
        async with place.opened() as store:
            assert await store.workers() == []
