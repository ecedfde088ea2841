"""Leases of workers: begun, renewed, lost, reaped and ended. By the store's clock, which the tests move."""

import asyncio

import pytest

from holdfast.errors import LeaseLostError
from holdfast.stores.base import Store
from holdfast.stores.records import QUARANTINE_AT, SUSPECT_AT, Fenced
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    ME,
    OTHER,
    Place,
    append,
    applied,
    claim,
    commit_one,
    entries_of,
    find,
    insert,
    insert_held,
    message,
    new_run,
    parked,
)
from holdfast.testing.contract.recovery import let_die, named, recoveries
from holdfast.testing.contract.tests import Tests

NOBODY = "worker-nobody"


def lease_ms(store: Store) -> int:
    """How long a lease of this store lives."""
    assert store.lease is not None
    return store.lease.lease_ms


async def renew(store: Store, worker: str) -> bool:
    """Renew as a worker's heart does: from another thread."""
    renewals = store.renewals()

    def once() -> bool:
        try:
            return renewals.renew(worker)
        finally:
            renewals.close()

    return await asyncio.to_thread(once)


async def outlive(store: Store, clock: VirtualClock, *survivors: str) -> None:
    """Let every lease expire but those of the survivors."""
    for pause_ms in (0, lease_ms(store) - 1, lease_ms(store) - 1):
        clock.advance(pause_ms)
        for worker in survivors:
            assert await renew(store, worker)


async def is_alive(store: Store, worker: str) -> bool:
    """Whether the worker may claim."""
    try:
        await store.claim(worker, workflows=["none"], limit=1)
    except LeaseLostError:
        return False
    return True


