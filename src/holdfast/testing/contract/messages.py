"""Messages: numbered in their order, stored once per id, consumed by an append, and waking who waits."""

import pytest

from holdfast.stores.records import Applied, Fenced, Member
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    MINUTE_MS,
    Place,
    append,
    applied,
    claim,
    commit_one,
    find,
    insert,
    insert_held,
    message,
    parked,
)
from holdfast.testing.contract.tests import Tests


class Messages(Tests):
    """Inboxes."""

    async def test_messages_are_numbered_in_the_order_they_were_sent(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            first = await applied(store, message(key, "m-1", name="one", payload=b"1"))
            group = [message(key, "m-2", name="two", payload=b"2"), message(key, "m-3", kind="cancel", name="")]
            outcomes = await store.commit(group)
            counts = [o.messages_sent for o in [first, *outcomes] if isinstance(o, Applied)]
            assert counts == [1, 2, 3]
            rows = await store.read_inbox(key)
            assert [(row.seq, row.kind, row.name, row.id, row.payload) for row in rows] == [
                (1, "signal", "one", "m-1", b"1"),
                (2, "signal", "two", "m-2", b"2"),
                (3, "cancel", "", "m-3", b"yes"),
            ]
            assert rows[0].at_ms == first.at_ms
            assert [row.id for row in await store.read_inbox(key, after=1)] == ["m-2", "m-3"]
            assert (await find(store, "a")).messages_sent == 3

    async def test_every_run_counts_its_own_messages(self, place: Place) -> None:
        async with place.opened() as store:
            one, two = await insert_held(store, "a"), await insert_held(store, "b")
            await store.commit([message(one, "x"), message(two, "x"), message(two, "y")])
            assert [(row.seq, row.id) for row in await store.read_inbox(one)] == [(1, "x")]
            assert [(row.seq, row.id) for row in await store.read_inbox(two)] == [(1, "x"), (2, "y")]

    async def test_a_message_sent_twice_is_stored_once(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key, payload=b"first"))
            again = await applied(store, message(key, payload=b"second"))
            assert again.messages_sent == 1
            twice = await store.commit([message(key, "m-2"), message(key, "m-2")])
            assert [outcome.messages_sent for outcome in twice if isinstance(outcome, Applied)] == [2, 2]
            assert [(row.seq, row.payload) for row in await store.read_inbox(key)] == [
                (1, b"first"),
                (2, b"yes"),
            ]

    async def test_a_message_sent_again_after_it_was_consumed_stays_consumed(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key))
            await applied(store, append(key, consumed=(1,), messages_read=1))
            assert (await applied(store, message(key))).messages_sent == 1
            assert await store.read_inbox(key) == []
            assert (await applied(store, message(key, "m-2"))).messages_sent == 2

    @pytest.mark.parametrize(("incarnation", "arrives"), [(None, True), (1, True), (0, False), (2, False)])
    async def test_a_message_for_another_incarnation_is_dropped(
        self, place: Place, incarnation: int | None, arrives: bool
    ) -> None:
        async with place.opened() as store:
            key = await insert(store, "a")
            outcome = await commit_one(store, message(key, incarnation=incarnation))
            assert isinstance(outcome, Applied if arrives else Fenced)
            assert len(await store.read_inbox(key)) == int(arrives)
            assert (await find(store, "a")).messages_sent == int(arrives)

    async def test_a_message_for_an_unknown_run_is_dropped(self, place: Place) -> None:
        async with place.opened() as store:
            assert await commit_one(store, message(4_711)) == Fenced()
            assert await store.read_inbox(4_711) == []

    async def test_a_message_makes_an_unheld_run_due(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, parked(key))
            assert await claim(store) == []
            clock.advance(1_000)
            sent = await applied(store, message(key))
            assert (await find(store, "a")).due_at_ms == sent.at_ms
            assert await claim(store) == ["a"]

    async def test_a_message_leaves_the_due_time_of_a_held_run(self, place: Place, clock: VirtualClock) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            before = await find(store, "a")
            clock.advance(1_000)
            await applied(store, message(key))
            after = await find(store, "a")
            assert (after.due_at_ms, after.worker) == (before.due_at_ms, before.worker)
            assert await claim(store) == []

    @pytest.mark.parametrize(
        ("status", "wakes", "is_due"),
        [
            ("suspended", ("pending", "running", "suspended"), True),
            ("running", ("running",), True),
            ("paused", ("pending", "running", "suspended"), False),
            ("paused", ("paused",), True),
            ("suspended", ("suspend",), False),
            ("suspended", (), False),
        ],
        ids=str,
    )
    async def test_a_message_wakes_only_the_statuses_it_names(
        self, place: Place, status: str, wakes: tuple[str, ...], is_due: bool
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, parked(key, status=status))
            await applied(store, message(key, wakes=wakes))
            assert ((await find(store, "a")).due_at_ms is not None) is is_due
            assert await claim(store) == (["a"] if is_due else [])

    async def test_a_message_that_was_there_already_wakes_nobody(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key))
            await applied(store, parked(key, messages_read=1))
            await applied(store, message(key))
            assert (await find(store, "a")).due_at_ms is None

    async def test_messages_are_consumed_with_the_append_that_used_them(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await store.commit([message(key, f"m-{n}") for n in range(1, 5)])
            await applied(store, append(key, consumed=(2, 3), messages_read=4))
            assert [row.seq for row in await store.read_inbox(key)] == [1, 4]

    async def test_a_fenced_append_consumes_nothing(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await applied(store, message(key))
            assert await commit_one(store, append(key, epoch=2, consumed=(1,))) == Fenced()
            assert [row.seq for row in await store.read_inbox(key)] == [1]

    async def test_an_append_sends_messages_in_its_own_transaction(self, place: Place) -> None:
        async with place.opened() as store:
            sender, target = await insert_held(store, "a"), await insert_held(store, "b")
            await applied(store, parked(target, due_in_ms=MINUTE_MS))
            sent = await applied(
                store, append(sender, messages=(message(target, kind="outcome", name="child"),))
            )
            assert [(row.kind, row.name) for row in await store.read_inbox(target)] == [("outcome", "child")]
            assert (await find(store, "b")).due_at_ms == sent.at_ms

    async def test_no_wake_up_is_lost_between_a_message_and_parking_in_one_group(self, place: Place) -> None:
        async with place.opened() as store:
            for n, order in enumerate([(0, 1), (1, 0)]):
                key = await insert_held(store, f"run-{n}")
                group: list[Member] = [message(key), parked(key, messages_read=0)]
                await store.commit([group[i] for i in order])
                assert await claim(store) == [f"run-{n}"]

    async def test_no_wake_up_is_lost_between_a_sender_and_a_parking_run_in_one_group(
        self, place: Place
    ) -> None:
        async with place.opened() as store:
            for n, order in enumerate([(0, 1), (1, 0)]):
                sender = await insert_held(store, f"sender-{n}")
                target = await insert_held(store, f"target-{n}")
                group: list[Member] = [
                    append(sender, messages=(message(target),)),
                    parked(target, messages_read=0),
                ]
                await store.commit([group[i] for i in order])
                assert await claim(store) == [f"target-{n}"]
