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
from holdfast.stores.records import Append, Applied, LeaseTimes, Member, Outcome
from holdfast.testing.contract.place import (
    ME,
    ManualClock,
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

    def __init__(self, stores: Sequence[PostgresStore], side: Any, clock: ManualClock) -> None:  # noqa: ANN401 - untyped
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
    clock = ManualClock()
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
