"""Appending to the journal of a held run: under its epoch at its position, whole or not at all."""

from collections.abc import Callable

import pytest

from holdfast.stores.records import Append, Applied, Fenced
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    MINUTE_MS,
    Place,
    append,
    applied,
    claim,
    commit_one,
    entries_of,
    find,
    insert_held,
    message,
    new_run,
    parked,
)
from holdfast.testing.contract.tests import Tests


class Appends(Tests):
    """Appends to held runs."""

    async def test_an_append_under_the_right_epoch_and_position_is_written(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            done = await applied(store, append(key, entries=(b"two", b"three")))
            assert done.key == key
            assert await entries_of(store, key) == [b"started", b"two", b"three"]
            assert (await find(store, "a")).position == 3
            await applied(store, append(key, position=3, entries=(b"four",)))
            assert await entries_of(store, key) == [b"started", b"two", b"three", b"four"]

    async def test_the_stamp_is_returned_and_equal_in_the_journal_and_the_row(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            clock.advance(1_234)
            done = await applied(store, append(key, entries=(b"two", b"three")))
            rows = await store.read_journal(key, after=1)
            assert [(row.position, row.epoch, row.at_ms) for row in rows] == [
                (2, 1, done.at_ms),
                (3, 1, done.at_ms),
            ]
            row = await find(store, "a")
            assert row.updated_at_ms == done.at_ms == row.created_at_ms + 1_234

    @pytest.mark.parametrize(
        "change",
        [
            {"epoch": 0},
            {"epoch": 2},
            {"position": 0},
            {"position": 2},
            {"epoch": 2, "position": 2},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("make", [append, parked])
    async def test_an_append_under_another_epoch_or_position_writes_nothing(
        self, place: Place, clock: VirtualClock, make: Callable[..., Append], change: dict[str, int]
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            target = await insert_held(store, "target")
            before = await find(store, "a")
            clock.advance(1_000)
            fenced = make(
                key,
                **change,
                completes=True,
                messages=(message(target),),
                children=(new_run("child"),),
            )
            assert await commit_one(store, fenced) == Fenced()
            assert await find(store, "a") == before
            assert await entries_of(store, key) == [b"started"]
            assert await store.find_run("child") is None
            assert await store.read_inbox(target) == []

    async def test_an_append_to_an_unknown_run_is_fenced(self, place: Place) -> None:
        async with place.opened() as store:
            assert await commit_one(store, append(4_711)) == Fenced()
            assert await store.read_journal(4_711) == []

    async def test_the_same_append_is_applied_once(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, append(key))
            assert await commit_one(store, append(key)) == Fenced()
            assert await entries_of(store, key) == [b"started", b"next"]

    async def test_a_run_claimed_again_fences_the_holder_before(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await store.release([(key, 1)])
            assert await claim(store) == ["a"]
            assert await commit_one(store, append(key, epoch=1)) == Fenced()
            assert isinstance(await commit_one(store, append(key, epoch=2)), Applied)

    async def test_an_append_without_entries_changes_the_header_only(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            done = await applied(store, parked(key, entries=(), due_in_ms=MINUTE_MS))
            row = await find(store, "a")
            assert (row.position, row.status, row.worker) == (1, "suspended", None)
            assert row.due_at_ms == done.at_ms + MINUTE_MS
            assert await entries_of(store, key) == [b"started"]

    async def test_an_append_that_goes_on_holding_leaves_the_holder(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            holder = (await find(store, "a")).worker
            await applied(store, append(key, status="suspended", due_at_ms=0))
            row = await find(store, "a")
            assert (row.status, row.worker, row.epoch) == ("suspended", holder, 1)
            assert await claim(store) == []

    @pytest.mark.parametrize(
        ("rule", "due_after_ms"),
        [
            ({}, None),
            ({"due_in_ms": 5_000}, 5_000),
            ({"due_in_ms": 0}, 0),
        ],
        ids=str,
    )
    async def test_a_run_given_back_is_due_after_the_stamp_or_never(
        self, place: Place, clock: VirtualClock, rule: dict[str, int], due_after_ms: int | None
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            clock.advance(777)
            done = await applied(store, parked(key, **rule))
            due = None if due_after_ms is None else done.at_ms + due_after_ms
            assert (await find(store, "a")).due_at_ms == due

    async def test_of_two_due_times_the_earlier_one_holds(self, place: Place) -> None:
        async with place.opened() as store:
            soon, late = await insert_held(store, "a"), await insert_held(store, "b")
            absolute = store.now_ms() + 10_000
            done = await applied(store, parked(soon, due_at_ms=absolute, due_in_ms=3_000))
            assert (await find(store, "a")).due_at_ms == done.at_ms + 3_000
            await applied(store, parked(late, due_at_ms=absolute, due_in_ms=30_000))
            assert (await find(store, "b")).due_at_ms == absolute

    async def test_a_run_given_back_with_due_time_0_is_due_now(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, parked(key, status="running", due_at_ms=0))
            assert await claim(store) == ["a"]

    async def test_giving_back_with_an_unread_message_makes_it_due_now(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key))
            clock.advance(1_000)
            done = await applied(store, parked(key, due_in_ms=MINUTE_MS, messages_read=0))
            assert done.messages_sent == 1
            assert (await find(store, "a")).due_at_ms == done.at_ms
            assert await claim(store) == ["a"]

    async def test_giving_back_with_every_message_read_keeps_the_due_time(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key))
            await applied(store, parked(key, messages_read=1))
            assert (await find(store, "a")).due_at_ms is None
            assert await claim(store) == []

    async def test_a_run_that_is_over_is_never_due_whatever_was_sent(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key))
            await applied(store, parked(key, status="completed", messages_read=None))
            assert (await find(store, "a")).due_at_ms is None
            assert await claim(store) == []

    async def test_an_append_tells_how_many_messages_were_sent(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            assert (await applied(store, append(key))).messages_sent == 0
            await applied(store, message(key, "m-1"))
            await applied(store, message(key, "m-2"))
            assert (await applied(store, append(key, position=2))).messages_sent == 2
