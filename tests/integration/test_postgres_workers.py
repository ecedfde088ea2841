"""Renewals from their own thread, and hints between processes."""

# ruff: noqa: S608 - own schemas

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from holdfast.errors import LeaseLostError, StoreUnavailableError
from holdfast.stores.postgres.store import PostgresStore
from holdfast.stores.records import LeaseTimes
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import ME, find, insert, insert_held, message, new_run, parked
from tests.postgres_server import migrated_schema, portal, postgres, server_url

LEASE = LeaseTimes()
_LISTENERS = "select pid from pg_stat_activity where query ilike 'listen%' and strpos(query, $1) > 0"


@contextlib.asynccontextmanager
async def opened(make: Callable[[], PostgresStore]) -> AsyncGenerator[PostgresStore]:
    store = make()
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def test_a_renewal_keeps_a_lease_alive(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with opened(postgres(tmp_path, clock)) as store:
        await store.register(ME)
        await insert_held(store, "a")
        renewals = store.renewals()
        try:
            for _ in range(5):
                clock.advance(LEASE.lease_ms - 1)
                assert await asyncio.to_thread(renewals.renew, ME)
            assert await store.reap() == 0
            clock.advance(LEASE.lease_ms)
            assert not await asyncio.to_thread(renewals.renew, ME)
            assert await store.reap() == 1
            assert not await asyncio.to_thread(renewals.renew, ME)
            with pytest.raises(LeaseLostError):
                await store.claim_one(ME, "a")
        finally:
            renewals.close()


async def test_a_renewal_reconnects_after_its_connection_was_lost(tmp_path: Path) -> None:
    async with opened(postgres(tmp_path, VirtualClock())) as store:
        await store.register(ME)
        renewals = store.renewals()
        try:
            assert await asyncio.to_thread(renewals.renew, ME)
            portal().execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where query like '%update%workers%'"
                f" and strpos(query, '{store._address.schema}') > 0 and pid <> pg_backend_pid()"
            )
            with contextlib.suppress(StoreUnavailableError):
                await asyncio.to_thread(renewals.renew, ME)
            assert await asyncio.to_thread(renewals.renew, ME)
        finally:
            renewals.close()


async def test_renewals_can_be_closed_while_one_is_under_way(tmp_path: Path) -> None:
    async with opened(postgres(tmp_path, VirtualClock())) as store:
        await store.register(ME)
        renewals = store.renewals()
        schema = store._address.schema
        begun = threading.Event()

        def renew() -> None:
            begun.set()
            with pytest.raises(StoreUnavailableError):
                renewals.renew(ME)

        renewing = threading.Thread(target=renew)
        portal().execute("begin", f"select from {schema}.workers where id = '{ME}' for update")
        try:
            renewing.start()
            begun.wait()
            renewals.close()
            renewing.join()
        finally:
            portal().execute("rollback")
        renewals.close()
        with pytest.raises(StoreUnavailableError):
            renewals.renew(ME)


async def test_a_renewal_in_vain_ends_in_time() -> None:
    lease = LeaseTimes.of(1_000)
    schema = migrated_schema()
    store = PostgresStore(server_url(), schema=schema, clock=VirtualClock(), lease=lease, hints=False)
    async with opened(lambda: store):
        await store.register(ME)
        renewals = store.renewals()
        portal().execute("begin", f"select from {schema}.workers where id = '{ME}' for update")
        try:
            with pytest.raises(StoreUnavailableError):
                await asyncio.to_thread(renewals.renew, ME)
        finally:
            portal().execute("rollback")
            renewals.close()


async def test_opening_frees_nobodys_runs(tmp_path: Path) -> None:
    make = postgres(tmp_path, VirtualClock())
    async with opened(make) as store:
        await store.register(ME)
        await insert_held(store, "a")
    async with opened(make) as store:
        assert (await find(store, "a")).worker == ME
        assert [run.id for run in await store.held(ME)] == ["a"]


async def test_a_run_held_by_nobody_known_is_freed_by_the_next_reaper(tmp_path: Path) -> None:
    async with opened(postgres(tmp_path, VirtualClock())) as store:
        await store.register(ME)
        await insert_held(store, "lost")
        await insert_held(store, "held")
        portal().execute(f"update {store._address.schema}.runs set worker = 'gone' where id = 'lost'")
        assert await store.reap() == 1
        assert (await find(store, "lost")).worker is None
        assert (await find(store, "held")).worker == ME


class Pair:
    """Two processes, of which the second listens."""

    def __init__(self, sender: PostgresStore, listener: PostgresStore, heard: asyncio.Event) -> None:
        self.sender = sender
        self.listener = listener
        self.heard = heard


@contextlib.asynccontextmanager
async def pair(directory: Path) -> AsyncGenerator[Pair]:
    make = postgres(directory, VirtualClock())
    sender, listener = make(), make()
    heard = asyncio.Event()
    listener.on_hint(heard.set)
    async with opened(lambda: sender), opened(lambda: listener):
        await sender.register(ME)
        await heard.wait()  # once when it begins to listen
        heard.clear()
        yield Pair(sender, listener, heard)


async def test_a_run_left_to_others_is_hinted_at(tmp_path: Path) -> None:
    async with pair(tmp_path) as two:
        await two.sender.commit([new_run("a")])
        await two.heard.wait()


async def test_what_becomes_due_in_any_way_is_hinted_at(tmp_path: Path) -> None:
    async with pair(tmp_path) as two:
        key = await insert_held(two.sender, "a")
        for act in (
            two.sender.commit([parked(key, due_in_ms=0)]),
            two.sender.commit([message(key)]),
            two.sender.retire(ME),
        ):
            two.heard.clear()
            if act.__name__ == "retire":
                await two.sender.claim_one(ME, "a")
            await act
            await two.heard.wait()


async def test_who_sends_a_hint_does_not_hear_it(tmp_path: Path) -> None:
    async with pair(tmp_path) as two:
        hints: list[str] = []
        two.sender.on_hint(lambda: hints.append("heard"))
        await insert(two.sender, "a")
        await two.heard.wait()
        # What the other one says is heard after everything that was said before it.
        heard = asyncio.Event()
        two.sender.on_hint(heard.set)
        await insert(two.listener, "b")
        await heard.wait()
        assert hints == []


async def test_a_step_of_a_held_run_hints_at_nothing(tmp_path: Path) -> None:
    async with pair(tmp_path) as two:
        await insert_held(two.sender, "a")
        assert not two.sender._hints._wanted.is_set()


async def test_a_lost_listener_is_replaced(tmp_path: Path) -> None:
    async with pair(tmp_path) as two:
        schema = two.listener._address.schema
        pids = {row[0] for row in portal().fetch(_LISTENERS, schema)}
        portal().execute(f"select pg_terminate_backend(pid) from unnest(array{sorted(pids)}) as p (pid)")
        await two.heard.wait()  # it listens again, and says so because it may have missed something
        two.heard.clear()
        await insert(two.sender, "a")
        await two.heard.wait()