class Leases(Tests):
    """Leases of workers."""

    async def test_a_store_with_leases_says_how_often_to_look_at_it(self, place: Place) -> None:
        async with place.opened() as store:
            assert store.lease is not None
            assert store.may_drive
            assert store.poll_ms is not None
            first, last = store.poll_ms
            assert 0 < first <= last

    async def test_a_lease_lives_for_its_time(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            worker = await named(store, "w")
            clock.advance(lease_ms(store) - 1)
            assert await is_alive(store, worker)
            clock.advance(1)
            assert not await is_alive(store, worker)

    async def test_a_renewal_prolongs_a_lease_from_now(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            worker = await named(store, "w")
            for _ in range(3):
                clock.advance(lease_ms(store) - 1)
                assert await renew(store, worker)
            clock.advance(lease_ms(store) - 1)
            assert await is_alive(store, worker)
            clock.advance(1)
            assert not await is_alive(store, worker)

    async def test_one_renewals_renews_again_and_again_for_any_worker(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            renewals = store.renewals()

            def renew_both() -> list[bool]:
                renewed: list[bool] = []
                for _ in range(3):
                    clock.advance(lease_ms(store) - 1)
                    renewed += [renewals.renew(ME), renewals.renew(OTHER), renewals.renew(NOBODY)]
                renewals.close()
                renewals.close()
                return renewed

            assert await asyncio.to_thread(renew_both) == [True, True, False] * 3

    async def test_a_renewal_after_the_end_of_a_lease_revives_nothing(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            clock.advance(lease_ms(store))
            assert not await renew(store, ME)
            assert not await is_alive(store, ME)
            await store.reap()
            assert not await renew(store, ME)
            assert not await is_alive(store, ME)

    async def test_a_renewal_of_an_unknown_worker_makes_none(self, place: Place) -> None:
        async with place.opened() as store:
            assert not await renew(store, NOBODY)
            assert not await is_alive(store, NOBODY)

    async def test_registering_twice_is_registering_once(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            clock.advance(lease_ms(store) - 1)
            await store.register(ME)
            assert await is_alive(store, ME)
            assert [run.key for run in await store.held(ME)] == [key]
            clock.advance(lease_ms(store))
            assert not await is_alive(store, ME)

    @pytest.mark.parametrize("worker", [NOBODY, ME])
    async def test_without_a_lease_nothing_is_held(
        self, place: Place, clock: VirtualClock, worker: str
    ) -> None:
        async with place.opened() as store:
            await insert(store, "a")
            before = await find(store, "a")
            clock.advance(lease_ms(store))
            with pytest.raises(LeaseLostError) as lost:
                await store.claim(worker, workflows=["order"], limit=10)
            assert lost.value.worker == worker
            with pytest.raises(LeaseLostError) as lost:
                await store.claim_one(worker, "a")
            assert lost.value.worker == worker
            assert await find(store, "a") == before
            assert await store.held(worker) == []

    async def test_a_worker_without_a_lease_hears_of_it_also_where_nothing_is_due(self, place: Place) -> None:
        async with place.opened() as store:
            with pytest.raises(LeaseLostError):
                await store.claim(NOBODY, workflows=["order"], limit=10)
            with pytest.raises(LeaseLostError):
                await store.claim_one(NOBODY, "unknown")

    @pytest.mark.parametrize("worker", [NOBODY, ME])
    async def test_a_new_run_for_a_worker_without_a_lease_is_left_to_others(
        self, place: Place, clock: VirtualClock, worker: str
    ) -> None:
        async with place.opened() as store:
            clock.advance(lease_ms(store))
            mine, free = await store.commit([new_run("mine", worker=worker), new_run("free")])
            assert getattr(mine, "is_held", None) is False
            assert getattr(free, "is_held", None) is True
            row = await find(store, "mine")
            assert (row.status, row.worker, row.epoch, row.due_at_ms) == ("pending", None, 0, store.now_ms())
            assert sorted(await claim(store, worker=await named(store, "next"))) == ["free", "mine"]

    async def test_a_new_run_for_a_living_worker_is_held_by_it(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            clock.advance(lease_ms(store) - 1)
            assert (await applied(store, new_run("a", worker=ME))).is_held
            assert (await find(store, "a")).worker == ME


class Reaping(Tests):
    """Freeing the runs of workers whose lease has expired."""

    async def test_the_runs_of_the_dead_are_freed_and_no_others(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            keys = [await insert_held(store, run_id) for run_id in ("a", "b")]
            await applied(store, append(keys[1], status="suspended"))
            await insert(store, "others", worker=OTHER)
            await insert(store, "pending")
            await applied(store, parked(await insert_held(store, "parked"), due_in_ms=5))
            await applied(store, parked(await insert_held(store, "over"), status="completed"))
            unharmed = ("others", "pending", "parked", "over")
            before = [await find(store, run_id) for run_id in unharmed]
            await outlive(store, clock, OTHER)
            assert await store.reap() == 2
            for run_id, status in (("a", "running"), ("b", "suspended")):
                row = await find(store, run_id)
                assert (row.worker, row.status, row.epoch, row.recoveries) == (None, status, 1, 1)
                assert row.due_at_ms is not None
                assert row.due_at_ms <= store.now_ms()
            assert [await find(store, run_id) for run_id in unharmed] == before
            assert [run.id for run in await store.held(OTHER)] == ["others"]
            assert await store.held(ME) == []

    async def test_as_long_as_everyone_lives_nothing_is_freed(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            await insert_held(store, "a")
            before = await find(store, "a")
            clock.advance(lease_ms(store) - 1)
            assert await store.reap() == 0
            assert await find(store, "a") == before

    async def test_nothing_is_freed_twice(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            await insert_held(store, "a")
            clock.advance(lease_ms(store))
            assert await store.reap() == 1
            freed = await find(store, "a")
            clock.advance(lease_ms(store))
            assert await store.reap() == 0
            assert await find(store, "a") == freed

    async def test_a_claim_counts_the_workers_that_have_expired(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async def expired(store: Store) -> int:
            return (await store.claim(OTHER, workflows=["order"], limit=1)).expired

        async with place.opened() as store:
            await named(store, "third")
            await named(store, "retires")
            await store.retire("retires")
            assert await expired(store) == 0
            await outlive(store, clock, OTHER)
            assert await expired(store) == 2
            await store.reap()
            assert await expired(store) == 0

    async def test_a_suspect_of_one_worker_spares_no_run_of_another(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "suspect")
        await let_die(place, "suspect", times=SUSPECT_AT)
        async with place.opened() as store:
            assert await claim(store, worker=await named(store, "one")) == ["suspect"]
            await insert(store, "beside", worker="one")
            await insert(store, "apart", worker=await named(store, "two"))
        async with place.after_crash() as store:
            assert await recoveries(store, "suspect", "beside", "apart") == [SUSPECT_AT + 1, 0, 1]

    async def test_a_reaped_worker_can_write_nothing_any_more(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await outlive(store, clock, OTHER)
            await store.reap()
            for late in (append(key), parked(key, due_in_ms=1_000), parked(key, entries=())):
                assert await commit_one(store, late) == Fenced()
            row = await find(store, "a")
            assert (row.worker, row.due_at_ms, row.position) == (None, store.now_ms(), 1)
            assert await claim(store, worker=OTHER) == ["a"]
            assert await commit_one(store, append(key)) == Fenced()
            await applied(store, append(key, epoch=2, worker=OTHER))
            assert await entries_of(store, key) == [b"started", b"next"]

    async def test_a_late_append_does_not_wake_a_run_that_was_set_aside(
        self, place: Place, clock: VirtualClock
    ) -> None:
        """What kills its workers stays blocked, whatever the last of them still had to say."""
        async with place.opened() as store:
            key = await insert_held(store, "a")
            for epoch in range(1, QUARANTINE_AT + 1):
                holder = ME if epoch == 1 else f"dies-{epoch}"
                if epoch > 1:
                    assert await claim(store, worker=await named(store, holder)) == ["a"]
                await outlive(store, clock, await named(store, f"lives-{epoch}"))
                await store.reap()
            assert await commit_one(store, append(key, epoch=QUARANTINE_AT)) == Fenced()
            row = await find(store, "a")
            assert (row.status, row.due_at_ms, row.recoveries) == ("blocked", None, QUARANTINE_AT)

    async def test_a_run_whose_worker_has_expired_is_held_until_someone_reaps(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await outlive(store, clock, OTHER)
            await applied(store, message(key))
            assert (await find(store, "a")).worker == ME
            assert await claim(store, worker=OTHER) == []
            assert await store.claim_one(OTHER, "a") is None
            await applied(store, append(key))
            await store.reap()
            assert await claim(store, worker=OTHER) == ["a"]
            assert [row.id for row in await store.read_inbox(key)] == ["m-1"]

    async def test_a_worker_that_retires_gives_everything_back_and_ends_its_lease(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            await insert_held(store, "a")
            clock.advance(1_000)
            await store.retire(ME)
            row = await find(store, "a")
            assert (row.worker, row.due_at_ms, row.epoch, row.recoveries) == (None, store.now_ms(), 1, 0)
            assert not await renew(store, ME)
            assert not await is_alive(store, ME)
            assert not (await applied(store, new_run("b", worker=ME))).is_held
            assert await claim(store, worker=OTHER) == ["a", "b"]
            await outlive(store, clock, OTHER)
            assert await store.reap() == 0
            assert [run.id for run in await store.held(OTHER)] == ["a", "b"]

    async def test_retiring_twice_is_retiring_once(self, place: Place) -> None:
        async with place.opened() as store:
            await insert_held(store, "a")
            await store.retire(ME)
            assert await claim(store, worker=OTHER) == ["a"]
            await store.retire(ME)
            await store.retire(NOBODY)
            assert (await find(store, "a")).worker == OTHER

    async def test_epochs_never_fall_and_are_never_used_again(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            epochs = [1]
            for n in range(4):
                worker = await named(store, f"life-{n}")
                held = await store.claim_one(worker, "a")
                if held is None:
                    clock.advance(lease_ms(store))
                    await store.reap()
                    held = await store.claim_one(await named(store, f"life-{n}-again"), "a")
                assert held is not None
                epochs.append(held.epoch)
                if n % 2:
                    await store.release([(key, held.epoch)])
            assert epochs == sorted(set(epochs))
