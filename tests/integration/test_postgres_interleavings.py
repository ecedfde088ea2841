"""Transactions that meet on one row of a real server, in the order that the test chooses.

A side connection holds a lock; what is to meet there is started, and waited for until the server itself shows
it waiting for that lock; then the lock is let go.
"""

# ruff: noqa: S608, SIM117, ASYNC110 - own schemas; what waits for a lock stands inside of it; a server is asked

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from holdfast.errors import LeaseLostError
from holdfast.stores.postgres.store import PostgresStore
from holdfast.stores.records import (
    Append,
    Applied,
    Fenced,
    LeaseTimes,
    Member,
    Outcome,
    Over,
    Snapshot,
    Stored,
    Unread,
)
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import (
    ME,
    append,
    applied,
    entries_of,
    find,
    insert,
    insert_held,
    message,
    new_run,
    parked,
)
from tests.postgres_server import postgres, server_url

OTHER = "worker-other"
LEASE = LeaseTimes()
_WAITING = """
select count(*) from pg_stat_activity
where wait_event_type = 'Lock' and state = 'active' and strpos(query, $1) > 0
"""


class Table:
    """Stores over one schema, and a side connection that holds locks."""

    def __init__(self, stores: Sequence[PostgresStore], side: Any, clock: VirtualClock) -> None:  # noqa: ANN401 - untyped
        self.stores = stores
        self.store = stores[0]
        self.side = side
        self.clock = clock
        self.schema = self.store._address.schema
        self._begun: list[asyncio.Task[Any]] = []

    @asynccontextmanager
    async def locked(self, statement: str, *args: object) -> AsyncGenerator[None]:
        """Hold what the statement locks while the block runs."""
        async with self.side.transaction():
            await self.side.execute(statement.replace("{schema}", self.schema), *args)
            yield

    def run_locked(self, key: int) -> Any:  # noqa: ANN401 - a context
        return self.locked("select from {schema}.runs where key = $1 for update", key)

    async def waiting(self, count: int) -> None:
        """Until so many transactions of this schema wait for a lock."""
        probe = await asyncpg.connect(server_url())
        try:
            while await probe.fetchval(_WAITING, f'"{self.schema}"') < count:
                await asyncio.sleep(0)
        finally:
            await probe.close()

    async def all_waiting(
        self, tasks: asyncio.TaskGroup, *started: Coroutine[Any, Any, Any]
    ) -> list[asyncio.Task[Any]]:
        """Start one after the other, each when the one before it is waiting for a lock."""
        begun = []
        for coroutine in started:
            begun.append(tasks.create_task(coroutine))
            await self.waiting(len(begun))
        return begun


@asynccontextmanager
async def laid(directory: Path, count: int = 2) -> AsyncGenerator[Table]:
    clock = VirtualClock()
    make: Callable[[], PostgresStore] = postgres(directory, clock, lease=LEASE, hints=False)
    side = await asyncpg.connect(server_url())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(side.close)
        stores = [make() for _ in range(count)]
        for store in stores:
            await store.open()
            stack.push_async_callback(store.close)
        await stores[0].register(ME)
        await stores[-1].register(OTHER)
        yield Table(stores, side, clock)


async def claimed_ids(store: PostgresStore, worker: str = ME) -> list[str]:
    return [run.id for run in (await store.claim(worker, workflows=["order"], limit=100)).runs]


