"""The end of a run: not over the head of a message that was acknowledged, and none is taken after it."""

from collections.abc import Sequence

import pytest

from holdfast.stores.records import ENDED, Append, Applied, Fenced, Message, Over, Unread
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    ME,
    Place,
    append,
    applied,
    commit_one,
    ended,
    entries_of,
    find,
    insert_ended,
    insert_held,
    message,
    new_run,
    parked,
)
from holdfast.testing.contract.tests import Tests

SIZES = [1, 7, 8, 100]
"""Of groups: stores have other statements for many rows than for few."""


class Endings(Tests):
    """Ends of runs, and what is sent to runs around them."""

    @pytest.mark.parametrize("status", sorted(ENDED))
    async def test_a_message_that_was_not_read_refuses_the_end(
        self, place: Place, clock: VirtualClock, status: str
    ) -> None:
        async with place.opened() as store:
            key, target = await insert_held(store, "a"), await insert_held(store, "target")
            await applied(store, message(key))
            before = await find(store, "a")
            clock.advance(1_000)
            spawns = {"messages": (message(target),), "children": (new_run("never"),)}
            end = ended(key, status, consumed=(1,), completes=True, **spawns)
            assert await commit_one(store, end) == Unread(1)
            assert await find(store, "a") == before
            assert await entries_of(store, key) == [b"started"]
            assert [row.seq for row in await store.read_inbox(key)] == [1]
            assert await store.read_inbox(target) == []
            assert await store.find_run("never") is None

    async def test_the_end_is_written_once_the_messages_are_read(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await store.commit([message(key, "m-1"), message(key, "m-2")])
            assert await commit_one(store, ended(key, messages_read=0)) == Unread(2)
            assert await commit_one(store, ended(key, messages_read=1)) == Unread(2)
            done = await applied(store, ended(key, messages_read=2))
            assert done.messages_sent == 2
            row = await find(store, "a")
            assert (row.status, row.worker, row.due_at_ms) == ("completed", None, None)

    async def test_an_end_that_reads_nothing_is_written_whatever_was_sent(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key))
            assert (await applied(store, ended(key, messages_read=None))).messages_sent == 1
            assert (await find(store, "a")).due_at_ms is None

    @pytest.mark.parametrize("size", SIZES)
    async def test_what_says_that_nothing_came_is_refused_if_something_did(
        self, place: Place, size: int
    ) -> None:
        async with place.opened() as store:
            keys = [await insert_held(store, f"run-{n}") for n in range(size)]
            await applied(store, message(keys[-1]))
            goes_on = [append(key, if_read=True) for key in keys]
            outcomes = await store.commit(goes_on)
            assert [type(outcome) for outcome in outcomes] == [Applied] * (size - 1) + [Unread]
            assert await entries_of(store, keys[-1]) == [b"started"]
            assert await commit_one(store, parked(keys[-1], if_read=True, messages_read=0)) == Unread(1)
            assert (await applied(store, append(keys[-1], if_read=True, messages_read=1))).messages_sent == 1

    @pytest.mark.parametrize("change", [{"epoch": 2}, {"position": 2}, {"epoch": 0}], ids=str)
    async def test_who_is_fenced_hears_of_no_message(self, place: Place, change: dict[str, int]) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key))
            assert await commit_one(store, ended(key, "failed", **change)) == Fenced()

    async def test_what_goes_on_may_leave_messages_unread(self, place: Place) -> None:
        async with place.opened() as store:
            goes_on, parks = await insert_held(store, "a"), await insert_held(store, "b")
            await store.commit([message(goes_on), message(parks)])
            outcomes = await store.commit([append(goes_on), parked(parks, status="paused")])
            assert [type(outcome) for outcome in outcomes] == [Applied, Applied]

    @pytest.mark.parametrize("size", SIZES)
    async def test_only_the_ends_with_unread_messages_are_refused_in_a_group(
        self, place: Place, size: int
    ) -> None:
        async with place.opened() as store:
            inserted = await store.commit([new_run(f"run-{n}", worker=ME) for n in range(size)])
            keys = [outcome.key for outcome in inserted if isinstance(outcome, Applied)]
            unread, fenced = set(keys[::3]), set(keys[1::6])
            await store.commit([message(key) for key in keys if key in unread])
            group = [ended(key, epoch=2 if key in fenced else 1) for key in keys]
            expected = [Unread if key in unread else Fenced if key in fenced else Applied for key in keys]
            assert [type(outcome) for outcome in await store.commit(group)] == expected
            again = [ended(key, messages_read=1) for key in keys if key in unread]
            assert {type(outcome) for outcome in await store.commit(again)} == {Applied}
            for n, key in enumerate(keys):
                row = await find(store, f"run-{n}")
                is_over = key not in fenced
                assert (row.status, row.position) == (("completed", 2) if is_over else ("running", 1))
                assert len(await entries_of(store, key)) == row.position

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
    async def test_of_a_message_and_an_end_in_one_group_one_is_written(
        self, place: Place, order: Sequence[int]
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            members: list[Message | Append] = [message(key), ended(key)]
            outcomes = await store.commit([members[i] for i in order])
            of_message, of_end = (outcomes[order.index(i)] for i in (0, 1))
            row, inbox = await find(store, "a"), await store.read_inbox(key)
            if row.status == "completed":
                assert isinstance(of_end, Applied)
                assert (of_message, inbox) == (Over("completed"), [])
            else:
                assert isinstance(of_message, Applied)
                assert (of_end, len(inbox)) == (Unread(1), 1)

    @pytest.mark.parametrize("status", sorted(ENDED))
    async def test_a_run_that_is_over_takes_no_message(self, place: Place, status: str) -> None:
        async with place.opened() as store:
            key = await insert_ended(store, "a", status)
            before = await find(store, "a")
            for wakes in ((), (status,)):
                assert await commit_one(store, message(key, wakes=wakes)) == Over(status)
            assert await find(store, "a") == before
            assert await store.read_inbox(key) == []

    async def test_a_run_that_was_over_at_once_takes_no_message(self, place: Place) -> None:
        async with place.opened() as store:
            key = (await applied(store, new_run("a", over="failed"))).key
            assert await commit_one(store, message(key)) == Over("failed")

    async def test_a_message_that_was_stored_before_the_end_is_acknowledged_after_it(
        self, place: Place
    ) -> None:
        async with place.opened() as store:
            key, other = await insert_held(store, "a"), await insert_ended(store, "b")
            await store.commit([message(key, "kept"), message(key, "consumed")])
            await applied(store, ended(key, messages_read=2, consumed=(2,)))
            for _ in range(2):
                for message_id in ("kept", "consumed"):
                    assert (await applied(store, message(key, message_id))).messages_sent == 2
                assert await commit_one(store, message(key, "new")) == Over("completed")
            assert await commit_one(store, message(other, "kept")) == Over("completed")
            assert [row.id for row in await store.read_inbox(key)] == ["kept"]

    async def test_a_message_to_another_incarnation_is_dropped_also_where_that_is_over(
        self, place: Place
    ) -> None:
        async with place.opened() as store:
            key = await insert_ended(store, "a")
            assert await commit_one(store, message(key, incarnation=2)) == Fenced()
            assert await commit_one(store, message(key, incarnation=1)) == Over("completed")

    @pytest.mark.parametrize("size", SIZES)
    async def test_what_an_append_sends_to_a_run_that_is_over_is_dropped(self, place: Place, size: int) -> None:
        async with place.opened() as store:
            gone, target = await insert_ended(store, "gone"), await insert_held(store, "target")
            keys = [await insert_held(store, f"run-{n}") for n in range(size)]
            group = [append(key, messages=(message(gone, f"{key}"), message(target, f"{key}"))) for key in keys]
            assert {type(outcome) for outcome in await store.commit(group)} == {Applied}
            assert await store.read_inbox(gone) == []
            assert (await find(store, "gone")).messages_sent == 0
            assert len(await store.read_inbox(target)) == size

    async def test_a_run_that_goes_on_again_takes_messages_again(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_ended(store, "a", "failed")
            assert await commit_one(store, message(key)) == Over("failed")
            await applied(store, parked(key, position=2, is_held=False))
            assert (await applied(store, message(key))).messages_sent == 1
