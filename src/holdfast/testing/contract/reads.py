"""Looking things up: rows, pages of rows, journals, definitions, snapshots."""

from holdfast.stores.records import Definition, Snapshot
from holdfast.testing.contract.place import (
    ME,
    Place,
    append,
    applied,
    claim,
    commit_one,
    find,
    insert,
    insert_held,
    new_run,
    parked,
)
from holdfast.testing.contract.tests import Tests


class Reads(Tests):
    """Looking things up."""

    async def test_an_unknown_run_has_no_row_no_journal_and_no_inbox(self, place: Place) -> None:
        async with place.opened() as store:
            assert await store.find_run("nobody") is None
            assert await store.read_journal(4_711) == []
            assert await store.read_inbox(4_711) == []
            assert await store.find_snapshot(4_711) is None

    async def test_a_journal_is_read_from_after_a_position(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, append(key, entries=(b"two", b"three")))
            rows = await store.read_journal(key, after=1)
            assert [(row.position, row.entry) for row in rows] == [(2, b"two"), (3, b"three")]
            assert await store.read_journal(key, after=3) == []

    async def test_runs_are_listed_the_last_first_page_by_page(self, place: Place) -> None:
        async with place.opened() as store:
            for n in range(5):
                await insert(store, f"run-{n}")
            page = await store.list_runs(status=None, workflow=None, limit=2, after=None)
            assert [run.id for run in page] == ["run-4", "run-3"]
            page = await store.list_runs(status=None, workflow=None, limit=2, after=page[-1].key)
            assert [run.id for run in page] == ["run-2", "run-1"]
            page = await store.list_runs(status=None, workflow=None, limit=2, after=page[-1].key)
            assert [run.id for run in page] == ["run-0"]
            assert await store.list_runs(status=None, workflow=None, limit=2, after=page[-1].key) == []
            assert page == [await find(store, "run-0")]

    async def test_lists_are_filtered_by_status_and_workflow(self, place: Place) -> None:
        async with place.opened() as store:
            for n in range(6):
                workflow = ("order", "invoice")[n % 2]
                key = await insert_held(store, f"run-{n}", workflow=workflow)
                if n >= 2:
                    await commit_one(store, parked(key, status="failed", messages_read=None))

            async def listed(status: str | None, workflow: str | None, limit: int = 9) -> list[str]:
                runs = await store.list_runs(status=status, workflow=workflow, limit=limit, after=None)
                return [run.id for run in runs]

            assert await listed("running", None) == ["run-1", "run-0"]
            assert await listed(None, "order") == ["run-4", "run-2", "run-0"]
            assert await listed("failed", "invoice") == ["run-5", "run-3"]
            assert await listed("failed", "invoice", limit=1) == ["run-5"]
            assert await listed("cancelled", None) == []
            assert await listed(None, "unknown") == []

    async def test_a_definition_is_found_by_fingerprint_and_as_the_current_one(self, place: Place) -> None:
        async with place.opened() as store:
            old = Definition("order", "mark-1", b"structure 1", b"schema 1")
            new = Definition("order", "mark-2", b"structure 2")
            other = Definition("invoice", "mark-1", b"structure 3")
            for definition in (old, other, new):
                await store.save_definition(definition, current=True)
            assert await store.find_definition("order") == new
            assert await store.find_definition("order", "mark-1") == old
            assert await store.find_definition("order", "mark-2") == new
            assert await store.find_definition("invoice") == other
            assert await store.find_definition("order", "mark-3") is None
            assert await store.find_definition("unknown") is None

    async def test_the_definition_saved_last_is_the_current_one(self, place: Place) -> None:
        async with place.opened() as store:
            old, new = Definition("order", "mark-1", b"1"), Definition("order", "mark-2", b"2")
            for definition in (old, new, old):
                await store.save_definition(definition, current=True)
            assert await store.find_definition("order") == old
            assert await store.find_definition("order", "mark-2") == new

    async def test_a_definition_that_is_not_to_be_current_leaves_the_one_that_is(self, place: Place) -> None:
        async with place.opened() as store:
            old, new = Definition("order", "mark-1", b"1"), Definition("order", "mark-2", b"2")
            await store.save_definition(old, current=True)
            for definition in (new, old):
                await store.save_definition(definition, current=False)
                assert await store.find_definition("order") == old
                assert await store.find_definition("order", "mark-2") == new

    async def test_a_workflow_has_no_current_definition_before_there_is_one(self, place: Place) -> None:
        async with place.opened() as store:
            await store.save_definition(Definition("order", "mark-1", b"1"), current=False)
            assert await store.find_definition("order") is None
            assert await store.definition_names() == []
            assert await store.find_definition("order", "mark-1") is not None

    async def test_a_definition_saved_again_brings_its_input_schema(self, place: Place) -> None:
        async with place.opened() as store:
            await store.save_definition(Definition("order", "mark-1", b"1"), current=True)
            await store.save_definition(Definition("order", "mark-1", b"1", b"schema"), current=True)
            found = await store.find_definition("order")
            assert found is not None
            assert found.input_schema == b"schema"

    async def test_workflow_names_are_sorted_and_listed_once(self, place: Place) -> None:
        async with place.opened() as store:
            assert await store.definition_names() == []
            for name, mark in (("order", "1"), ("invoice", "1"), ("order", "2")):
                await store.save_definition(Definition(name, mark, b"structure"), current=True)
            assert await store.definition_names() == ["invoice", "order"]

    async def test_a_snapshot_is_kept_and_replaced(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            assert await store.find_snapshot(key) is None
            await store.save_snapshot(key, 1, Snapshot(1, b"state 1"))
            assert await store.find_snapshot(key) == Snapshot(1, b"state 1")
            await store.save_snapshot(key, 1, Snapshot(5, b"state 5"))
            assert await store.find_snapshot(key) == Snapshot(5, b"state 5")

    async def test_a_snapshot_under_another_epoch_is_dropped(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await store.save_snapshot(key, 1, Snapshot(1, b"mine"))
            await store.release([(key, 1)])
            assert await claim(store) == ["a"]
            await store.save_snapshot(key, 1, Snapshot(2, b"stale"))
            await store.save_snapshot(key, 3, Snapshot(2, b"future"))
            assert await store.find_snapshot(key) == Snapshot(1, b"mine")

    async def test_a_snapshot_of_an_unknown_run_is_dropped(self, place: Place) -> None:
        async with place.opened() as store:
            await store.save_snapshot(4_711, 1, Snapshot(1, b"state"))
            assert await store.find_snapshot(4_711) is None

    async def test_a_row_says_the_same_by_every_way_to_it(self, place: Place) -> None:
        async with place.opened() as store:
            await applied(store, new_run("a", tags=("x",), priority=4))
            (claimed,) = (await store.claim(ME, workflows=["order"], limit=1)).runs
            (listed,) = await store.list_runs(status=None, workflow=None, limit=1, after=None)
            assert claimed == listed == await find(store, "a")