async def test_a_claim_passes_over_what_another_claim_is_taking(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        taken = await insert(table.store, "taken")
        await insert(table.store, "free")
        async with table.run_locked(taken):
            assert await claimed_ids(table.store) == ["free"]
        assert await claimed_ids(table.store) == ["taken"]


async def test_many_claims_at_once_take_every_run_once(tmp_path: Path) -> None:
    async with laid(tmp_path, count=4) as table:
        await table.store.commit([new_run(f"run-{n}") for n in range(200)])
        claims = [store.claim(ME, workflows=["order"], limit=20) for store in table.stores for _ in range(5)]
        taken = [run for found in await asyncio.gather(*claims) for run in found.runs]
        assert len({run.id for run in taken}) == len(taken)
        assert {run.epoch for run in taken} == {1}
        while rest := await claimed_ids(table.store):
            assert not set(rest) & {run.id for run in taken}
            taken += [await find(table.store, run_id) for run_id in rest]
        assert len(taken) == 200


async def test_a_reaper_passes_over_a_worker_that_is_claiming(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        key = await insert(table.store, "a")
        async with table.locked("select from {schema}.workers where id = $1 for key share", ME):
            await table.side.execute(
                f'update "{table.schema}".runs set worker = $1, epoch = epoch + 1 where key = $2', ME, key
            )
            table.clock.advance(LEASE.lease_ms)
            await table.stores[1].reap()
            assert (await find(table.store, "a")).worker is None
        # The claim was first: its run is found in the next snapshot.
        assert (await find(table.store, "a")).worker == ME
        assert await table.stores[1].reap() == 1
        row = await find(table.store, "a")
        assert (row.worker, row.recoveries, row.due_at_ms) == (None, 1, table.clock.wall_ms())


async def test_a_claim_that_meets_a_reaper_holds_nothing(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        await insert(table.store, "a")
        async with asyncio.TaskGroup() as tasks:
            async with table.locked("delete from {schema}.workers where id = $1", ME):
                (claiming,) = await table.all_waiting(tasks, lost(table.store))
        assert claiming.result()
        assert (await find(table.store, "a")).worker is None


async def lost(store: PostgresStore) -> bool:
    with pytest.raises(LeaseLostError):
        await store.claim(ME, workflows=["order"], limit=10)
    return True


async def test_a_new_run_that_meets_a_reaper_is_left_to_others(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        async with asyncio.TaskGroup() as tasks:
            async with table.locked("delete from {schema}.workers where id = $1", ME):
                (inserting,) = await table.all_waiting(tasks, table.store.commit([new_run("a", worker=ME)]))
        (outcome,) = inserting.result()
        assert isinstance(outcome, Applied)
        assert not outcome.is_held
        row = await find(table.store, "a")
        assert (row.worker, row.status, row.epoch) == (None, "pending", 0)
        assert await claimed_ids(table.stores[1], OTHER) == ["a"]


async def test_a_renewal_that_meets_a_reaper_learns_that_it_is_dead(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        renewals = table.store.renewals()
        try:
            async with asyncio.TaskGroup() as tasks:
                async with table.locked("delete from {schema}.workers where id = $1", ME):
                    (renewing,) = await table.all_waiting(tasks, asyncio.to_thread(renewals.renew, ME))
            assert renewing.result() is False
        finally:
            renewals.close()


async def test_a_reaper_passes_over_a_worker_that_is_renewing(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        await insert_held(table.store, "a")
        renewal = "update {schema}.workers set expires_at_ms = expires_at_ms + 60000 where id = $1"
        async with table.locked(renewal, ME):
            table.clock.advance(LEASE.lease_ms)
            assert await table.stores[1].reap() == 0
        assert await table.stores[1].reap() == 0
        assert (await find(table.store, "a")).worker == ME


@pytest.mark.parametrize("ends_first", [True, False])
async def test_a_run_that_ends_while_it_is_reaped_has_ended_or_goes_on(
    tmp_path: Path, ends_first: bool
) -> None:
    async with laid(tmp_path) as table:
        key = await insert_held(table.store, "a")
        table.clock.advance(LEASE.lease_ms)
        end = parked(key, status="completed", messages_read=None)
        calls: list[Coroutine[Any, Any, Any]] = [table.store.commit([end]), table.stores[1].reap()]
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            await table.all_waiting(tasks, *(calls if ends_first else reversed(calls)))
        row = await find(table.store, "a")
        if ends_first:
            assert (row.status, row.worker, row.due_at_ms, row.recoveries) == ("completed", None, None, 0)
            assert await entries_of(table.store, key) == [b"started", b"next"]
        else:
            assert (row.status, row.worker, row.recoveries) == ("running", None, 1)
            assert await entries_of(table.store, key) == [b"started"]
            await table.store.register("next")
            assert await claimed_ids(table.store, "next") == ["a"]


@pytest.mark.parametrize("park_first", [True, False])
@pytest.mark.parametrize("size", [1, 3])
async def test_no_wake_up_is_lost_between_a_message_and_parking(
    tmp_path: Path, park_first: bool, size: int
) -> None:
    async with laid(tmp_path) as table:
        keys = [await insert_held(table.store, f"run-{n}") for n in range(size)]
        calls = [
            table.store.commit([parked(key) for key in keys]),
            table.stores[1].commit([message(key) for key in keys]),
        ]
        async with asyncio.TaskGroup() as tasks, table.run_locked(keys[0]):
            await table.all_waiting(tasks, *(calls if park_first else reversed(calls)))
        assert await claimed_ids(table.store) == [f"run-{n}" for n in range(size)]
        assert [len(await table.store.read_inbox(key)) for key in keys] == [1] * size


@pytest.mark.parametrize("parent_first", [True, False])
async def test_no_end_of_a_child_is_lost_while_its_parent_parks(tmp_path: Path, parent_first: bool) -> None:
    async with laid(tmp_path) as table:
        parent = await insert_held(table.store, "parent")
        child = await insert_held(table.store, "child")
        calls = [
            table.store.commit([parked(parent)]),
            table.stores[1].commit([ended(child, parent)]),
        ]
        async with asyncio.TaskGroup() as tasks, table.run_locked(parent):
            await table.all_waiting(tasks, *(calls if parent_first else reversed(calls)))
        assert await claimed_ids(table.store) == ["parent"]
        assert [row.kind for row in await table.store.read_inbox(parent)] == ["outcome"]
        assert (await find(table.store, "child")).status == "completed"


def ended(child: int, parent: int) -> Append:
    outcome = message(parent, f"outcome-{child}", kind="outcome", incarnation=1)
    return parked(child, status="completed", messages_read=None, messages=(outcome,))


@pytest.mark.parametrize("parent_first", [True, False])
async def test_no_end_of_a_child_is_lost_in_one_group_with_its_parent(
    tmp_path: Path, parent_first: bool
) -> None:
    async with laid(tmp_path) as table:
        parent, child = [await insert_held(table.store, run_id) for run_id in ("parent", "child")]
        group = [parked(parent), ended(child, parent)]
        outcomes = await table.store.commit(group if parent_first else group[::-1])
        assert all(isinstance(outcome, Applied) for outcome in outcomes)
        assert await claimed_ids(table.store) == ["parent"]
        assert (await find(table.store, "parent")).messages_sent == 1


async def test_a_thousand_messages_of_one_group_are_numbered_in_its_order(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        key = await insert_held(table.store, "a")
        group: list[Member] = [message(key, f"m-{n}") for n in range(1_000)]
        group.insert(500, parked(key, messages_read=3))
        outcomes = await table.store.commit(group)
        assert all(isinstance(outcome, Applied) for outcome in outcomes)
        rows = await table.store.read_inbox(key)
        assert [(row.seq, row.id) for row in rows] == [(n + 1, f"m-{n}") for n in range(1_000)]
        assert (await find(table.store, "a")).messages_sent == 1_000
        assert await claimed_ids(table.store) == ["a"]


async def test_one_message_sent_by_two_at_once_is_one(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        key = await insert_held(table.store, "a")
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            sends = [store.commit([message(key), message(key, "m-2")]) for store in table.stores]
            begun = await table.all_waiting(tasks, *sends)
        for task in begun:
            assert all(isinstance(outcome, Applied) for outcome in task.result())
        assert [(row.seq, row.id) for row in await table.store.read_inbox(key)] == [(1, "m-1"), (2, "m-2")]
        assert (await find(table.store, "a")).messages_sent == 2


async def test_crossing_groups_wait_for_one_another_but_never_for_ever(tmp_path: Path) -> None:
    rounds, size = 30, 40
    async with laid(tmp_path) as table:
        mine = [await insert_held(table.store, f"mine-{n}") for n in range(size)]
        theirs = [await insert(table.stores[1], f"theirs-{n}", worker=OTHER) for n in range(size)]

        async def cross(store: PostgresStore, own: Sequence[int], others: Sequence[int], name: str) -> None:
            for turn in range(rounds):
                group: list[Member] = [
                    append(key, position=turn + 1, messages=(message(other, f"{name}-{turn}-{key}"),))
                    for key, other in zip(own, others, strict=True)
                ]
                group += [new_run(f"shared-{turn}-{n}") for n in range(10)]
                outcomes: list[Outcome] = await store.commit(group)
                assert all(isinstance(outcome, Applied) for outcome in outcomes[:size])

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(cross(table.store, mine, theirs[::-1], "mine"))
            tasks.create_task(cross(table.stores[1], theirs[::-1], mine, "theirs"))
        for name in ("mine", "theirs"):
            for n in range(size):
                row = await find(table.store, f"{name}-{n}")
                assert (row.position, row.messages_sent) == (rounds + 1, rounds)
        listed = await table.store.list_runs(status="pending", workflow=None, limit=1_000, after=None)
        assert len(listed) == rounds * 10


async def test_a_message_makes_an_unheld_run_due_once_its_row_is_free(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        key = await insert_held(table.store, "a")
        await applied(table.store, parked(key))
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            await table.all_waiting(tasks, table.store.commit([message(key)]))
            table.clock.advance(1_000)
        # Stamped after the lock, not when it was asked for.
        assert (await find(table.store, "a")).due_at_ms == table.clock.wall_ms()


FORMS = ["bare", "many", "group"]


async def end_in(table: Table, form: str, **changes: object) -> tuple[int, list[Member]]:
    """A held run, and a group that ends it in one of the forms of the statement."""
    key = await insert_held(table.store, "a")
    group: list[Member] = [parked(key, status="completed", **changes)]
    if form == "many":
        group.append(parked(await insert_held(table.store, "behind"), status="completed"))
    if form == "group":
        other = await insert_held(table.store, "other")
        group.insert(0, append(other, messages=(message(other),)))
    return key, group


def outcome_for(key: int, group: Sequence[Member], outcomes: Sequence[Outcome]) -> Outcome:
    (found,) = (
        outcome
        for member, outcome in zip(group, outcomes, strict=True)
        if isinstance(member, Append) and member.key == key
    )
    return found


@pytest.mark.parametrize("form", FORMS)
async def test_a_run_does_not_end_beside_a_message_that_came_while_it_waited(tmp_path: Path, form: str) -> None:
    async with laid(tmp_path) as table:
        key, group = await end_in(table, form)
        calls = [table.stores[1].commit([message(key)]), table.store.commit(group)]
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            _, ending = await table.all_waiting(tasks, *calls)
        outcomes = ending.result()
        assert outcome_for(key, group, outcomes) == Unread(1)
        assert [type(outcome) for outcome in outcomes].count(Applied) == len(group) - 1
        row = await find(table.store, "a")
        assert (row.status, row.worker, row.position, row.messages_sent) == ("running", ME, 1, 1)
        assert await entries_of(table.store, key) == [b"started"]
        await applied(table.store, parked(key, status="completed", messages_read=1, consumed=(1,)))


@pytest.mark.parametrize("form", FORMS)
async def test_a_run_that_was_given_back_while_its_end_waited_does_not_end(tmp_path: Path, form: str) -> None:
    async with laid(tmp_path) as table:
        key, group = await end_in(table, form)
        calls = [table.stores[1].commit([parked(key, entries=())]), table.store.commit(group)]
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            _, ending = await table.all_waiting(tasks, *calls)
        assert outcome_for(key, group, ending.result()) == Fenced()
        assert (await find(table.store, "a")).status == "suspended"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end_first", [True, False])
@pytest.mark.parametrize("looks", [True, False])
async def test_a_message_that_meets_an_end_is_stored_or_refused(
    tmp_path: Path, form: str, end_first: bool, looks: bool
) -> None:
    async with laid(tmp_path) as table:
        key, group = await end_in(table, form, messages_read=0 if looks else None)
        calls = [table.store.commit(group), table.stores[1].commit([message(key)])]
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            begun = await table.all_waiting(tasks, *(calls if end_first else reversed(calls)))
        ending, sending = begun if end_first else reversed(begun)
        end = outcome_for(key, group, ending.result())
        (sent,) = sending.result()
        if end_first:
            assert (type(end), sent) == (Applied, Over("completed"))
        else:
            assert (type(end), type(sent)) == (Unread if looks else Applied, Applied)
        stored = [] if end_first else ["m-1"]
        assert [row.id for row in await table.store.read_inbox(key)] == stored
        assert (await find(table.store, "a")).messages_sent == len(stored)
        # What was refused was not remembered either, and what was stored is.
        (again,) = await table.store.commit([message(key)])
        assert isinstance(again, Over if end_first else Applied)


async def test_a_message_sent_twice_around_an_end_was_stored(tmp_path: Path) -> None:
    async with laid(tmp_path, count=3) as table:
        key = await insert_held(table.store, "a")
        calls = [
            table.stores[1].commit([message(key)]),
            table.store.commit([parked(key, status="cancelled", messages_read=None)]),
            table.stores[2].commit([message(key), message(key, "m-2")]),
        ]
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            _, _, again = await table.all_waiting(tasks, *calls)
        assert again.result() == [Applied(table.clock.wall_ms(), key, 1), Over("cancelled")]


async def test_what_stands_before_an_end_in_its_group_is_unread_and_what_stands_behind_it_is_too_late(
    tmp_path: Path,
) -> None:
    async with laid(tmp_path) as table:
        first, second, third = [await insert_held(table.store, run_id) for run_id in "abc"]
        ends = [parked(key, status="failed") for key in (first, second, third)]
        outcomes = await table.store.commit(
            [message(first), ends[0], message(first, "m-2"), ends[1], message(second), ends[2]]
        )
        at_ms = table.clock.wall_ms()
        assert outcomes == [
            *(Applied(at_ms, first, 1), Unread(1), Applied(at_ms, first, 2)),
            *(Applied(at_ms, second), Over("failed"), Applied(at_ms, third)),
        ]
        assert (await find(table.store, "a")).status == "running"
        # What was stored before is not one more message.
        end = parked(first, status="failed", messages_read=2)
        assert isinstance((await table.store.commit([message(first), end]))[1], Applied)


async def test_what_stands_before_an_append_in_its_group_meets_the_run_as_it_was(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        revived, closed = await failed_run(table, "revived"), await failed_run(table, "closed")
        ends, other = [await insert_held(table.store, run_id) for run_id in ("ends", "other")]
        outcomes = await table.store.commit(
            [
                *(message(revived), retried(revived), message(revived, "m-2")),
                *(message(closed), parked(closed, position=2, status="cancelled", is_held=False)),
                *(message(ends), parked(ends, status="completed", messages_read=None)),
                # For a run of that id that is not there: nobody will read it.
                *(message(other, incarnation=2), parked(other, status="completed")),
            ]
        )
        at_ms = table.clock.wall_ms()
        assert outcomes == [
            *(Over("failed"), Applied(at_ms, revived, 1), Applied(at_ms, revived, 1)),
            *(Over("failed"), Applied(at_ms, closed)),
            *(Applied(at_ms, ends, 1), Applied(at_ms, ends, 1)),
            *(Fenced(), Applied(at_ms, other)),
        ]
        assert [row.id for row in await table.store.read_inbox(revived)] == ["m-2"]


async def test_what_an_end_sends_to_a_run_that_ends_beside_it_is_dropped(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        parent, child = [await insert_held(table.store, run_id) for run_id in ("parent", "child")]
        outcomes = await table.store.commit([ended(child, parent), parked(parent, status="failed")])
        assert [type(outcome) for outcome in outcomes] == [Applied, Applied]
        assert (await find(table.store, "parent")).messages_sent == 0


async def failed_run(table: Table, run_id: str, **changes: object) -> int:
    key = await insert_held(table.store, run_id, **changes)
    await applied(table.store, parked(key, status="failed"))
    return key


def retried(key: int, position: int = 2) -> Append:
    """A failed run goes on, by the word of someone outside."""
    return parked(key, position=position, status="pending", due_at_ms=0, is_held=False)


@pytest.mark.parametrize("claim_first", [True, False])
async def test_a_claim_and_an_append_from_outside_follow_one_another(tmp_path: Path, claim_first: bool) -> None:
    async with laid(tmp_path) as table:
        key = await insert(table.store, "a")
        outside = parked(key, epoch=0, status="paused", is_held=False)
        calls: list[Coroutine[Any, Any, Any]] = [
            table.stores[1].claim_one(OTHER, "a"),
            table.store.commit([outside]),
        ]
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            begun = await table.all_waiting(tasks, *(calls if claim_first else reversed(calls)))
        claiming, appending = begun if claim_first else reversed(begun)
        claimed, (outcome,) = claiming.result(), appending.result()
        assert (claimed.worker, claimed.epoch) == (OTHER, 1)
        if claim_first:
            assert (claimed.status, claimed.position, outcome) == ("running", 1, Fenced())
        else:
            assert (claimed.status, claimed.position, type(outcome)) == ("paused", 2, Applied)
        assert len(await entries_of(table.store, key)) == claimed.position


async def test_an_append_from_outside_looks_for_a_holder_behind_the_lock(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        key = await insert(table.store, "a")
        outside = parked(key, epoch=0, status="paused", is_held=False)
        async with asyncio.TaskGroup() as tasks:
            # Nobody holds a run without a new epoch; if someone did, this would see it.
            async with table.locked("update {schema}.runs set worker = 'someone' where key = $1", key):
                (appending,) = await table.all_waiting(tasks, table.store.commit([outside]))
        assert appending.result() == [Fenced()]


@pytest.mark.parametrize("retry_first", [True, False])
async def test_a_run_is_deleted_or_goes_on(tmp_path: Path, retry_first: bool) -> None:
    async with laid(tmp_path) as table:
        key = await failed_run(table, "a")
        calls: list[Coroutine[Any, Any, Any]] = [
            table.store.commit([retried(key)]),
            table.stores[1].delete(key),
        ]
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            begun = await table.all_waiting(tasks, *(calls if retry_first else reversed(calls)))
        retrying, deleting = begun if retry_first else reversed(begun)
        assert deleting.result() is not retry_first
        if retry_first:
            assert await entries_of(table.store, key) == [b"started", b"next", b"next"]
            assert await claimed_ids(table.store) == ["a"]
        else:
            assert retrying.result() == [Fenced()]
            assert await table.store.find_run("a") is None
            assert await entries_of(table.store, key) == []


@pytest.mark.parametrize("retry_first", [True, False])
async def test_a_child_is_not_deleted_under_a_parent_that_goes_on(tmp_path: Path, retry_first: bool) -> None:
    async with laid(tmp_path) as table:
        parent = await failed_run(table, "parent")
        child = await failed_run(table, "child", parent_key=parent, parent_incarnation=1, parent_step=b"step")
        calls: list[Coroutine[Any, Any, Any]] = [
            table.store.commit([retried(parent)]),
            table.stores[1].delete(child),
        ]
        async with asyncio.TaskGroup() as tasks, table.run_locked(parent if retry_first else child):
            begun = await table.all_waiting(tasks, *(calls if retry_first else reversed(calls)))
        retrying, deleting = begun if retry_first else reversed(begun)
        assert isinstance(retrying.result()[0], Applied)
        assert deleting.result() is not retry_first
        assert (await table.store.find_run("child") is None) is not retry_first


async def test_a_run_that_another_parent_has_started_anew_is_not_deleted(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        parent = await insert_held(table.store, "parent")
        key = await failed_run(table, "a")
        anew = new_run("a", over="completed", parent_key=parent, parent_incarnation=1, parent_step=b"step")
        calls: list[Coroutine[Any, Any, Any]] = [
            table.store.replace(anew, key=key, epoch=1),
            table.stores[1].delete(key),
        ]
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            replacing, deleting = await table.all_waiting(tasks, *calls)
        assert isinstance(replacing.result(), Applied)
        assert not deleting.result()
        assert (await find(table.store, "a")).incarnation == 2


@pytest.mark.parametrize("append_first", [True, False])
async def test_a_new_run_takes_the_place_of_all_that_its_holder_wrote(
    tmp_path: Path, append_first: bool
) -> None:
    async with laid(tmp_path) as table:
        key = await insert_held(table.store, "a")
        await table.store.save_snapshot(key, 1, Snapshot(1, b"state"))
        group = [append(key, entries=(b"2", b"3")), message(key)]
        replacing = table.stores[1].replace(
            new_run("a", entries=(b"anew", b"and on"), worker=OTHER), key=key, epoch=1
        )
        calls: list[Coroutine[Any, Any, Any]] = [table.store.commit(group), replacing]
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            begun = await table.all_waiting(tasks, *(calls if append_first else reversed(calls)))
        appending, replaced = begun if append_first else reversed(begun)
        outcome = replaced.result()
        assert (type(outcome), outcome.key, outcome.is_held) == (Applied, key, True)
        (appended, sent) = appending.result()
        assert (type(appended), type(sent)) == (Applied if append_first else Fenced, Applied)
        row = await find(table.store, "a")
        assert (row.incarnation, row.epoch, row.position, row.worker) == (2, 2, 2, OTHER)
        (stored,) = await table.store.load([key])
        assert stored.snapshot is None
        assert [entry.entry for entry in stored.journal] == [b"anew", b"and on"]
        assert [each.seq for each in stored.inbox] == ([] if append_first else [1])
        # Its ids were forgotten with it.
        assert (await table.store.commit([message(key)]))[0] == Applied(table.clock.wall_ms(), key, 1)


@pytest.mark.parametrize("message_first", [True, False])
async def test_no_message_is_lost_between_its_sender_and_a_run_that_keeps_its_inbox(
    tmp_path: Path, message_first: bool
) -> None:
    async with laid(tmp_path) as table:
        key = await insert_held(table.store, "a")
        sender = await insert_held(table.store, "sender")
        await applied(table.store, message(key))
        replacing = table.stores[1].replace(new_run("a"), key=key, epoch=1, keep_inbox=True)
        sent = append(sender, messages=(message(0, "m-2", run_id="a"),))
        calls: list[Coroutine[Any, Any, Any]] = [table.store.commit([sent]), replacing]
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            begun = await table.all_waiting(tasks, *(calls if message_first else reversed(calls)))
        sending, replaced = begun if message_first else reversed(begun)
        assert isinstance(sending.result()[0], Applied)
        assert replaced.result().messages_sent == (2 if message_first else 1)
        assert [(each.seq, each.id) for each in await table.store.read_inbox(key)] == [(1, "m-1"), (2, "m-2")]
        row = await find(table.store, "a")
        assert (row.incarnation, row.messages_sent, row.worker) == (2, 2, None)


async def test_a_run_in_the_place_of_another_that_meets_a_reaper_is_left_to_others(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        key = await insert(table.store, "a")
        replacing = table.store.replace(new_run("a", worker=ME), key=key, epoch=0)
        async with asyncio.TaskGroup() as tasks:
            async with table.locked("delete from {schema}.workers where id = $1", ME):
                (replaced,) = await table.all_waiting(tasks, replacing)
        assert not replaced.result().is_held
        row = await find(table.store, "a")
        assert (row.worker, row.status, row.epoch) == (None, "pending", 1)


async def test_a_sweep_passes_over_what_someone_has_locked(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        parent = await failed_run(table, "parent")
        await failed_run(table, "child", parent_key=parent, parent_incarnation=1, parent_step=b"step")
        await failed_run(table, "free")
        await insert(table.store, "over at once", over="failed")
        table.clock.advance(1_000)

        async def swept(limit: int) -> int:
            before_ms = table.clock.wall_ms()
            return await table.store.sweep("order", "failed", before_ms=before_ms, limit=limit)

        async with table.run_locked(parent):
            # Nor is a child swept whose parent may be about to go on.
            assert await swept(limit=100) == 2
        assert [await table.store.find_run(run_id) is None for run_id in ("child", "free")] == [False, True]
        assert await swept(limit=1) == 1
        assert await swept(limit=100) == 1
        assert await swept(limit=100) == 0


async def test_what_is_loaded_is_of_one_moment(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        key = await insert_held(table.store, "a")
        await table.store.commit([message(key)])
        seen: list[Stored] = []

        async def look() -> None:
            while (await find(table.store, "a")).position < 100:
                seen.extend(await table.stores[1].load([key]))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(look())
            for turn in range(1, 100):
                # Each consumes the message before it, and sends one.
                following = message(key, f"m-{turn + 1}")
                await applied(table.store, append(key, position=turn, consumed=(turn,), messages=(following,)))
        assert seen
        for stored in seen:
            assert [each.seq for each in stored.inbox] == [stored.journal[-1].position]


async def test_a_run_that_a_later_incarnation_has_started_anew_is_not_deleted(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        parent = await insert_held(table.store, "parent")
        key = await failed_run(table, "a", parent_key=parent, parent_incarnation=1, parent_step=b"step")
        await table.store.replace(new_run("parent", worker=ME), key=parent, epoch=1)
        anew = new_run("a", over="completed", parent_key=parent, parent_incarnation=2, parent_step=b"step")
        calls = [table.store.replace(anew, key=key, epoch=1), table.stores[1].delete(key)]
        async with asyncio.TaskGroup() as tasks, table.run_locked(key):
            replacing, deleting = await table.all_waiting(tasks, *calls)
        assert isinstance(replacing.result(), Applied)
        assert not deleting.result()
        assert (await find(table.store, "a")).incarnation == 2


async def test_a_child_of_a_parent_that_begins_anew_meanwhile_is_deleted(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        parent = await insert_held(table.store, "parent")
        child = await failed_run(table, "child", parent_key=parent, parent_incarnation=1, parent_step=b"step")
        calls = [
            table.store.replace(new_run("parent", worker=ME), key=parent, epoch=1),
            table.stores[1].delete(child),
        ]
        async with asyncio.TaskGroup() as tasks, table.run_locked(parent):
            replacing, deleting = await table.all_waiting(tasks, *calls)
        assert isinstance(replacing.result(), Applied)
        assert deleting.result()


async def test_a_sweep_of_forsaken_children_does_not_mind_a_locked_parent(tmp_path: Path) -> None:
    async with laid(tmp_path) as table:
        parent = await insert_held(table.store, "parent")
        await failed_run(table, "old", parent_key=parent, parent_incarnation=1, parent_step=b"step")
        await table.store.replace(new_run("parent", worker=ME), key=parent, epoch=1)
        await failed_run(table, "new", parent_key=parent, parent_incarnation=2, parent_step=b"step")
        table.clock.advance(1_000)
        async with table.run_locked(parent):
            assert await table.store.sweep("order", "failed", before_ms=table.clock.wall_ms(), limit=9) == 1
        assert await table.store.find_run("old") is None
        assert await table.store.find_run("new") is not None
