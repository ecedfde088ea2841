"""Commits that fail, and commits that work and are reported as failed."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from holdfast import AsyncEngine, Flow, errors
from holdfast.stores import group_commit
from holdfast.stores.group_commit import GroupCommit
from holdfast.stores.records import Append, Applied, Fenced, Member, NewRun
from holdfast.testing.faults import Fault, FaultyStore
from tests.integration.crashing import CALLS, FLOW, OUTPUT, at, entries_of, never, run_once, stores

KINDS = ["memory", "sqlite", "postgres"]


@pytest.fixture(autouse=True)
def _quick_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "REPEAT_FIRST_S", 0.001)


@pytest.mark.parametrize("fault", [Fault.APPLY_AND_FAIL, Fault.REFUSE])
@pytest.mark.parametrize("kind", KINDS)
def test_a_commit_of_unknown_outcome_is_neither_repeated_nor_lost(
    kind: str, fault: Fault, tmp_path: Path
) -> None:
    """Invariants 6 and 18, at every commit of a run; row 27."""

    async def calm() -> tuple[int, list[object]]:
        folder = tmp_path / "calm"
        folder.mkdir()
        reopen = stores(kind, folder)
        store = FaultyStore(reopen(), never)
        assert await run_once(store) == OUTPUT
        return store.commits, list((await entries_of(reopen()))[1])

    async def faulty(number: int, expected: list[object]) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        reopen = stores(kind, folder)
        store = FaultyStore(reopen(), at(number, fault))
        CALLS.clear()
        assert await run_once(store) == OUTPUT
        assert store.hits[fault] == 1
        assert set(CALLS.values()) == {1}, number
        assert (await entries_of(reopen()))[1] == expected, number

    commits, expected = asyncio.run(calm())
    for number in range(1, commits + 1):
        asyncio.run(faulty(number, expected))


@pytest.mark.parametrize("kind", KINDS)
def test_every_commit_may_be_reported_as_failed(kind: str, tmp_path: Path) -> None:
    """Each write is hidden once; the second try finds it there."""

    def every_first_try(number: int, group: Sequence[Member]) -> Fault:
        del group
        return Fault.APPLY_AND_FAIL if number % 2 else Fault.NONE

    async def main() -> None:
        reopen = stores(kind, tmp_path)
        store = FaultyStore(reopen(), every_first_try)
        CALLS.clear()
        assert await run_once(store) == OUTPUT
        assert set(CALLS.values()) == {1}
        assert store.hits[Fault.APPLY_AND_FAIL] >= 8

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_another_append_at_a_position_that_is_taken_stays_fenced(kind: str, tmp_path: Path) -> None:
    """Invariant 6: only the identical append is recognized as one's own."""

    async def main() -> None:
        inner = stores(kind, tmp_path)()
        await inner.open()
        new = NewRun(id="a", workflow="w", fingerprint="f", entries=(b"1",), input_digest=b"", worker="me")
        (started,) = await inner.commit([new])
        assert isinstance(started, Applied)
        other = Append(started.key, 1, 1, (b"other",), "running", 0, "me")
        await inner.commit([other])

        store = FaultyStore(inner, at(1, Fault.REFUSE))
        group = GroupCommit(store)
        running = asyncio.ensure_future(group.run())
        mine = Append(started.key, 1, 1, (b"mine",), "running", 0, "me")
        assert await group.commit(mine) == Fenced()
        assert isinstance(await group.commit(other), Fenced)
        running.cancel()
        await inner.close()

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_taken_by_someone_else_is_not_mistaken_for_ones_own_repeated_start(
    kind: str, tmp_path: Path
) -> None:
    """A start that had to be repeated still says that the id exists, if it was there before."""

    async def main() -> None:
        reopen = stores(kind, tmp_path)
        other = Flow("other").then(_identity, name="only")
        async with AsyncEngine(store=reopen(), workflows=[other]) as engine:
            await (await engine.start(other, 5, id="taken")).result()
        store = FaultyStore(reopen(), at(1, Fault.REFUSE))
        async with AsyncEngine(store=store, workflows=[FLOW]) as engine:
            with pytest.raises(errors.RunExistsError):
                await engine.start(FLOW, 1, id="taken")

    asyncio.run(main())


def test_a_store_that_is_down_for_a_while_fails_no_run(tmp_path: Path) -> None:
    """Invariants 18 and 41: everything waits, then goes on."""

    def down(number: int, group: Sequence[Member]) -> Fault:
        del group
        return Fault.REFUSE if 3 <= number <= 12 else Fault.NONE

    async def main() -> None:
        store = FaultyStore(stores("sqlite", tmp_path)(), down)
        CALLS.clear()
        assert await run_once(store) == OUTPUT
        assert store.hits[Fault.REFUSE] == 10
        assert set(CALLS.values()) == {1}

    asyncio.run(main())


async def _identity(x: int) -> int:
    return x
