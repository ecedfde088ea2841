"""Snapshots: a cache that changes nothing but the time of a recovery."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from holdfast.codecs.entries import decode_entry
from holdfast.codecs.snapshots import decode_run, encode_run
from holdfast.core.evolve import evolve
from holdfast.core.run import Branch, Run
from holdfast.runtime import snapshots
from holdfast.runtime.folds import fold
from holdfast.runtime.host import Driven
from holdfast.stores.base import Store
from holdfast.stores.records import Member, Outcome, Snapshot
from holdfast.testing.faults import Choose, Fault, FaultyStore
from tests.integration.crashing import (
    CALLS,
    OUTPUT,
    RUN_ID,
    at,
    entries_of,
    run_once,
    run_until_crash,
    stores,
)

KINDS = ["memory", "sqlite", "postgres"]


def _facts(thing: Run | Branch) -> dict[str, object]:
    """All slots, with those of branches inside."""
    facts = {name: getattr(thing, name) for name in type(thing).__slots__}
    if isinstance(thing, Run):
        facts["branches"] = {name: _facts(branch) for name, branch in thing.branches.items()}
    return facts


@pytest.fixture(autouse=True)
def _snapshot_at_every_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots.Snapshots, "take", _always)


def _always(one: snapshots.Snapshots, driver: Driven, _entries: Sequence[bytes]) -> None:
    one._host.save_snapshot(driver, encode_run(driver.run))


async def _opened(store: Store) -> Store:
    await store.open()
    return store


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_and_the_tail_fold_to_what_the_whole_journal_folds_to(kind: str, tmp_path: Path) -> None:
    """Invariant 5, at every position."""

    async def main() -> None:
        reopen = stores(kind, tmp_path)
        assert await run_once(reopen()) == OUTPUT
        store = await _opened(reopen())
        record = await store.find_run(RUN_ID)
        assert record is not None
        rows = await store.read_journal(record.key)
        entries = [decode_entry(r.entry, run_id=RUN_ID, position=r.position) for r in rows]
        run, states = Run(RUN_ID), []
        for entry, row in zip(entries, rows, strict=True):
            evolve(run, entry, row.at_ms)
            states.append(encode_run(run))
        for position, state in enumerate(states, start=1):
            copy = decode_run(RUN_ID, state)
            assert copy is not None
            assert encode_run(copy) == state
            for entry, row in zip(entries[position:], rows[position:], strict=True):
                evolve(copy, entry, row.at_ms)
            assert _facts(copy) == _facts(run), position
        await store.close()

    asyncio.run(main())


class OrderlyStore(FaultyStore):
    """Lets no commit overtake a snapshot: at the crash, every one that was taken is there."""

    def __init__(self, inner: Store, choose: Choose) -> None:
        super().__init__(inner, choose)
        self._turn = asyncio.Lock()

    async def save_snapshot(self, key: int, epoch: int, snapshot: Snapshot) -> None:
        async with self._turn:
            await super().save_snapshot(key, epoch, snapshot)

    async def commit(self, group: Sequence[Member]) -> list[Outcome]:
        async with self._turn:
            return await super().commit(group)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recovery_from_a_snapshot_gives_the_same_journal(kind: str, tmp_path: Path) -> None:
    """Crashed at every commit, with a snapshot after every one that worked."""

    async def main() -> None:
        calm = tmp_path / "calm"
        calm.mkdir()
        reopen = stores(kind, calm)
        assert await run_once(reopen()) == OUTPUT
        _, expected = await entries_of(reopen())
        used = 0
        for number in range(3, 9):
            folder = tmp_path / str(number)
            folder.mkdir()
            reopen = stores(kind, folder)
            CALLS.clear()
            assert await run_until_crash(OrderlyStore(reopen(), at(number, Fault.CRASH_AFTER)))
            store = await _opened(reopen())
            record = await store.find_run(RUN_ID)
            assert record is not None
            snapshot = (await store.load([record.key]))[0].snapshot
            used += snapshot is not None and snapshot.position > 1
            await store.close()
            assert await run_once(reopen()) == OUTPUT
            assert (await entries_of(reopen()))[1] == expected
        assert used >= 5

    asyncio.run(main())


@pytest.mark.parametrize("state", [b"", b"\xc1", encode_run(Run("x"))[:-1], b"\x91\x09"])
def test_a_snapshot_that_cannot_be_read_is_passed_over(state: bytes, tmp_path: Path) -> None:
    """The journal is the truth; a cache only helps."""

    async def main() -> None:
        reopen = stores("sqlite", tmp_path)
        assert await run_once(reopen()) == OUTPUT
        store = await _opened(reopen())
        record = await store.find_run(RUN_ID)
        assert record is not None
        await store.save_snapshot(record.key, record.epoch, Snapshot(5, state))
        assert (await fold(store, record))[0].position == record.position
        await store.close()

    asyncio.run(main())


def test_equal_payloads_stand_once_in_a_snapshot() -> None:
    """Branches share values."""
    run = Run("x")
    run.input = b"json.1:" + b"1" * 1_000
    for name in "abcd":
        run.branches[name] = Branch(name, None, run.input)
    assert len(encode_run(run)) < 1_500
