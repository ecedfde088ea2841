"""What becomes of the runs of the dead: freed, charged, suspected, and at last blocked."""

from holdfast.stores.base import Store
from holdfast.stores.records import QUARANTINE_AT, SUSPECT_AT, Applied, Fenced
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    Place,
    append,
    claim,
    commit_one,
    entries_of,
    find,
    insert,
    insert_held,
    message,
    parked,
)
from holdfast.testing.contract.tests import Tests


async def named(store: Store, worker: str) -> str:
    """A worker that lives."""
    await store.register(worker)
    return worker


async def let_die(place: Place, *run_ids: str, times: int = 1) -> None:
    """Let workers die one after the other, each of which holds these runs and no other."""
    for _ in range(times):
        async with place.opened() as store:
            epoch = (await find(store, run_ids[0])).epoch
            worker = await named(store, f"dies-with-{run_ids[0]}-{epoch}")
            for run_id in run_ids:
                assert await store.claim_one(worker, run_id) is not None
        async with place.after_crash():
            pass


async def recoveries(store: Store, *run_ids: str) -> list[int]:
    """How often each run was charged."""
    return [(await find(store, run_id)).recoveries for run_id in run_ids]


class Recovery(Tests):
    """Runs of workers that have died."""

    async def test_a_run_held_by_the_dead_is_due_now_and_charged(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
        clock.advance(1_000)
        async with place.after_crash() as store:
            row = await find(store, "a")
            assert (row.worker, row.recoveries, row.epoch, row.status) == (None, 1, 1, "running")
            assert row.due_at_ms is not None
            assert row.due_at_ms <= store.now_ms()
            assert await claim(store, worker=await named(store, "next")) == ["a"]
            assert await commit_one(store, append(key, epoch=1)) == Fenced()
            assert isinstance(await commit_one(store, append(key, epoch=2, worker="next")), Applied)
            assert await entries_of(store, key) == [b"started", b"next"]

    async def test_a_run_that_was_parked_before_its_worker_died_is_left_alone(self, place: Place) -> None:
        async with place.opened() as store:
            await commit_one(store, parked(await insert_held(store, "a"), due_in_ms=1_000_000_000))
            before = await find(store, "a")
        async with place.after_crash() as store:
            assert await find(store, "a") == before

    async def test_a_run_that_never_becomes_due_by_itself_is_due_when_its_worker_has_died(
        self, place: Place
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await commit_one(store, parked(key))
            assert await store.claim_one(await named(store, "dies"), "a") is not None
        async with place.after_crash() as store:
            assert await claim(store, worker=await named(store, "next")) == ["a"]

    async def test_recoveries_add_up(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "a")
        for count in range(1, QUARANTINE_AT):
            await let_die(place, "a")
            async with place.opened() as store:
                row = await find(store, "a")
                assert (row.recoveries, row.epoch, row.status) == (count, count, "running")
                assert row.due_at_ms is not None

    async def test_a_run_that_was_recovered_too_often_is_blocked_and_not_due(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
        await let_die(place, "a", times=QUARANTINE_AT)
        async with place.opened() as store:
            row = await find(store, "a")
            assert (row.status, row.worker, row.due_at_ms) == ("blocked", None, None)
            assert (row.recoveries, row.epoch) == (QUARANTINE_AT, QUARANTINE_AT)
            assert await entries_of(store, key) == [b"started"]
            assert await claim(store, worker=await named(store, "next")) == []
            await commit_one(store, message(key))
            assert (await find(store, "a")).due_at_ms is None

    async def test_without_a_suspect_all_runs_of_the_dead_are_charged(self, place: Place) -> None:
        async with place.opened() as store:
            await insert_held(store, "a")
            await insert_held(store, "b")
        async with place.after_crash() as store:
            assert await recoveries(store, "a", "b") == [1, 1]

    async def test_runs_beside_a_suspect_are_not_charged(self, place: Place) -> None:
        async with place.opened() as store:
            for run_id in ("suspect", "once", "fresh"):
                await insert(store, run_id)
        await let_die(place, "suspect", times=SUSPECT_AT)
        await let_die(place, "once")
        await let_die(place, "suspect", "once", "fresh")
        async with place.opened() as store:
            assert await recoveries(store, "suspect", "once", "fresh") == [SUSPECT_AT + 1, 1, 0]
            rows = [await find(store, run_id) for run_id in ("suspect", "once", "fresh")]
            assert [row.worker for row in rows] == [None, None, None]
            worker = await named(store, "next")
            assert sorted(await claim(store, worker=worker)) == ["fresh", "once", "suspect"]

    async def test_all_suspects_of_the_dead_are_charged(self, place: Place) -> None:
        async with place.opened() as store:
            for run_id in ("a", "b", "fresh"):
                await insert(store, run_id)
        await let_die(place, "a", "b", times=SUSPECT_AT)
        await let_die(place, "a", "b", "fresh")
        async with place.opened() as store:
            assert await recoveries(store, "a", "b", "fresh") == [SUSPECT_AT + 1, SUSPECT_AT + 1, 0]

    async def test_a_worker_may_ask_for_no_suspect(self, place: Place) -> None:
        async with place.opened() as store:
            for run_id in ("suspect", "once", "fresh"):
                await insert(store, run_id)
        await let_die(place, "suspect", times=SUSPECT_AT)
        await let_die(place, "once", times=SUSPECT_AT - 1)
        async with place.opened() as store:
            worker = await named(store, "next")
            assert sorted(await claim(store, worker=worker, suspects=0)) == ["fresh", "once"]
            assert await claim(store, worker=worker, suspects=0) == []
            assert await claim(store, worker=worker, suspects=1) == ["suspect"]

    async def test_a_suspect_that_is_passed_over_uses_up_nothing_of_the_limit(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "suspect")
        await let_die(place, "suspect", times=SUSPECT_AT)
        async with place.opened() as store:
            await insert(store, "later", priority=5)
            assert await claim(store, worker=await named(store, "next"), suspects=0, limit=1) == ["later"]

    async def test_a_claim_holds_one_suspect_at_most(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            await insert(store, "a")
            await insert(store, "b")
        await let_die(place, "a", times=SUSPECT_AT)
        clock.advance(1)
        await let_die(place, "b", times=SUSPECT_AT)
        async with place.opened() as store:
            clock.advance(1)
            await insert(store, "fresh")
            worker = await named(store, "next")
            first = await claim(store, worker=worker)
            assert sorted(first) in (["a", "fresh"], ["b", "fresh"])
            (second,) = await claim(store, worker=worker)
            assert {*first, second} == {"a", "b", "fresh"}

    async def test_a_completed_step_takes_the_recoveries_back(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
        await let_die(place, "a", times=SUSPECT_AT)
        async with place.opened() as store:
            worker = await named(store, "next")
            assert await claim(store, worker=worker) == ["a"]
            epoch = SUSPECT_AT + 1
            await commit_one(store, append(key, epoch=epoch, worker=worker))
            assert await recoveries(store, "a") == [SUSPECT_AT]
            await commit_one(store, append(key, epoch=epoch, position=2, worker=worker, completes=True))
            assert await recoveries(store, "a") == [0]

    async def test_giving_a_run_back_neither_charges_nor_clears_it(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
        await let_die(place, "a")
        async with place.opened() as store:
            worker = await named(store, "next")
            for epoch in (2, 3):
                assert await claim(store, worker=worker) == ["a"]
                await store.release([(key, epoch)])
            assert await claim(store, worker=worker) == ["a"]
            await commit_one(store, parked(key, epoch=4, due_in_ms=0))
            assert await claim(store, worker=worker) == ["a"]
            await store.retire(worker)
            assert await recoveries(store, "a") == [1]
