"""Runs that an append starts: with it, only with it, and once."""

from holdfast.stores.records import Fenced
from holdfast.testing.contract.place import (
    Place,
    append,
    applied,
    claim,
    commit_one,
    entries_of,
    find,
    insert,
    insert_held,
    new_run,
)
from holdfast.testing.contract.tests import Tests


class Children(Tests):
    """Runs that an append starts."""

    async def test_a_child_starts_with_the_append_of_its_parent(self, place: Place) -> None:
        async with place.opened() as store:
            parent = await insert_held(store, "parent")
            child = new_run("child", parent_key=parent, parent_incarnation=1, parent_step=b"key")
            done = await applied(store, append(parent, children=(child, new_run("sibling"))))
            row = await find(store, "child")
            assert (row.status, row.parent_key, row.created_at_ms) == ("pending", parent, done.at_ms)
            assert await entries_of(store, row.key) == [b"started"]
            assert sorted(await claim(store)) == ["child", "sibling"]

    async def test_a_fenced_append_starts_no_child(self, place: Place) -> None:
        async with place.opened() as store:
            parent = await insert_held(store, "parent")
            assert await commit_one(store, append(parent, position=3, children=(new_run("child"),))) == Fenced()
            assert await store.find_run("child") is None

    async def test_a_child_whose_id_is_taken_changes_nothing_and_fails_nothing(self, place: Place) -> None:
        async with place.opened() as store:
            parent = await insert_held(store, "parent")
            taken = await insert(store, "child", entries=(b"old",))
            await applied(store, append(parent, children=(new_run("child", entries=(b"new", b"new")),)))
            assert await entries_of(store, taken) == [b"old"]
            assert await entries_of(store, parent) == [b"started", b"next"]

    async def test_a_child_started_by_two_parents_of_a_group_starts_once(self, place: Place) -> None:
        async with place.opened() as store:
            parents = [await insert_held(store, f"parent-{n}") for n in range(2)]
            await store.commit([append(key, children=(new_run("child"),)) for key in parents])
            row = await find(store, "child")
            assert await entries_of(store, row.key) == [b"started"]
            for key in parents:
                assert await entries_of(store, key) == [b"started", b"next"]
