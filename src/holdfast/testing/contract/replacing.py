"""A run in the place of another one: same id and key, the next epoch and incarnation, at most its inbox."""

from holdfast.stores.records import Applied, Fenced, JournalRow, RunRecord, Snapshot, Unread
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    ME,
    OTHER,
    Place,
    append,
    applied,
    claim,
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
from holdfast.testing.contract.tests import Tests


class Replacing(Tests):
    """Replacing a run."""

    async def test_it_is_as_after_an_insert_but_for_key_epoch_and_incarnation(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a", priority=1, tags=("old",), parent_key=7, parent_step=b"old")
            await store.commit([message(key), message(key, "m-2")])
            await applied(store, parked(key, status="failed", entries=(b"2", b"3"), messages_read=2))
            clock.advance(1_000)
            new = new_run(
                "a", workflow="other", fingerprint="mark-2", entries=(b"new", b"more"), input_digest=b"else",
                priority=5, tags=("new",),
            )  # fmt: skip
            done = await store.replace(new, key=key, epoch=1)
            assert done == Applied(store.now_ms(), key)
            assert await find(store, "a") == RunRecord(
                key=key,
                id="a",
                incarnation=2,
                epoch=2,
                position=2,
                status="pending",
                workflow="other",
                fingerprint="mark-2",
                queue="default",
                priority=5,
                tags=("new",),
                worker=None,
                due_at_ms=store.now_ms(),
                messages_sent=0,
                recoveries=0,
                input_digest=b"else",
                parent_key=None,
                parent_incarnation=0,
                parent_step=None,
                created_at_ms=store.now_ms(),
                updated_at_ms=store.now_ms(),
            )
            assert await store.read_journal(key) == [
                JournalRow(1, 0, store.now_ms(), b"new"),
                JournalRow(2, 0, store.now_ms(), b"more"),
            ]
            assert await claim(store) == []
            assert await claim(store, "other") == ["a"]

    async def test_inbox_ids_of_messages_and_snapshot_are_gone(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            other = await insert_held(store, "b")
            for each in (key, other):
                await store.commit([message(each), message(each, "m-2")])
                await store.save_snapshot(each, 1, Snapshot(1, b"state"))
            await store.replace(new_run("a"), key=key, epoch=1)
            assert await store.read_inbox(key) == []
            assert await snapshot_of(store, key) is None
            assert (await applied(store, message(key))).messages_sent == 1
            assert await entries_of(store, other) == [b"started"]
            assert len(await store.read_inbox(other)) == 2
            assert await snapshot_of(store, other) == Snapshot(1, b"state")

    async def test_whoever_held_the_run_is_fenced(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            assert isinstance(await store.replace(new_run("a"), key=key, epoch=1), Applied)
            assert await store.held(ME) == []
            assert await commit_one(store, append(key, entries=(b"stale",))) == Fenced()
            await store.save_snapshot(key, 1, Snapshot(1, b"stale"))
            await store.release([(key, 1)])
            assert await snapshot_of(store, key) is None
            assert await entries_of(store, key) == [b"started"]
            assert await claim(store, worker=OTHER) == ["a"]
            await applied(store, append(key, epoch=3, worker=OTHER))

    async def test_another_epoch_replaces_nothing(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key))
            before = await find(store, "a")
            for epoch in (0, 2):
                assert await store.replace(new_run("a", entries=(b"never",)), key=key, epoch=epoch) == Fenced()
            assert await find(store, "a") == before
            assert await entries_of(store, key) == [b"started"]
            assert len(await store.read_inbox(key)) == 1

    async def test_a_second_time_it_replaces_nothing(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_ended(store, "a")
            assert isinstance(await store.replace(new_run("a"), key=key, epoch=1), Applied)
            assert await store.replace(new_run("a"), key=key, epoch=1) == Fenced()
            assert (await find(store, "a")).incarnation == 2

    async def test_a_run_that_is_not_there_is_not_replaced(self, place: Place) -> None:
        async with place.opened() as store:
            assert await store.replace(new_run("a"), key=4_711, epoch=0) == Fenced()
            assert await store.find_run("a") is None
            assert await store.read_journal(4_711) == []

    async def test_it_can_be_held_at_once_or_be_over(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_ended(store, "a")
            held = await store.replace(new_run("a", worker=OTHER), key=key, epoch=1)
            assert held == Applied(store.now_ms(), key)
            row = await find(store, "a")
            assert (row.status, row.worker, row.epoch) == ("running", OTHER, 2)
            await applied(store, append(key, epoch=2, worker=OTHER))
            await store.replace(new_run("a", over="cancelled"), key=key, epoch=2)
            row = await find(store, "a")
            assert (row.status, row.worker, row.epoch, row.due_at_ms) == ("cancelled", None, 3, None)

    async def test_a_message_to_the_run_before_is_dropped(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            await store.replace(new_run("a"), key=key, epoch=0)
            assert await commit_one(store, message(key, incarnation=1)) == Fenced()
            await applied(store, message(key, incarnation=2))

    async def test_it_is_charged_with_nothing(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
        async with place.after_crash() as store:
            assert (await find(store, "a")).recoveries == 1
            await store.replace(new_run("a"), key=key, epoch=1)
            assert (await find(store, "a")).recoveries == 0

    async def test_it_keeps_the_inbox_of_the_run_before_where_it_is_asked_to(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a", parent_key=7, parent_incarnation=1, parent_step=b"old")
            await store.commit([message(key, f"m-{n}", payload=b"%d" % n) for n in (1, 2, 3)])
            await applied(store, append(key, entries=(b"2", b"3"), consumed=(2,), messages_read=3))
            await store.save_snapshot(key, 1, Snapshot(3, b"state"))
            inbox = await store.read_inbox(key)
            clock.advance(1_000)
            new = new_run(
                "a", workflow="other", entries=(b"new",), input_digest=b"else", parent_key=8, parent_step=b"new"
            )
            done = await store.replace(new, key=key, epoch=1, keep_inbox=True)
            assert done == Applied(store.now_ms(), key, 3)
            assert [row.seq for row in inbox] == [1, 3]
            assert await store.read_inbox(key) == inbox
            assert await store.pending(key) == 2
            row = await find(store, "a")
            assert (row.incarnation, row.epoch, row.position, row.messages_sent) == (2, 2, 1, 3)
            assert (row.status, row.worker, row.due_at_ms) == ("pending", None, store.now_ms())
            assert (row.workflow, row.input_digest, row.created_at_ms) == ("other", b"else", store.now_ms())
            assert (row.parent_key, row.parent_incarnation, row.parent_step) == (8, 0, b"new")
            assert await store.read_journal(key) == [JournalRow(1, 0, store.now_ms(), b"new")]
            assert await snapshot_of(store, key) is None
            assert await claim(store, "other") == ["a"]

    async def test_messages_to_a_run_that_kept_its_inbox_go_on_with_the_numbers(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await store.commit([message(key, "pending"), message(key, "consumed")])
            await applied(store, append(key, consumed=(2,), messages_read=2))
            await store.replace(new_run("a"), key=key, epoch=1, keep_inbox=True)
            outcomes = await store.commit([message(key, known) for known in ("pending", "consumed", "new")])
            assert [o.messages_sent for o in outcomes if isinstance(o, Applied)][-1] == 3
            assert [(row.seq, row.id) for row in await store.read_inbox(key)] == [(1, "pending"), (3, "new")]
            assert await commit_one(store, message(key, "late", incarnation=1)) == Fenced()

    async def test_with_its_inbox_kept_whoever_held_the_run_is_fenced(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key))
            await store.replace(new_run("a"), key=key, epoch=1, keep_inbox=True)
            stale = append(key, entries=(b"stale",), consumed=(1,), messages_read=1)
            assert await commit_one(store, stale) == Fenced()
            assert await store.replace(new_run("a"), key=key, epoch=1, keep_inbox=True) == Fenced()
            assert await entries_of(store, key) == [b"started"]
            assert [row.seq for row in await store.read_inbox(key)] == [1]
            assert (await find(store, "a")).incarnation == 2

    async def test_what_was_carried_over_is_unread_for_the_run_that_goes_on(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key))
            held = await store.replace(new_run("a", worker=ME), key=key, epoch=1, keep_inbox=True)
            assert held == Applied(store.now_ms(), key, 1)
            assert await store.counts(ME) == [(key, 1)]
            assert await commit_one(store, ended(key, epoch=2)) == Unread(1)
            await applied(store, parked(key, epoch=2))
            assert await claim(store) == ["a"]

    async def test_an_inbox_is_kept_of_its_run_only(self, place: Place) -> None:
        async with place.opened() as store:
            key, other = await insert_held(store, "a"), await insert_held(store, "b")
            await store.commit([message(key), message(other)])
            await store.replace(new_run("a"), key=key, epoch=1, keep_inbox=True)
            await store.replace(new_run("b"), key=other, epoch=1)
            assert [len(await store.read_inbox(each)) for each in (key, other)] == [1, 0]
            await store.replace(new_run("a"), key=key, epoch=2)
            assert await store.read_inbox(key) == []
            assert (await applied(store, message(key))).messages_sent == 1
