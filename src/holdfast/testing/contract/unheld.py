"""Appends from outside to runs that nobody holds: control of what is parked, blocked or over."""

import pytest

from holdfast.stores.records import Applied, Fenced, Unread
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
    insert,
    insert_held,
    message,
    new_run,
    parked,
    unheld,
)
from holdfast.testing.contract.tests import Tests


class Unheld(Tests):
    """Appends to runs that nobody holds."""

    async def test_an_append_to_a_run_that_nobody_holds_leaves_the_epoch(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            clock.advance(1_000)
            done = await applied(store, unheld(key, entries=(b"two", b"three")))
            row = await find(store, "a")
            assert (row.status, row.worker, row.epoch, row.position) == ("paused", None, 0, 3)
            assert (row.due_at_ms, row.updated_at_ms) == (None, done.at_ms)
            assert await entries_of(store, key) == [b"started", b"two", b"three"]
            assert [each.epoch for each in await store.read_journal(key)] == [0, 0, 0]

    @pytest.mark.parametrize(
        "status", ["running", "suspended", "paused", "blocked", "completed", "failed", "cancelled"]
    )
    async def test_it_is_applied_whatever_the_status(self, place: Place, status: str) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, parked(key, status=status))
            await applied(store, unheld(key, epoch=1, position=2, status="suspended", due_at_ms=0))
            assert await claim(store) == ["a"]
            assert (await find(store, "a")).epoch == 2

    async def test_a_run_that_is_held_refuses_it(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            before = await find(store, "a")
            refused = unheld(key, epoch=1, messages=(message(key),), children=(new_run("never"),))
            assert await commit_one(store, refused) == Fenced()
            assert await find(store, "a") == before
            assert await entries_of(store, key) == [b"started"]
            assert await store.find_run("never") is None

    async def test_a_run_that_nobody_holds_refuses_an_append_of_a_holder(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            assert await commit_one(store, append(key, epoch=0)) == Fenced()
            assert await commit_one(store, parked(key, epoch=0)) == Fenced()

    @pytest.mark.parametrize("change", [{"epoch": 1}, {"position": 0}, {"position": 2}], ids=str)
    async def test_another_epoch_or_position_refuses_it(self, place: Place, change: dict[str, int]) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            assert await commit_one(store, unheld(key, **change)) == Fenced()
            assert await entries_of(store, key) == [b"started"]

    async def test_an_unknown_run_refuses_it(self, place: Place) -> None:
        async with place.opened() as store:
            assert await commit_one(store, unheld(4_711)) == Fenced()

    async def test_it_is_lost_to_a_claim_that_was_quicker(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            assert await claim(store) == ["a"]
            assert await commit_one(store, unheld(key)) == Fenced()
            assert await commit_one(store, unheld(key, epoch=1)) == Fenced()
            await store.release([(key, 1)])
            assert await commit_one(store, unheld(key)) == Fenced()
            assert isinstance(await commit_one(store, unheld(key, epoch=1)), Applied)

    async def test_a_claim_after_it_reads_what_it_wrote(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            await applied(store, unheld(key, status="suspended", due_at_ms=0))
            assert await claim(store) == ["a"]
            assert await commit_one(store, append(key, position=1)) == Fenced()
            await applied(store, append(key, position=2))

    async def test_a_message_that_was_not_read_makes_the_run_due(self, place: Place) -> None:
        async with place.opened() as store:
            unread, read = await insert(store, "a"), await insert(store, "b")
            await store.commit([message(unread), message(read)])
            done = await applied(store, unheld(unread, due_in_ms=MINUTE_MS, messages_read=0))
            assert (await find(store, "a")).due_at_ms == done.at_ms
            done = await applied(store, unheld(read, due_in_ms=MINUTE_MS, messages_read=1))
            assert (await find(store, "b")).due_at_ms == done.at_ms + MINUTE_MS

    async def test_it_consumes_sends_and_starts(self, place: Place) -> None:
        async with place.opened() as store:
            key, target = await insert(store, "a"), await insert(store, "b")
            await store.commit([message(key, "m-1"), message(key, "m-2")])
            whole = unheld(
                key, consumed=(1,), messages_read=2, messages=(message(target),), children=(new_run("child"),)
            )
            await applied(store, whole)
            assert [row.id for row in await store.read_inbox(key)] == ["m-2"]
            assert [row.id for row in await store.read_inbox(target)] == ["m-1"]
            assert (await find(store, "child")).status == "pending"

    @pytest.mark.parametrize("size", [3, 40])
    async def test_held_and_unheld_runs_share_a_group(self, place: Place, size: int) -> None:
        async with place.opened() as store:
            held = [await insert_held(store, f"held-{n}") for n in range(size)]
            free = [await insert(store, f"free-{n}") for n in range(size)]
            group = [*map(append, held), *map(unheld, free)]
            group[0] = unheld(held[0], epoch=1)
            group[-1] = append(free[-1], epoch=0)
            outcomes = [type(outcome) for outcome in await store.commit(group)]
            assert outcomes == [Fenced, *[Applied] * (2 * size - 2), Fenced]
            for key in (held[0], free[-1]):
                assert await entries_of(store, key) == [b"started"]
            for key in (held[1], free[0]):
                assert await entries_of(store, key) == [b"started", b"next"]

    async def test_it_may_not_end_a_run_with_a_message_that_was_not_read(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            await applied(store, message(key))
            end = unheld(key, status="cancelled")
            assert await commit_one(store, end) == Unread(1)
            await applied(store, unheld(key, status="cancelled", messages_read=1))
            assert (await find(store, "a")).status == "cancelled"
