"""Messages by id: to runs whose keys the sender does not know, such as those that it has started."""

from collections.abc import Sequence

import pytest

from holdfast.stores.records import Applied, Fenced, InboxRow, Member, Message, Over, Unread
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    ME,
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
)
from holdfast.testing.contract.tests import Tests


def by_id(run_id: str, message_id: str = "m-1", **changes: object) -> Message:
    """A signal for the run of that id."""
    return message(0, message_id, run_id=run_id, **changes)


class Addressing(Tests):
    """Messages by id."""

    async def test_an_append_reaches_by_id_the_run_that_it_started_before(self, place: Place) -> None:
        async with place.opened() as store:
            parent, other = await insert_held(store, "parent"), await insert_held(store, "other")
            await applied(store, append(parent, children=(new_run("child"),)))
            child = (await find(store, "child")).key
            sent = by_id("child", kind="cancel", name="", payload=b"why")
            done = await applied(store, append(parent, position=2, messages=(sent,)))
            assert await store.read_inbox(child) == [InboxRow(1, "cancel", "", "m-1", b"why", done.at_ms)]
            assert (await find(store, "child")).messages_sent == 1
            assert [await store.read_inbox(key) for key in (parent, other)] == [[], []]

    async def test_a_message_by_id_makes_an_unheld_run_due(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            sender, target = await insert_held(store, "a"), await insert_held(store, "b")
            await applied(store, parked(target))
            assert await claim(store) == []
            clock.advance(1_000)
            sent = await applied(store, append(sender, messages=(by_id("b"),)))
            assert (await find(store, "b")).due_at_ms == sent.at_ms
            assert await claim(store) == ["b"]

    async def test_a_message_by_id_wakes_only_the_statuses_it_names(self, place: Place) -> None:
        async with place.opened() as store:
            sender, target = await insert_held(store, "a"), await insert_held(store, "b")
            await applied(store, parked(target))
            await applied(store, append(sender, messages=(by_id("b", wakes=("paused",)),)))
            assert (await find(store, "b")).due_at_ms is None
            assert [row.id for row in await store.read_inbox(target)] == ["m-1"]

    async def test_a_message_to_an_unknown_id_is_dropped_and_the_append_applied(self, place: Place) -> None:
        async with place.opened() as store:
            sender, target = await insert_held(store, "a"), await insert_held(store, "b")
            messages = (by_id("never", "m-1"), by_id("b", "m-2"), by_id("nor this", "m-3"))
            await applied(store, append(sender, messages=messages))
            assert await entries_of(store, sender) == [b"started", b"next"]
            assert [(row.seq, row.id) for row in await store.read_inbox(target)] == [(1, "m-2")]
            assert await store.read_inbox(0) == []

    async def test_a_message_of_its_own_to_an_unknown_id_is_fenced(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            assert await commit_one(store, by_id("never")) == Fenced()
            outcomes = await store.commit([by_id("never"), append(key), by_id("a")])
            assert [type(outcome) for outcome in outcomes] == [Fenced, Applied, Applied]

    async def test_a_message_of_its_own_by_id_says_whom_it_reached(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            first = await applied(store, by_id("a"))
            assert (first.key, first.messages_sent) == (key, 1)
            second = await applied(store, by_id("a", "m-2"))
            assert (second.key, second.messages_sent) == (key, 2)

    async def test_a_run_that_is_over_drops_what_is_sent_to_its_id(self, place: Place) -> None:
        async with place.opened() as store:
            sender = await insert_held(store, "a")
            over = await insert_ended(store, "b")
            await applied(store, append(sender, messages=(by_id("b"),)))
            assert await store.read_inbox(over) == []
            row = await find(store, "b")
            assert (row.status, row.messages_sent, row.due_at_ms) == ("completed", 0, None)
            assert await commit_one(store, by_id("b")) == Over("completed")

    async def test_what_was_sent_by_id_before_the_run_ended_is_still_acknowledged(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, by_id("a"))
            await applied(store, ended(key, messages_read=1))
            again, late = await store.commit([by_id("a"), by_id("a", "m-2")])
            assert isinstance(again, Applied)
            assert (again.key, again.messages_sent) == (key, 1)
            assert late == Over("completed")

    async def test_one_message_by_key_and_by_id_is_stored_once(self, place: Place) -> None:
        async with place.opened() as store:
            sender, target = await insert_held(store, "a"), await insert_held(store, "b")
            messages = (by_id("b", payload=b"first"), message(target, payload=b"second"))
            await applied(store, append(sender, messages=messages))
            assert (await applied(store, by_id("b", payload=b"third"))).messages_sent == 1
            assert [(row.seq, row.payload) for row in await store.read_inbox(target)] == [(1, b"first")]

    async def test_messages_of_a_group_to_many_ids_are_numbered_in_its_order(self, place: Place) -> None:
        async with place.opened() as store:
            one, two = await insert_held(store, "one"), await insert_held(store, "two")
            # Inserted against the order in which they are named: no order of keys or ids is theirs.
            keys = {run_id: await insert(store, run_id) for run_id in ("z", "y", "x")}
            group = [
                append(
                    two, messages=(by_id("x", "1"), by_id("z", "2"), message(keys["x"], "3"), by_id("x", "4"))
                ),
                append(one, messages=(by_id("x", "5"), by_id("y", "6"), by_id("never", "7"), by_id("z", "8"))),
            ]
            assert [type(outcome) for outcome in await store.commit(group)] == [Applied, Applied]
            inboxes = {run_id: await store.read_inbox(key) for run_id, key in keys.items()}
            assert {run_id: [(row.seq, row.id) for row in rows] for run_id, rows in inboxes.items()} == {
                "x": [(1, "1"), (2, "3"), (3, "4"), (4, "5")],
                "y": [(1, "6")],
                "z": [(1, "2"), (2, "8")],
            }

    async def test_a_fenced_append_sends_nothing_by_id(self, place: Place) -> None:
        async with place.opened() as store:
            good, stale = await insert_held(store, "a"), await insert_held(store, "b")
            target = await insert_held(store, "c")
            await applied(store, parked(target))
            assert await commit_one(store, append(stale, epoch=7, messages=(by_id("c", "never"),))) == Fenced()
            assert (await find(store, "c")).due_at_ms is None
            outcomes = await store.commit(
                [
                    append(stale, position=4, messages=(by_id("c", "never"),)),
                    append(good, messages=(by_id("c", "sent"),)),
                ]
            )
            assert [type(outcome) for outcome in outcomes] == [Fenced, Applied]
            assert [row.id for row in await store.read_inbox(target)] == ["sent"]

    @pytest.mark.parametrize(("incarnation", "arrives"), [(None, True), (1, False), (2, True)])
    async def test_a_message_by_id_reaches_only_the_incarnation_it_is_for(
        self, place: Place, incarnation: int | None, arrives: bool
    ) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            await store.replace(new_run("a"), key=key, epoch=0)
            outcome = await commit_one(store, by_id("a", incarnation=incarnation))
            assert isinstance(outcome, Applied if arrives else Fenced)
            assert len(await store.read_inbox(key)) == int(arrives)

    async def test_a_run_that_was_started_again_is_reached_by_the_same_id(self, place: Place) -> None:
        async with place.opened() as store:
            before = await insert_ended(store, "a")
            assert await store.delete(before)
            assert await commit_one(store, by_id("a")) == Fenced()
            key = await insert(store, "a")
            assert (await applied(store, by_id("a"))).key == key
            assert await store.read_inbox(before) == []

    async def test_no_wake_up_is_lost_between_a_message_by_id_and_parking_in_one_group(
        self, place: Place
    ) -> None:
        async with place.opened() as store:
            for n, order in enumerate([(0, 1), (1, 0)]):
                sender, target = f"sender-{n}", f"target-{n}"
                group: list[Member] = [
                    append(await insert_held(store, sender), messages=(by_id(target),)),
                    parked(await insert_held(store, target), messages_read=0),
                ]
                await store.commit([group[i] for i in order])
                assert await claim(store) == [target]

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=str)
    async def test_of_a_message_by_id_and_an_end_in_one_group_one_is_written(
        self, place: Place, order: Sequence[int]
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            members: list[Member] = [by_id("a"), ended(key)]
            outcomes = await store.commit([members[i] for i in order])
            of_message, of_end = (outcomes[order.index(i)] for i in (0, 1))
            inbox = await store.read_inbox(key)
            if (await find(store, "a")).status == "completed":
                assert isinstance(of_end, Applied)
                assert (of_message, inbox) == (Over("completed"), [])
            else:
                assert isinstance(of_message, Applied)
                assert (of_end, len(inbox)) == (Unread(1), 1)

    @pytest.mark.parametrize("size", [7, 64, 200])
    async def test_many_appends_reach_many_ids(self, place: Place, size: int) -> None:
        async with place.opened() as store:
            senders = await store.commit([new_run(f"sender-{n}", worker=ME) for n in range(size)])
            await store.commit([new_run(f"target-{n}") for n in range(size)])
            group = [
                append(sender.key, messages=(by_id(f"target-{n}"), by_id(f"target-{n // 2}", f"to-half-{n}")))
                for n, sender in enumerate(senders)
                if isinstance(sender, Applied)
            ]
            assert {type(outcome) for outcome in await store.commit(group)} == {Applied}
            counts = [(await find(store, f"target-{n}")).messages_sent for n in range(size)]
            assert counts == [1 + len({2 * n, 2 * n + 1} & set(range(size))) for n in range(size)]
