"""Messages: numbered in their order, stored once per id, consumed by an append, and waking who waits.

An append may give back what earlier ones have consumed.
"""

import pytest

from holdfast.stores.base import Store
from holdfast.stores.records import Append, Applied, Fenced, InboxRow, Member, Unread
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    ME,
    MINUTE_MS,
    Place,
    append,
    applied,
    claim,
    commit_one,
    ended,
    entries_of,
    find,
    insert,
    insert_held,
    message,
    new_run,
    parked,
)
from holdfast.testing.contract.tests import Tests


async def consumed(store: Store, key: int, sent: int, *seqs: int) -> tuple[InboxRow, ...]:
    """Send a held run, which has one entry, so many messages, and consume some of them: those, as they were."""
    await store.commit([message(key, f"m-{n}", payload=b"%d" % n) for n in range(1, sent + 1)])
    rows = tuple(row for row in await store.read_inbox(key) if row.seq in seqs)
    await applied(store, append(key, consumed=seqs, messages_read=sent))
    return rows


async def inbox_of(store: Store, key: int) -> list[int]:
    """The numbers of a run's messages, which all ways to read them agree on."""
    rows = await store.read_inbox(key)
    (stored,) = await store.load([key])
    assert list(stored.inbox) == rows
    assert await store.pending(key) == len(rows)
    return [row.seq for row in rows]


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

    async def test_returned_messages_are_read_again_as_they_were_and_in_their_old_order(
        self, place: Place, clock: VirtualClock
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            await store.commit(
                [
                    message(key, "m-1", name="one"),
                    message(key, "m-2", name="two", payload=b""),
                    message(key, "m-3", kind="outcome", name="child", payload=b"\x00\xff"),
                    message(key, "m-4", name="four"),
                ]
            )
            clock.advance(1_000)
            await applied(store, message(key, "m-5", name="five"))
            before = await store.read_inbox(key)
            await applied(store, append(key, consumed=(2, 3, 5), messages_read=5))
            await applied(store, message(key, "m-6", name="six"))
            clock.advance(1_000)
            back = (before[4], before[1], before[2])
            await applied(store, append(key, position=2, returned=back, messages_read=5))
            rows = await store.read_inbox(key)
            assert rows[:5] == before
            assert [row.id for row in rows] == ["m-1", "m-2", "m-3", "m-4", "m-5", "m-6"]
            assert await inbox_of(store, key) == [1, 2, 3, 4, 5, 6]
            assert [row.seq for row in await store.read_inbox(key, after=2)] == [3, 4, 5, 6]
        async with place.opened() as store:
            assert await store.read_inbox(key) == rows

    async def test_returned_messages_are_pending_and_were_sent_once(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            rows = await consumed(store, key, 3, 1, 2, 3)
            assert await store.pending(key) == 0
            done = await applied(store, append(key, position=2, returned=rows[:2], messages_read=3))
            assert await store.pending(key) == 2
            assert (await find(store, "a")).messages_sent == done.messages_sent == 3
            assert await store.counts(ME) == [(key, 3)]
            assert (await applied(store, message(key, "m-4"))).messages_sent == 4
            assert await inbox_of(store, key) == [1, 2, 4]

    @pytest.mark.parametrize("changes", [{"epoch": 2}, {"position": 1}, {"worker": None, "is_held": False}])
    async def test_a_fenced_append_returns_nothing(self, place: Place, changes: dict[str, object]) -> None:
        async with place.opened() as store:
            key, other = await insert_held(store, "a"), await insert_held(store, "b")
            rows = await consumed(store, key, 2, 1, 2)
            stale = append(key, **({"position": 2, "returned": rows, "messages_read": 2} | changes))
            assert await commit_one(store, stale) == Fenced()
            assert await store.commit([append(other), stale]) == [
                Applied(store.now_ms(), other),
                Fenced(),
            ]
            assert await inbox_of(store, key) == []

    @pytest.mark.parametrize("refused", [append(0, if_read=True), parked(0, if_read=True), ended(0)])
    async def test_an_append_that_must_be_read_first_returns_nothing(
        self, place: Place, refused: Append
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            rows = await consumed(store, key, 2, 1)
            facts = {name: getattr(refused, name) for name in ("status", "worker", "if_read")}
            over = append(key, position=2, returned=rows, messages_read=1, **facts)
            assert await commit_one(store, over) == Unread(2)
            assert await inbox_of(store, key) == [2]
            await applied(store, append(key, position=2, returned=rows, messages_read=2, **facts))
            assert await inbox_of(store, key) == [1, 2]

    async def test_an_append_to_an_unheld_run_returns_messages(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            rows = await consumed(store, key, 2, 1, 2)
            await applied(store, parked(key, position=2, messages_read=2))
            outside = parked(key, position=3, is_held=False, messages_read=2, returned=rows)
            await applied(store, outside)
            assert await inbox_of(store, key) == [1, 2]
            assert (await find(store, "a")).due_at_ms is None

    async def test_a_returned_message_is_consumed_and_returned_again(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            one, two = await consumed(store, key, 3, 1, 2)
            await applied(store, append(key, position=2, returned=(one, two), messages_read=3))
            await applied(store, append(key, position=3, consumed=(1, 3), messages_read=3))
            assert await inbox_of(store, key) == [2]
            swapped = append(key, position=4, consumed=(2,), returned=(one,), messages_read=3)
            await applied(store, swapped)
            assert await store.read_inbox(key) == [one]
            await applied(store, append(key, position=5, consumed=(1,), messages_read=3))
            assert await inbox_of(store, key) == []

    async def test_a_returned_message_that_is_sent_again_is_still_the_same_message(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            rows = await consumed(store, key, 2, 1, 2)
            group: list[Member] = [
                message(key, "m-2", payload=b"before"),
                append(key, position=2, returned=rows, messages_read=2),
                message(key, "m-1", payload=b"after"),
            ]
            assert await store.commit(group) == [Applied(store.now_ms(), key, 2)] * 3
            assert (await applied(store, message(key, "m-1", payload=b"later"))).messages_sent == 2
            assert await store.read_inbox(key) == list(rows)
            await applied(store, append(key, position=3, consumed=(1, 2), messages_read=2))
            assert (await applied(store, message(key, "m-1"))).messages_sent == 2
            assert await inbox_of(store, key) == []

    async def test_messages_that_are_returned_twice_are_there_once(self, place: Place) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            rows = await consumed(store, key, 4, 1, 2, 3)
            again = append(key, position=2, entries=(), returned=rows[:2], messages_read=4)
            await applied(store, again)
            assert (await applied(store, again)).messages_sent == 4
            assert await inbox_of(store, key) == [1, 2, 4]
            await applied(store, append(key, position=2, returned=rows, messages_read=4))
            assert (await store.read_inbox(key))[:3] == list(rows)
            assert await inbox_of(store, key) == [1, 2, 3, 4]

    async def test_returned_messages_make_nobody_due(self, place: Place) -> None:
        async with place.opened() as store:
            key, later = await insert_held(store, "a"), await insert_held(store, "b")
            for each, changes in ((key, {}), (later, {"due_in_ms": MINUTE_MS})):
                rows = await consumed(store, each, 2, 1, 2)
                back = parked(each, position=2, returned=rows, messages_read=2, **changes)
                done = await applied(store, back)
                assert await inbox_of(store, each) == [1, 2]
            assert (await find(store, "a")).due_at_ms is None
            assert (await find(store, "b")).due_at_ms == done.at_ms + MINUTE_MS
            assert await claim(store) == []
            await applied(store, message(key, "m-3"))
            assert await claim(store) == ["a"]

    @pytest.mark.parametrize("keep_inbox", [True, False])
    async def test_a_run_that_goes_on_with_its_inbox_takes_returned_messages_along(
        self, place: Place, *, keep_inbox: bool
    ) -> None:
        async with place.opened() as store:
            key = await insert_held(store, "a")
            rows = await consumed(store, key, 3, 1, 3)
            await applied(store, append(key, position=2, returned=rows[:1], messages_read=3))
            await store.replace(new_run("a", worker=ME), key=key, epoch=1, keep_inbox=keep_inbox)
            assert await inbox_of(store, key) == ([1, 2] if keep_inbox else [])
            if keep_inbox:
                await applied(store, append(key, epoch=2, returned=rows[1:], messages_read=3))
                assert await inbox_of(store, key) == [1, 2, 3]
                assert (await applied(store, message(key, "m-3"))).messages_sent == 3

    @pytest.mark.parametrize("size", [3, 64, 300])
    async def test_every_append_of_a_group_returns_to_its_own_run(self, place: Place, size: int) -> None:
        async with place.opened() as store:
            inserted = await store.commit([new_run(f"run-{n}", worker=ME) for n in range(size)])
            keys = [outcome.key for outcome in inserted if isinstance(outcome, Applied)]
            await store.commit([message(key, f"{key}-{n}") for key in keys for n in (1, 2, 3)])
            inboxes = [stored.inbox for stored in await store.load(keys)]
            await store.commit([append(key, consumed=(1, 2), messages_read=3) for key in keys])
            # Of each five: one returns a message, one both, one none, one is fenced, and one also consumes.
            shapes: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = [
                *((1, (2,), ()), (1, (1, 2), ()), (1, (), ())),
                *((7, (1, 2), (3,)), (1, (1,), (3,))),
            ]
            group: list[Member] = []
            for n, key in enumerate(keys):
                epoch, back, used = shapes[n % 5]
                returned = tuple(row for row in inboxes[n] if row.seq in back)
                facts = {"position": 2, "consumed": used, "returned": returned, "messages_read": 3}
                group += [append(key, epoch=epoch, **facts), message(key, f"{key}-4")]
            outcomes = await store.commit(group)
            assert [isinstance(outcome, Fenced) for outcome in outcomes[::2]] == [
                n % 5 == 3 for n in range(size)
            ]
            left = [(2, 3, 4), (1, 2, 3, 4), (3, 4), (3, 4), (1, 4)]
            for n, stored in enumerate(await store.load(keys)):
                assert tuple(row.seq for row in stored.inbox) == left[n % 5]
                assert set(stored.inbox[:-1]) <= set(inboxes[n])
                assert len(await entries_of(store, keys[n])) == (2 if n % 5 == 3 else 3)
