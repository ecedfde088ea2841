"""Groups of nothing but steps: one statement of SQLite, which says no to all of it or records all of it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast.runtime.urls import store_at
from holdfast.stores.records import Append, Applied, Fenced, Member, Refused, Unread
from holdfast.stores.sqlite import steps
from holdfast.stores.sqlite.store import SqliteStore
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import append, applied, entries_of, find, insert_held, message, parked

SIZES = (1, 2, 7, 64, 100)
PLAIN = append(1, messages_read=0)


@asynccontextmanager
async def opened(directory: Path) -> AsyncGenerator[tuple[SqliteStore, list[str]]]:
    """A store, and what its writer is told to execute; once more for each thing that a trigger does for it."""
    store = store_at(f"sqlite:///{directory}/runs.db", worker=True, clock=VirtualClock())
    assert isinstance(store, SqliteStore)
    await store.open()
    told: list[str] = []
    writer, _ = store._opened()
    try:
        await store._threads[0].call(lambda: writer.set_trace_callback(told.append))
        yield store, told
    finally:
        await store.close()


@pytest.mark.parametrize("size", SIZES)
async def test_a_group_of_steps_is_one_statement(tmp_path: Path, size: int) -> None:
    async with opened(tmp_path) as (store, told):
        keys = [await insert_held(store, f"r{n}") for n in range(size)]
        told.clear()
        outcomes = await store.commit([append(key, entries=(f"of {key}".encode(),)) for key in keys])
        assert {" ".join(sql.split()[:3]) for sql in told} == {"insert into steps"}, "nor begin and commit"
        assert [outcome.key for outcome in outcomes if isinstance(outcome, Applied)] == keys
        for n, key in enumerate(keys):
            row = await find(store, f"r{n}")
            assert (row.position, row.status, row.worker is None) == (2, "running", False)
            assert await entries_of(store, key) == [b"started", f"of {key}".encode()]


async def test_what_leads_on_beside_a_fenced_one_is_recorded(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, _):
        keys = [await insert_held(store, f"r{n}") for n in range(20)]
        group: list[Member] = [append(key, epoch=2 if n == 13 else 1) for n, key in enumerate(keys)]
        outcomes = await store.commit(group)
        assert [n for n, outcome in enumerate(outcomes) if outcome == Fenced()] == [13]
        assert [len(await entries_of(store, key)) for key in keys] == [1 if n == 13 else 2 for n in range(20)]


async def test_who_has_messages_to_read_is_told_so_and_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, _):
        keys = [await insert_held(store, f"r{n}") for n in range(20)]
        await applied(store, message(keys[3]))
        outcomes = await store.commit([append(key) for key in keys])
        assert [outcome.messages_sent for outcome in outcomes if isinstance(outcome, Applied)] == [
            int(n == 3) for n in range(20)
        ]
        (again,) = await store.commit([append(keys[3], position=2, messages_read=1)])
        assert isinstance(again, Applied)
        assert again.messages_sent == 1


async def test_a_value_that_no_file_can_hold_is_refused_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, _):
        keys = [await insert_held(store, f"r{n}") for n in range(9)]
        large: list[Member] = [append(key, position=2**70 if n == 5 else 1) for n, key in enumerate(keys)]
        outcomes = await store.commit(large)
        assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Refused)] == [5]
        assert sum(isinstance(outcome, Applied) for outcome in outcomes) == 8


async def test_a_step_that_completes_returns_the_count_of_recoveries_to_zero(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, _):
        key = await insert_held(store, "r")
        writer, _reader = store._opened()
        await store._threads[0].call(lambda: writer.execute("update runs set recoveries = 3"))
        await applied(store, append(key, completes=False))
        assert (await find(store, "r")).recoveries == 3
        await applied(store, append(key, position=2, completes=True))
        assert (await find(store, "r")).recoveries == 0


@pytest.mark.parametrize(
    "other",
    [
        parked(1),
        append(1, entries=()),
        append(1, entries=(b"a", b"b")),
        append(1, status="suspended"),
        append(1, messages_read=None),
        append(1, if_read=True),
        append(1, consumed=(1,)),
        append(1, is_held=False),
        append(1, messages=(message(2),)),
    ],
)
def test_only_one_entry_of_a_run_that_goes_on_is_a_step(other: Append) -> None:
    assert PLAIN.is_step()
    assert not other.is_step()


async def test_the_fence_is_in_the_statement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that condition it writes over another worker's epoch."""
    monkeypatch.setattr(steps, "_TRIGGER", steps._TRIGGER.replace("and epoch = new.epoch", ""))
    async with opened(tmp_path) as (store, _):
        keys = [await insert_held(store, f"r{n}") for n in range(20)]
        outcomes = await store.commit([append(key, epoch=2 if n == 13 else 1) for n, key in enumerate(keys)])
        assert not any(outcome == Fenced() for outcome in outcomes), "the fence is in the statement"


async def test_an_end_over_a_message_is_no_step(tmp_path: Path) -> None:
    async with opened(tmp_path) as (store, _):
        key = await insert_held(store, "r")
        await applied(store, message(key))
        (outcome,) = await store.commit([parked(key, status="completed")])
        assert outcome == Unread(1)
