"""Looking things up: rows, pages of rows, journals, definitions, snapshots."""

from holdfast.stores.records import Applied, Definition, Snapshot, Stored
from holdfast.testing.contract.place import (
    ME,
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
    new_run,
    parked,
    snapshot_of,
)
from holdfast.testing.contract.tests import Tests


class Reads(Tests):
    """Looking things up."""

    async def test_an_unknown_run_has_no_row_no_journal_and_no_inbox(self, place: Place) -> None:
        async with place.opened() as store:
            assert await store.find_run("nobody") is None
            assert await store.read_journal(4_711) == []
            assert await store.read_inbox(4_711) == []
            assert await store.load([4_711]) == [Stored(None, [], [])]
            assert await store.pending(4_711) == 0

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

    async def test_a_known_structure_is_replaced_where_it_becomes_current(self, place: Place) -> None:
        async with place.opened() as store:
            other = Definition("order", "mark-2", b"other")
            for definition in (Definition("order", "mark-1", b"old"), other):
                await store.save_definition(definition, current=True)
            await store.save_definition(Definition("order", "mark-1", b"new"), current=True)
            assert await store.find_definition("order") == Definition("order", "mark-1", b"new")
            assert await store.find_definition("order", "mark-2") == other

    async def test_a_known_structure_is_kept_where_it_does_not_become_current(self, place: Place) -> None:
        async with place.opened() as store:
            await store.save_definition(Definition("order", "mark-1", b"old"), current=True)
            await store.save_definition(Definition("order", "mark-1", b"new"), current=False)
            found = await store.find_definition("order")
            assert found is not None
            assert found.structure == b"old"

    async def test_workflow_names_are_sorted_and_listed_once(self, place: Place) -> None:
        async with place.opened() as store:
            assert await store.definition_names() == []
            for name, mark in (("order", "1"), ("invoice", "1"), ("order", "2")):
                await store.save_definition(Definition(name, mark, b"structure"), current=True)
            assert await store.definition_names() == ["invoice", "order"]

    async def test_a_snapshot_is_kept_and_replaced(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            assert await snapshot_of(store, key) is None
            await store.save_snapshot(key, 1, Snapshot(1, b"state 1"))
            assert await snapshot_of(store, key) == Snapshot(1, b"state 1")
            await store.save_snapshot(key, 1, Snapshot(5, b"state 5"))
            assert await snapshot_of(store, key) == Snapshot(5, b"state 5")

    async def test_a_snapshot_under_another_epoch_is_dropped(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await store.save_snapshot(key, 1, Snapshot(1, b"mine"))
            await store.release([(key, 1)])
            assert await claim(store) == ["a"]
            await store.save_snapshot(key, 1, Snapshot(2, b"stale"))
            await store.save_snapshot(key, 3, Snapshot(2, b"future"))
            assert await snapshot_of(store, key) == Snapshot(1, b"mine")

    async def test_a_snapshot_of_an_unknown_run_is_dropped(self, place: Place) -> None:
        async with place.opened() as store:
            await store.save_snapshot(4_711, 1, Snapshot(1, b"state"))
            assert await snapshot_of(store, 4_711) is None

    async def test_all_that_is_needed_of_many_runs_is_loaded_at_once(self, place: Place) -> None:
        async with place.opened() as store:
            plain, cached, sent = [await insert_held(store, run_id) for run_id in ("a", "b", "c")]
            for key in (plain, cached, sent):
                await applied(store, append(key, entries=(b"2", b"3", b"4")))
            await store.save_snapshot(cached, 1, Snapshot(2, b"state"))
            await store.commit([message(key, f"m-{n}") for n in range(3) for key in (cached, sent)])
            await applied(store, append(sent, position=4, entries=(), consumed=(2,), messages_read=3))
            keys = [sent, 4_711, plain, cached, sent]
            loaded = await store.load(keys)
            assert [each.snapshot for each in loaded] == [None, None, None, Snapshot(2, b"state"), None]
            for key, each, after in zip(keys, loaded, (0, 0, 0, 2, 0), strict=True):
                assert each.journal == await store.read_journal(key, after=after)
                assert each.inbox == await store.read_inbox(key)
            assert [len(each.journal) for each in loaded] == [4, 0, 4, 2, 4]
            assert [[row.seq for row in each.inbox] for each in loaded] == [[1, 3], [], [], [1, 2, 3], [1, 3]]
            assert await store.load([]) == []

    async def test_a_snapshot_of_the_last_entry_leaves_no_journal_to_load(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await store.save_snapshot(key, 1, Snapshot(1, b"state"))
            assert await store.load([key]) == [Stored(Snapshot(1, b"state"), [], [])]

    async def test_any_number_of_runs_is_loaded(self, place: Place) -> None:
        async with place.opened() as store:
            new = [new_run(f"run-{n}", entries=(b"%d" % n, b"more")) for n in range(1_100)]
            keys = [outcome.key for outcome in await store.commit(new) if isinstance(outcome, Applied)]
            await store.commit([message(key, f"{key}") for key in keys])
            keys.reverse()
            loaded = await store.load(keys)
            firsts = [[row.entry for row in each.journal] for each in loaded]
            assert firsts == [[b"%d" % n, b"more"] for n in reversed(range(1_100))]
            assert [[row.id for row in each.inbox] for each in loaded] == [[f"{key}"] for key in keys]

    async def test_messages_that_are_not_consumed_are_pending(self, place: Place) -> None:
        async with place.opened() as store:
            key, other = await insert_held(store, "a"), await insert_held(store, "b")
            assert await store.pending(key) == 0
            await store.commit([message(key, f"m-{n}") for n in range(3)] + [message(other)])
            assert await store.pending(key) == 3
            await applied(store, append(key, consumed=(1, 3), messages_read=3))
            assert await store.pending(key) == 1
            assert await store.pending(other) == 1

    async def test_a_worker_is_told_which_of_its_runs_were_sent_how_many_messages(self, place: Place) -> None:
        async with place.opened() as store:
            keys = [await insert_held(store, f"run-{n}") for n in range(4)]
            others = await insert(store, "others", worker=OTHER)
            free = await insert(store, "free")
            await store.commit([message(key, "m-1") for key in (*keys[1:], others, free)])
            await store.commit([message(keys[2], "m-2")])
            await store.commit([append(keys[2], consumed=(1, 2), messages_read=2), parked(keys[3])])
            assert sorted(await store.counts(ME)) == [(keys[1], 1), (keys[2], 2)]
            assert await store.counts(OTHER) == [(others, 1)]
            assert await store.counts("nobody") == []

    async def test_a_row_says_the_same_by_every_way_to_it(self, place: Place) -> None:
        async with place.opened() as store:
            await applied(store, new_run("a", tags=("x",), priority=4))
            (claimed,) = (await store.claim(ME, workflows=["order"], limit=1)).runs
            (listed,) = await store.list_runs(status=None, workflow=None, limit=1, after=None)
            assert claimed == listed == await find(store, "a")
