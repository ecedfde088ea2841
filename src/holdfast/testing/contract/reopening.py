"""Closing and opening again: what was committed is there, and runs that nobody held are as they were."""

from holdfast.stores.records import Definition, Exists, Snapshot
from holdfast.testing.contract.place import (
    MINUTE_MS,
    Place,
    applied,
    commit_one,
    find,
    insert,
    insert_held,
    message,
    new_run,
    parked,
    snapshot_of,
)
from holdfast.testing.contract.tests import Tests


class Reopening(Tests):
    """One opening after the other."""

    async def test_everything_committed_is_there_after_reopening(self, place: Place) -> None:
        definition = Definition("order", "mark-1", b"structure", b"schema")
        async with place.opened() as store:
            key = await insert_held(store, "a", tags=("x", "y"), parent_key=7, parent_step=b"step")
            await store.save_definition(definition, current=True)
            await store.save_snapshot(key, 1, Snapshot(1, b"state"))
            await store.commit([message(key, "m-1"), message(key, "m-2")])
            await applied(
                store,
                parked(
                    key,
                    entries=(b"two", b"three"),
                    due_in_ms=MINUTE_MS,
                    messages_read=2,
                    consumed=(1,),
                    children=(new_run("child"),),
                ),
            )
            before = [await find(store, run_id) for run_id in ("a", "child")]
            journal, inbox = await store.read_journal(key), await store.read_inbox(key)
        async with place.opened() as store:
            assert [await find(store, run_id) for run_id in ("a", "child")] == before
            assert (await store.read_journal(key), await store.read_inbox(key)) == (journal, inbox)
            assert [row.id for row in inbox] == ["m-2"]
            assert await snapshot_of(store, key) == Snapshot(1, b"state")
            assert await store.find_definition("order") == definition
            assert await commit_one(store, new_run("a")) == Exists()
            assert (await applied(store, message(key, "m-1"))).messages_sent == 2

    async def test_a_run_nobody_held_is_left_alone(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "pending")
            await applied(store, parked(await insert_held(store, "parked"), due_in_ms=MINUTE_MS))
            await applied(store, parked(await insert_held(store, "over"), status="completed"))
            released = await insert_held(store, "released")
            await store.release([(released, 1)])
            ids = ("pending", "parked", "over", "released")
            before = [await find(store, run_id) for run_id in ids]
        async with place.opened() as store:
            assert [await find(store, run_id) for run_id in ids] == before

    async def test_closing_twice_is_closing_once(self, place: Place) -> None:
        async with place.opened() as store:
            await insert(store, "a")
            await store.close()
            await store.close()

    async def test_keys_go_on_after_reopening(self, place: Place) -> None:
        async with place.opened() as store:
            first = await insert(store, "a")
        async with place.opened() as store:
            assert await insert(store, "b") > first
