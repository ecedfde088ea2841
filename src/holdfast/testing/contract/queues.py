"""Queues: a claim holds the due runs of those it names, and knows nothing of the others."""

from holdfast.stores.records import DEFAULT_QUEUE, SUSPECT_AT
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    ME,
    MINUTE_MS,
    OTHER,
    Place,
    applied,
    claim,
    find,
    insert,
    insert_held,
    next_due_at_ms,
    parked,
)
from holdfast.testing.contract.recovery import let_die, named
from holdfast.testing.contract.tests import Tests

BOTH = (DEFAULT_QUEUE, "bulk")


class Queues(Tests):
    """Claims by queue."""

    async def test_a_run_of_another_queue_is_claimed_only_by_a_worker_that_serves_it(
        self, place: Place
    ) -> None:
        async with place.opened() as store:
            await insert(store, "a", queue="bulk")
            await insert(store, "b")
            assert await claim(store) == ["b"]
            assert await claim(store) == []
            assert await claim(store, queues=["Bulk", "bul", "bulk "]) == []
            assert await claim(store, worker=OTHER, queues=["bulk"]) == ["a"]
            row = await find(store, "a")
            assert (row.worker, row.epoch, row.queue) == (OTHER, 1, "bulk")

    async def test_a_run_that_names_no_queue_is_in_the_default_one(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "a")
            assert (await find(store, "a")).queue == DEFAULT_QUEUE
            assert await claim(store, queues=["bulk"]) == []
            claimed = await store.claim(ME, workflows=["order"], limit=10)
            assert [run.id for run in claimed.runs] == ["a"]

    async def test_runs_of_several_queues_are_claimed_by_due_time_up_to_the_limit(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            for n, queue in enumerate(("other", "bulk", "default", "mail", "default", "other", "bulk")):
                await insert(store, f"{queue}-{n}", queue=queue)
                clock.advance(1)
            queues = ["mail", "default", "bulk"]
            assert await claim(store, queues=queues, limit=3) == ["bulk-1", "default-2", "mail-3"]
            assert await claim(store, queues=queues, limit=3) == ["default-4", "bulk-6"]
            assert await claim(store, queues=queues, limit=3) == []
            assert await claim(store, queues=["other"]) == ["other-0", "other-5"]

    async def test_a_step_of_priority_counts_the_same_across_queues(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            await insert(store, "second", priority=2)  # ranks like minute 0 + 5
            clock.advance(4 * MINUTE_MS)
            await insert(store, "first", priority=1, queue="bulk")  # 4 + 0
            clock.advance(2 * MINUTE_MS)
            await insert(store, "third", priority=1, queue="bulk")  # 6 + 0
            assert await claim(store, queues=BOTH) == ["first", "second", "third"]

    async def test_every_named_workflow_is_claimed_from_every_named_queue(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            for queue in ("default", "bulk", "mail"):
                for workflow in ("order", "invoice", "parcel"):
                    await insert(store, f"{queue}-{workflow}", queue=queue, workflow=workflow)
                    clock.advance(1)
            assert await claim(store, "order", "invoice", queues=BOTH) == [
                "default-order",
                "default-invoice",
                "bulk-order",
                "bulk-invoice",
            ]

    async def test_a_queue_or_workflow_that_is_named_twice_counts_once(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            for n in range(4):
                await insert(store, f"run-{n}", queue="bulk")
                clock.advance(1)
            claimed = [await claim(store, "order", "order", queues=["bulk", "bulk"], limit=2) for _ in range(3)]
            assert claimed == [["run-0", "run-1"], ["run-2", "run-3"], []]

    async def test_a_claim_of_no_queue_gives_nothing(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "a")
            await applied(store, parked(await insert_held(store, "later"), due_in_ms=1_000))
            assert await next_due_at_ms(store, queues=[]) is None
            assert await claim(store) == ["a"]

    async def test_an_unknown_queue_is_an_empty_one(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "a")
            await applied(store, parked(await insert_held(store, "later"), due_in_ms=1_000))
            assert await next_due_at_ms(store, queues=["unknown"]) is None
            assert await claim(store, queues=["unknown", DEFAULT_QUEUE]) == ["a"]

    async def test_the_next_due_time_is_that_of_the_named_queues(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            begin_ms = store.now_ms()
            for queue, due_in_ms in (("bulk", 1_000), ("mail", 2_000), ("other", 500)):
                await applied(store, parked(await insert_held(store, queue, queue=queue), due_in_ms=due_in_ms))
            assert await next_due_at_ms(store) is None
            assert await next_due_at_ms(store, queues=["mail"]) == begin_ms + 2_000
            assert await next_due_at_ms(store, queues=["mail", "bulk", "default"]) == begin_ms + 1_000
            clock.advance(1_000)
            assert await next_due_at_ms(store, queues=["mail"]) == begin_ms + 2_000
            assert await claim(store, queues=["mail", "bulk"]) == ["bulk"]

    async def test_a_suspect_of_another_queue_does_not_count(self, place: Place, clock: VirtualClock) -> None:
        await two_suspects(place, clock)
        async with place.opened() as store:
            worker = await named(store, "next")
            assert await claim(store, worker=worker) == ["b"]
            assert await claim(store, worker=worker) == []
            assert await claim(store, worker=worker, queues=["bulk"]) == ["a"]

    async def test_one_suspect_at_most_is_claimed_from_all_queues_together(
        self, place: Place, clock: VirtualClock
    ) -> None:
        await two_suspects(place, clock)
        async with place.opened() as store:
            worker = await named(store, "next")
            assert await claim(store, worker=worker, queues=BOTH, suspects=0) == []
            (first,) = await claim(store, worker=worker, queues=BOTH)
            (second,) = await claim(store, worker=worker, queues=BOTH)
            assert {first, second} == {"a", "b"}

    async def test_a_run_that_is_named_is_held_whatever_its_queue(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "a", queue="bulk")
            held = await store.claim_one(ME, "a")
            assert held is not None
            assert (held.worker, held.queue, held.epoch) == (ME, "bulk", 1)
            assert await claim(store, queues=["bulk"]) == []


async def two_suspects(place: Place, clock: VirtualClock) -> None:
    """One of queue `bulk`, and a later one of the default queue."""
    async with place.opened() as store:
        await insert(store, "a", queue="bulk")
        await insert(store, "b")
    await let_die(place, "a", times=SUSPECT_AT)
    clock.advance(1)
    await let_die(place, "b", times=SUSPECT_AT)
