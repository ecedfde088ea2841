"""A flow with fork, join and retry, crashed before and after every single commit."""

import asyncio
from pathlib import Path

import pytest

from holdfast.testing.faults import Fault, FaultyStore
from tests.integration.crashing import (
    CALLS,
    OUTPUT,
    at,
    completed,
    enabled,
    entries_of,
    never,
    run_once,
    run_until_crash,
    stores,
)

KINDS = ["memory", "sqlite", "postgres"]
FAULTS = [Fault.CRASH_BEFORE, Fault.CRASH_AFTER]


async def _calm(kind: str, folder: Path) -> tuple[int, list[object]]:
    """Commits and journal of a run without a fault."""
    reopen = stores(kind, folder)
    store = FaultyStore(reopen(), never)
    CALLS.clear()
    assert await run_once(store) == OUTPUT
    _, entries = await entries_of(reopen())
    return store.commits, list(entries)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_fault_every_body_runs_exactly_once(kind: str, tmp_path: Path) -> None:
    """Invariant 11."""
    commits, entries = asyncio.run(_calm(kind, tmp_path))
    assert commits >= 8
    assert len(entries) == 11
    assert set(CALLS.values()) == {1}
    assert len(CALLS) == 8  # six steps, one of them in three attempts


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_at_any_commit_gives_the_same_journal(kind: str, fault: Fault, tmp_path: Path) -> None:
    """Invariants 1, 2, 3, 13: nothing acknowledged is lost, nothing recorded runs again."""
    calm = tmp_path / "calm"
    calm.mkdir()
    commits, expected = asyncio.run(_calm(kind, calm))
    for number in range(1, commits + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        asyncio.run(_crash_at(number, fault, kind, folder, expected))


async def _crash_at(number: int, fault: Fault, kind: str, folder: Path, expected: list[object]) -> None:
    reopen = stores(kind, folder)
    CALLS.clear()
    assert await run_until_crash(FaultyStore(reopen(), at(number, fault))), number
    _, before = await entries_of(reopen())
    assert before == expected[: len(before)], number
    calls = CALLS.copy()
    assert calls.keys() <= enabled(before), number
    assert await run_once(reopen()) == OUTPUT
    record, entries = await entries_of(reopen())
    assert entries == expected, number
    assert record is not None
    assert record.status == "completed"
    for key in completed(before):
        assert CALLS[key] == calls[key] == 1, (number, key)
    repeated = {key for key, count in CALLS.items() if count > 1}
    assert all(CALLS[key] == 2 and calls[key] == 1 for key in repeated), number


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_at_every_commit_one_after_the_other_gives_the_same_journal(kind: str, tmp_path: Path) -> None:
    """Each process gets just one commit further than the one before, and the run still ends."""
    calm = tmp_path / "calm"
    calm.mkdir()
    commits, expected = asyncio.run(_calm(kind, calm))

    async def limp() -> int:
        reopen = stores(kind, tmp_path)
        crashes = 0
        while await run_until_crash(FaultyStore(reopen(), at(3, Fault.CRASH_BEFORE))):
            crashes += 1
            assert crashes < 40
            _, before = await entries_of(reopen())
            assert before == expected[: len(before)]
        _, entries = await entries_of(reopen())
        assert entries == expected
        return crashes

    assert 4 <= asyncio.run(limp()) <= commits
