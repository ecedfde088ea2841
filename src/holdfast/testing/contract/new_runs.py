"""Inserting runs: whole, once per id, held or left to a claim."""

from holdfast.stores.records import Applied, Exists
from holdfast.testing.clock import BEGIN_MS, VirtualClock
from holdfast.testing.contract.place import (
    ME,
    Place,
    append,
    applied,
    claim,
    commit_one,
    entries_of,
    find,
    insert,
    new_run,
)
from holdfast.testing.contract.tests import Tests


class NewRuns(Tests):
    """Inserting runs."""

    async def test_a_new_run_has_a_row_with_everything_it_was_given(self, place: Place) -> None:
        async with place.opened() as store:
            parent = await insert(store, "parent")
            done = await applied(
                store,
                new_run(
                    "child",
                    queue="default",
                    priority=2,
                    tags=("gpu", "big"),
                    parent_key=parent,
                    parent_incarnation=1,
                    parent_step=b"step-key",
                ),
            )
            row = await find(store, "child")
            assert (row.key, row.id, row.workflow, row.fingerprint) == (done.key, "child", "order", "mark-1")
            assert (row.queue, row.priority, row.tags, row.input_digest) == (
                "default",
                2,
                ("gpu", "big"),
                b"digest",
            )
            assert (row.parent_key, row.parent_incarnation, row.parent_step) == (parent, 1, b"step-key")
            assert (row.incarnation, row.position, row.messages_sent, row.recoveries) == (1, 1, 0, 0)
            assert (row.created_at_ms, row.updated_at_ms) == (done.at_ms, done.at_ms)

    async def test_a_run_inserted_without_a_worker_is_pending_and_due_now(self, place: Place) -> None:
        async with place.opened() as store:
            done = await applied(store, new_run("a"))
            row = await find(store, "a")
            assert (row.status, row.worker, row.epoch, row.due_at_ms) == ("pending", None, 0, done.at_ms)
            assert await claim(store) == ["a"]

    async def test_a_run_inserted_for_a_worker_is_held_under_the_first_epoch(self, place: Place) -> None:
        async with place.opened() as store:
            done = await applied(store, new_run("a", worker=ME))
            row = await find(store, "a")
            assert (row.status, row.worker, row.epoch) == ("running", ME, 1)
            assert await claim(store) == []
            assert isinstance(await commit_one(store, append(done.key)), Applied)

    async def test_the_first_entries_are_journalled_under_epoch_0(self, place: Place) -> None:
        async with place.opened() as store:
            done = await applied(store, new_run("a", entries=(b"one", b"two"), worker=ME))
            rows = await store.read_journal(done.key)
            assert [(row.position, row.epoch, row.at_ms, row.entry) for row in rows] == [
                (1, 0, done.at_ms, b"one"),
                (2, 0, done.at_ms, b"two"),
            ]
            assert (await find(store, "a")).position == 2

    async def test_a_taken_id_changes_nothing(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            before = await find(store, "a")
            clock.advance(1_000)
            other = new_run("a", workflow="other", entries=(b"other", b"more"), input_digest=b"else", worker=ME)
            assert await commit_one(store, other) == Exists()
            assert await find(store, "a") == before
            assert await entries_of(store, key) == [b"started"]

    async def test_of_two_new_runs_of_one_id_in_a_group_the_first_is_inserted(self, place: Place) -> None:
        async with place.opened() as store:
            group = [new_run("a", entries=(b"first",)), new_run("b"), new_run("a", entries=(b"second",))]
            first, other, second = await store.commit(group)
            assert isinstance(first, Applied)
            assert isinstance(other, Applied)
            assert second == Exists()
            assert await entries_of(store, first.key) == [b"first"]

    async def test_the_runs_of_a_group_are_keyed_in_its_order(self, place: Place) -> None:
        async with place.opened() as store:
            ids = [f"run-{n}" for n in range(100)]
            outcomes = await store.commit([new_run(run_id) for run_id in ids])
            keys = [outcome.key for outcome in outcomes if isinstance(outcome, Applied)]
            assert keys == sorted(keys)
            listed = await store.list_runs(status=None, workflow=None, limit=100, after=None)
            assert [run.id for run in reversed(listed)] == ids
            assert await claim(store) == ids

    async def test_ids_and_payloads_of_any_content_come_back_as_they_were(self, place: Place) -> None:
        async with place.opened() as store:
            entry = bytes(range(256))
            run_id = "é'\"%_\\ 長い名前 🙂"
            done = await applied(store, new_run(run_id, entries=(entry, b""), input_digest=b"\x00\xff"))
            assert (await find(store, run_id)).input_digest == b"\x00\xff"
            assert await entries_of(store, done.key) == [entry, b""]
            assert await store.find_run(run_id.upper()) is None

    async def test_ids_that_differ_in_case_or_by_accents_are_two(self, place: Place) -> None:
        async with place.opened() as store:
            keys = {await insert(store, run_id) for run_id in ("order", "Order", "ordér", "orde\u0301r")}
            assert len(keys) == 4

    async def test_the_stamp_of_an_insert_is_the_store_clock(self, place: Place) -> None:
        async with place.opened() as store:
            assert store.now_ms() == BEGIN_MS
            assert (await applied(store, new_run("a"))).at_ms == BEGIN_MS
