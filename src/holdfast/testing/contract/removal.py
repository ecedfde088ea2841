"""Removing runs: one that is over, and what has been over for long; never one that is under way or awaited."""

import pytest

from holdfast.stores.base import Store
from holdfast.stores.records import ENDED, QUARANTINE_AT, Applied, Fenced, Snapshot
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    DAY_MS,
    ME,
    Place,
    append,
    applied,
    commit_one,
    ended,
    entries_of,
    find,
    insert,
    insert_ended,
    insert_held,
    message,
    new_run,
    parked,
    snapshot_of,
)
from holdfast.testing.contract.recovery import let_die
from holdfast.testing.contract.tests import Tests


async def ids(store: Store) -> set[str]:
    """Ids of all runs that are there."""
    runs = await store.list_runs(status=None, workflow=None, limit=1_000, after=None)
    return {run.id for run in runs}


async def sweep(
    store: Store,
    status: str = "completed",
    *,
    workflow: str = "order",
    before_ms: int | None = None,
    limit: int = 99,
) -> int:
    """Sweep what was changed last before now, or before another moment."""
    before = store.now_ms() if before_ms is None else before_ms
    return await store.sweep(workflow, status, before_ms=before, limit=limit)


class Removal(Tests):
    """Deleting and sweeping."""

    @pytest.mark.parametrize("status", sorted(ENDED))
    async def test_all_of_a_run_that_is_over_is_removed(self, place: Place, status: str) -> None:
        async with place.opened() as store:
            key, other = await insert_held(store, "a"), await insert_held(store, "b")
            for each in (key, other):
                await store.commit([message(each), message(each, "m-2")])
                await store.save_snapshot(each, 1, Snapshot(1, b"state"))
                await applied(store, ended(each, status, messages_read=2))
            assert await store.delete(key)
            assert await store.find_run("a") is None
            assert await store.read_journal(key) == []
            assert await store.read_inbox(key) == []
            assert await snapshot_of(store, key) is None
            assert await store.pending(key) == 0
            assert await commit_one(store, message(key)) == Fenced()
            assert (await find(store, "b")).status == status
            assert await entries_of(store, other) == [b"started", b"next"]
            assert len(await store.read_inbox(other)) == 2
            assert await snapshot_of(store, other) == Snapshot(1, b"state")
            assert not await store.delete(key)

    @pytest.mark.parametrize("status", ["running", "suspended", "paused", "blocked"])
    async def test_a_run_that_is_not_over_is_not_deleted(self, place: Place, status: str) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, parked(key, status=status))
            before = await find(store, "a")
            assert not await store.delete(key)
            assert await find(store, "a") == before
            assert await entries_of(store, key) == [b"started", b"next"]

    async def test_a_run_that_is_pending_or_held_is_not_deleted(self, place: Place) -> None:
        async with place.opened() as store:
            for key in (await insert(store, "a"), await insert_held(store, "b")):
                assert not await store.delete(key)
            assert await ids(store) == {"a", "b"}

    async def test_a_run_that_is_not_there_is_not_deleted(self, place: Place) -> None:
        async with place.opened() as store:
            assert not await store.delete(4_711)

    async def test_the_id_of_a_deleted_run_is_free_and_its_key_is_never_given_again(self, place: Place) -> None:
        async with place.opened() as store:
            first = await insert(store, "first")
            last = await insert_ended(store, "last")
            assert await store.delete(last)
        async with place.opened() as store:
            again = await insert_held(store, "last")
            assert again > last > first
            assert await entries_of(store, again) == [b"started"]
            assert await commit_one(store, message(last)) == Fenced()
            await applied(store, message(again))

    async def test_a_child_is_removed_once_its_parent_is_over_or_gone(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            parent = await insert_held(store, "parent")
            keys = [
                await insert_ended(store, f"{n}", parent_key=parent, parent_incarnation=1) for n in range(4)
            ]
            clock.advance(1)
            assert not await store.delete(keys[0])
            assert await sweep(store) == 0
            await applied(store, append(parent, status="suspended"))
            assert not await store.delete(keys[0])
            await applied(store, ended(parent, position=2))
            assert await store.delete(keys[0])
            assert await sweep(store, limit=1) == 1
            assert await store.delete(parent)
            assert await store.delete(keys[2])
            assert await sweep(store) == 1
            assert await ids(store) == set()

    @pytest.mark.parametrize("status", ["running", "suspended", "completed", "failed"])
    async def test_a_child_of_a_run_that_has_begun_anew_is_deleted(self, place: Place, status: str) -> None:
        async with place.opened() as store:
            parent = await insert_held(store, "parent")
            child = await insert_ended(store, "child", parent_key=parent, parent_incarnation=1)
            await applied(store, parked(parent, status=status))
            anew = await store.replace(new_run("parent", worker=ME), key=parent, epoch=1, keep_inbox=True)
            assert isinstance(anew, Applied)
            awaited = await insert_ended(store, "awaited", parent_key=parent, parent_incarnation=2)
            assert not await store.delete(awaited)
            assert await store.delete(child)
            assert await ids(store) == {"parent", "awaited"}
            await applied(store, ended(parent, epoch=2))
            assert await store.delete(awaited)

    async def test_a_child_of_a_run_that_has_begun_anew_is_swept(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            parent = await insert_held(store, "parent")
            for n in range(3):
                await insert_ended(store, f"old-{n}", parent_key=parent, parent_incarnation=1)
            await insert_ended(store, "kept", parent_key=await insert_held(store, "b"), parent_incarnation=1)
            clock.advance(1)
            assert await sweep(store) == 0
            assert isinstance(await store.replace(new_run("parent", worker=ME), key=parent, epoch=1), Applied)
            await insert_ended(store, "awaited", parent_key=parent, parent_incarnation=2)
            clock.advance(1)
            assert await sweep(store, limit=2) == 2
            assert await sweep(store) == 1
            assert await ids(store) == {"parent", "b", "kept", "awaited"}
            await applied(store, ended(parent, epoch=2))
            assert await sweep(store) == 1
            assert await ids(store) == {"parent", "b", "kept"}

    async def test_a_child_that_is_awaited_does_not_keep_one_that_is_not(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            parent = await insert_held(store, "parent")
            assert isinstance(await store.replace(new_run("parent", worker=ME), key=parent, epoch=1), Applied)
            for incarnation in (2, 1, 2):
                name = f"{incarnation} at {clock.wall_ms()}"
                await insert_ended(store, name, parent_key=parent, parent_incarnation=incarnation)
                clock.advance(1)
            assert await sweep(store, limit=1) == 1
            assert await sweep(store) == 0
            there = await store.list_runs(status="completed", workflow=None, limit=9, after=None)
            assert [run.parent_incarnation for run in there] == [2, 2]

    async def test_a_parent_is_removed_before_its_children(self, place: Place) -> None:
        async with place.opened() as store:
            parent = await insert_ended(store, "parent")
            child = await insert_held(store, "child", parent_key=parent, parent_incarnation=1)
            assert await store.delete(parent)
            await applied(store, ended(child))
            assert await store.delete(child)

    async def test_a_sweep_removes_what_was_changed_last_before_a_moment(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            begin_ms = store.now_ms()
            for n in range(4):
                await insert_ended(store, f"run-{n}")
                clock.advance(1_000)
            assert await sweep(store, before_ms=begin_ms) == 0
            assert await sweep(store, before_ms=begin_ms + 1_000) == 1
            assert await ids(store) == {"run-1", "run-2", "run-3"}
            assert await sweep(store, before_ms=begin_ms + 2_001) == 2
            assert await ids(store) == {"run-3"}

    async def test_the_age_of_a_run_counts_from_its_end(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            clock.advance(DAY_MS)
            await applied(store, ended(key))
            assert await sweep(store) == 0
            clock.advance(1)
            assert await sweep(store) == 1

    async def test_a_sweep_takes_the_oldest_and_no_more_than_its_limit(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            keys = [await insert_held(store, f"run-{n}") for n in range(5)]
            for key in reversed(keys):
                await applied(store, ended(key))
                clock.advance(1)
            assert await sweep(store, limit=2) == 2
            assert await ids(store) == {"run-0", "run-1", "run-2"}
            assert await sweep(store, limit=3) == 3
            assert await sweep(store, limit=3) == 0

    async def test_runs_that_are_kept_do_not_use_up_the_limit(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            parent = await insert_held(store, "parent")
            for n in range(3):
                await insert_ended(store, f"kept-{n}", parent_key=parent, parent_incarnation=1)
                clock.advance(1)
            await insert_ended(store, "old")
            clock.advance(1)
            assert await sweep(store, limit=1) == 1
            assert await ids(store) == {"parent", "kept-0", "kept-1", "kept-2"}

    async def test_a_sweep_is_of_one_workflow_and_one_status(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            statuses = ["completed", "failed", "cancelled", "blocked"]
            for status in statuses:
                for workflow in ("order", "invoice"):
                    await insert_ended(store, f"{workflow} {status}", status, workflow=workflow)
            clock.advance(1)
            there = await ids(store)
            for status in statuses:
                assert await sweep(store, status, workflow="unknown") == 0
                assert await sweep(store, status) == 1
                there.remove(f"order {status}")
                assert await ids(store) == there

    @pytest.mark.parametrize("status", ["pending", "running", "suspended", "paused"])
    async def test_what_is_under_way_is_never_swept(
        self, place: Place, clock: VirtualClock, status: str
    ) -> None:
        async with place.opened() as store:
            await insert(store, "pending")
            await applied(store, parked(await insert_held(store, "a"), status=status))
            clock.advance(1)
            assert await sweep(store, status) == 0

    async def test_a_blocked_run_that_someone_holds_is_not_swept(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, append(key, status="blocked"))
            clock.advance(1)
            assert await sweep(store, "blocked") == 0
            await store.release([(key, 1)])
            assert await sweep(store, "blocked") == 1

    async def test_the_age_of_a_run_counts_from_when_it_was_blocked(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            await insert(store, "a")
        await let_die(place, "a", times=QUARANTINE_AT - 1)
        clock.advance(DAY_MS)
        await let_die(place, "a")
        async with place.opened() as store:
            assert (await find(store, "a")).status == "blocked"
            assert await sweep(store, "blocked") == 0
            clock.advance(1)
            assert await sweep(store, "blocked") == 1

    async def test_all_of_a_swept_run_is_removed(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            keys = [await insert_held(store, run_id) for run_id in ("a", "b")]
            for key in keys:
                await applied(store, message(key))
                await store.save_snapshot(key, 1, Snapshot(1, b"state"))
                await applied(store, ended(key, messages_read=1))
                clock.advance(1)
            assert await sweep(store, limit=1) == 1
            for key, count in zip(keys, (0, 1), strict=True):
                assert len(await store.read_journal(key)) == 2 * count
                assert len(await store.read_inbox(key)) == count
                assert (await snapshot_of(store, key) is None) is (count == 0)

    async def test_the_removal_of_many_leaves_the_others_whole(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            for n in range(100):
                key = await insert_held(store, f"run-{n}")
                if n % 2:
                    await applied(store, ended(key))
            clock.advance(1)
            assert await sweep(store, limit=1_000) == 50
            assert await ids(store) == {f"run-{n}" for n in range(0, 100, 2)}
            assert isinstance(await commit_one(store, new_run("run-1")), Applied)
