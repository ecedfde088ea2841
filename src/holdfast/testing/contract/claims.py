"""Holding runs: what is due, in which order, never twice, and giving them back."""

import asyncio

import pytest

from holdfast.stores.base import Store
from holdfast.stores.records import Over
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    ME,
    MINUTE_MS,
    OTHER,
    Place,
    append,
    applied,
    claim,
    commit_one,
    find,
    insert,
    insert_held,
    message,
    next_due_at_ms,
    parked,
)
from holdfast.testing.contract.tests import Tests


class Claims(Tests):
    """Holding runs and giving them back."""

    async def test_a_claim_holds_a_run_under_the_next_epoch(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            (held,) = (await store.claim(ME, workflows=["order"], limit=10)).runs
            assert held == await find(store, "a")
            assert (held.key, held.worker, held.epoch, held.status, held.position) == (key, ME, 1, "running", 1)
            await store.release([(key, 1)])
            (held,) = (await store.claim(OTHER, workflows=["order"], limit=10)).runs
            assert (held.worker, held.epoch) == (OTHER, 2)

    async def test_a_claim_leaves_the_status_of_a_run_that_has_begun(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, parked(key, due_in_ms=0))
            (held,) = (await store.claim(ME, workflows=["order"], limit=10)).runs
            assert held.status == "suspended"

    async def test_a_run_is_claimed_when_it_is_due_and_not_before(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, parked(key, due_in_ms=MINUTE_MS))
            assert await claim(store) == []
            clock.advance(MINUTE_MS - 1)
            assert await claim(store) == []
            clock.advance(1)
            assert await claim(store) == ["a"]

    async def test_runs_are_claimed_by_due_time(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            for run_id, due_in_ms in (("late", 900), ("soon", 100), ("between", 500)):
                await applied(store, parked(await insert_held(store, run_id), due_in_ms=due_in_ms))
            clock.advance(1_000)
            assert await claim(store) == ["soon", "between", "late"]

    async def test_a_step_of_priority_counts_like_five_minutes(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            await insert(store, "third", priority=3)  # ranks like minute 0 + 10
            clock.advance(3 * MINUTE_MS)
            await insert(store, "first", priority=2)  # 3 + 5
            clock.advance(6 * MINUTE_MS)
            await insert(store, "second", priority=1)  # 9 + 0
            clock.advance(2 * MINUTE_MS)
            await insert(store, "last", priority=1)  # 11 + 0
            assert await claim(store, limit=3) == ["first", "second", "third"]
            assert await claim(store) == ["last"]

    async def test_the_last_priority_is_claimed_too(self, place: Place) -> None:
        async with place.opened() as store:
            for priority in (5, 4, 3, 2, 1):
                await insert(store, f"p{priority}", priority=priority)
            assert await claim(store) == ["p1", "p2", "p3", "p4", "p5"]

    async def test_only_runs_of_the_named_workflows_are_claimed(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "a", workflow="order")
            await insert(store, "b", workflow="invoice")
            await insert(store, "c", workflow="Order")
            assert await claim(store, "invoice", "unknown") == ["b"]
            assert await claim(store, "order") == ["a"]
            claimed = await store.claim(ME, workflows=[], limit=10)
            assert (list(claimed.runs), claimed.next_due_at_ms) == ([], None)

    async def test_a_claim_for_some_workflows_says_nothing_about_others(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "a", workflow="invoice")
            assert await claim(store, "order") == []
            assert await claim(store, "order") == []
            assert await claim(store, "invoice") == ["a"]

    async def test_runs_of_several_workflows_are_claimed_by_due_time(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            for n, workflow in enumerate(("order", "invoice", "order", "invoice")):
                await insert(store, f"run-{n}", workflow=workflow)
                clock.advance(1)
            assert await claim(store, "order", "invoice") == ["run-0", "run-1", "run-2", "run-3"]

    async def test_runs_of_excluded_fingerprints_are_passed_over(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "old", fingerprint="mark-1")
            await insert(store, "new", fingerprint="mark-2")
            assert await claim(store, excluded=("mark-1", "mark-0")) == ["new"]
            assert await claim(store, excluded=("mark-1",)) == []
            assert await claim(store) == ["old"]

    async def test_excluded_runs_use_up_nothing_of_the_limit(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            for n in range(5):
                await insert(store, f"old-{n}", fingerprint="mark-1")
            clock.advance(1)
            await insert(store, "new", fingerprint="mark-2")
            assert await claim(store, limit=1, excluded=("mark-1",)) == ["new"]

    async def test_a_claim_holds_no_more_than_its_limit(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            for n in range(7):
                await insert(store, f"run-{n}")
                clock.advance(1)
            assert await claim(store, limit=3) == ["run-0", "run-1", "run-2"]
            assert await claim(store, limit=3) == ["run-3", "run-4", "run-5"]
            assert await claim(store, limit=3) == ["run-6"]
            assert await claim(store, limit=3) == []

    async def test_no_run_is_claimed_twice_however_many_ask(self, place: Place) -> None:
        async with place.opened() as store:
            for n in range(50):
                await insert(store, f"run-{n}")
            async with asyncio.TaskGroup() as group:
                claims = [
                    group.create_task(claim_epochs(store, (ME, OTHER)[n % 2], limit=20)) for n in range(10)
                ]
            found = [held for each in claims for held in each.result()]
            for _ in range(5):
                found += await claim_epochs(store, ME, limit=20)
            assert sorted(found) == sorted((f"run-{n}", 1) for n in range(50))

    async def test_one_run_is_claimed_due_or_not(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            assert await store.claim_one(ME, "a") is None
            await applied(store, parked(key, due_in_ms=MINUTE_MS))
            held = await store.claim_one(OTHER, "a")
            assert held is not None
            assert held == await find(store, "a")
            assert (held.worker, held.epoch, held.status) == (OTHER, 2, "suspended")
            assert await store.claim_one(ME, "a") is None

    async def test_a_pending_run_that_is_claimed_alone_is_running(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "a")
            held = await store.claim_one(ME, "a")
            assert held is not None
            assert (held.status, held.epoch) == ("running", 1)

    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
    async def test_a_run_that_is_over_is_never_claimed(self, place: Place, status: str) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, parked(key, status=status, messages_read=None))
            assert await commit_one(store, message(key)) == Over(status)
            assert await store.claim_one(ME, "a") is None
            assert await claim(store) == []
            assert (await find(store, "a")).epoch == 1

    @pytest.mark.parametrize("status", ["paused", "blocked", "suspended"])
    async def test_an_unfinished_run_can_be_claimed_by_its_id(self, place: Place, status: str) -> None:
        async with place.opened() as store:
            await applied(store, parked(await insert_held(store, "a"), status=status))
            held = await store.claim_one(ME, "a")
            assert held is not None
            assert held.status == status

    async def test_an_unknown_run_cannot_be_claimed(self, place: Place) -> None:
        async with place.opened() as store:
            assert await store.claim_one(ME, "nobody") is None

    async def test_a_released_run_is_due_now(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, append(key, status="suspended"))
            clock.advance(1_000)
            await store.release([(key, 1)])
            row = await find(store, "a")
            assert (row.worker, row.due_at_ms, row.epoch, row.recoveries) == (None, store.now_ms(), 1, 0)
            assert await claim(store) == ["a"]

    async def test_a_release_under_another_epoch_changes_nothing(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            before = await find(store, "a")
            await store.release([(key, 0), (key, 2)])
            assert await find(store, "a") == before

    async def test_a_release_of_a_run_that_nobody_holds_changes_nothing(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, parked(key, due_in_ms=MINUTE_MS))
            before = await find(store, "a")
            clock.advance(1_000)
            await store.release([(key, 1)])
            assert await find(store, "a") == before

    async def test_runs_that_are_gone_are_passed_over_by_a_release(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await store.release([(4_711, 1), (key, 1)])
            assert (await find(store, "a")).worker is None

    async def test_everything_a_worker_holds_is_given_back_when_it_retires(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "inserted")
            await applied(store, append(key, status="suspended", due_at_ms=0))
            await insert(store, "claimed")
            assert await claim(store) == ["claimed"]
            await insert(store, "other", worker=OTHER)
            await applied(store, parked(await insert_held(store, "parked"), due_in_ms=MINUTE_MS))
            await applied(store, parked(await insert_held(store, "over"), status="completed"))
            untouched = [await find(store, run_id) for run_id in ("other", "parked", "over")]
            clock.advance(1_000)
            await store.retire(ME)
            for run_id, epoch in (("inserted", 1), ("claimed", 1)):
                row = await find(store, run_id)
                assert (row.worker, row.due_at_ms, row.epoch) == (None, store.now_ms(), epoch)
                assert row.recoveries == 0
            assert [await find(store, run_id) for run_id in ("other", "parked", "over")] == untouched
            assert sorted(await claim(store, worker=OTHER)) == ["claimed", "inserted"]

    async def test_a_worker_that_holds_nothing_gives_nothing_back_when_it_retires(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "other", worker=OTHER)
            before = await find(store, "other")
            await store.retire(ME)
            assert await find(store, "other") == before

    async def test_what_a_worker_holds_is_known_by_its_name(self, place: Place) -> None:
        async with place.opened() as store:
            assert await store.held(ME) == []
            await insert_held(store, "inserted")
            await insert(store, "others", worker=OTHER)
            await applied(store, parked(await insert_held(store, "parked")))
            await insert(store, "claimed")
            assert await claim(store) == ["claimed"]
            assert await store.held(ME) == [await find(store, run_id) for run_id in ("inserted", "claimed")]
            assert await store.held(OTHER) == [await find(store, "others")]

    async def test_the_next_due_time_is_known_after_a_claim(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            assert await next_due_at_ms(store) is None
            for run_id, due_in_ms in (("late", 5_000), ("soon", 2_000)):
                await applied(store, parked(await insert_held(store, run_id), due_in_ms=due_in_ms))
            begin_ms = store.now_ms()
            assert await next_due_at_ms(store) == begin_ms + 2_000
            clock.advance(2_000)
            assert await claim(store) == ["soon"]
            assert await next_due_at_ms(store) == begin_ms + 5_000
            clock.advance(3_000)
            assert await claim(store) == ["late"]
            assert await next_due_at_ms(store) is None

    async def test_a_run_that_becomes_due_earlier_changes_the_next_due_time(self, place: Place) -> None:
        async with place.opened() as store:
            late = await insert_held(store, "late")
            await applied(store, parked(late, due_in_ms=5_000))
            soon = await insert_held(store, "soon")
            begin_ms = store.now_ms()
            assert await next_due_at_ms(store) == begin_ms + 5_000
            await applied(store, parked(soon, due_in_ms=2_000))
            assert await next_due_at_ms(store) == begin_ms + 2_000

    async def test_runs_that_are_passed_over_hide_no_due_time(self, place: Place) -> None:
        async with place.opened() as store:
            await applied(store, parked(await insert_held(store, "later"), due_in_ms=5_000))
            await insert(store, "excluded", fingerprint="mark-2")
            await insert(store, "due")
            for found in (["due"], []):
                claimed = await store.claim(ME, workflows=["order"], limit=10, excluded=["mark-2"])
                assert [run.id for run in claimed.runs] == found
                assert claimed.next_due_at_ms == store.now_ms() + 5_000

    async def test_the_next_due_time_is_that_of_unheld_runs_of_the_named_workflows(self, place: Place) -> None:
        async with place.opened() as store:
            await applied(store, parked(await insert_held(store, "a", workflow="invoice"), due_in_ms=1_000))
            await applied(store, append(await insert_held(store, "held"), due_in_ms=1_000))
            assert await next_due_at_ms(store) is None


async def claim_epochs(store: Store, worker: str, *, limit: int) -> list[tuple[str, int]]:
    """Ids and epochs of what a claim holds."""
    claimed = await store.claim(worker, workflows=["order"], limit=limit)
    return [(run.id, run.epoch) for run in claimed.runs]
