"""Families of runs whose workers are killed at random moments: every child once, every outcome once."""

import asyncio
import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast import AsyncEngine, AsyncHandle, Context, get_task_context, workflow
from holdfast.core.entries import OperationBegun, OperationCompleted
from tests.postgres_server import portal

ROOT = Path(__file__).parents[2]
SEED = 2611
PARENTS, CHILDREN, KILLS = 50, 4, 5
ENTRIES = 1_300
"""Of all journals, a little less than there are at least after those that start the parents."""
BODY_S, LOOK_S, PATIENCE_S = 0.02, 0.002, 60
CONCURRENCY, LEASE = 10, "2s"
EFFECTS = "CHILDREN_EFFECTS"
"""Variable with the path of a file: bodies add lines to it."""

Database = tuple[str, str]
"""URL with our options, and schema."""
Ask = Callable[[str], list[tuple[Any, ...]]]
"""Asks the database; `{runs}` stands for the table of runs."""


async def leave_mark(x: list[int]) -> int:
    """The effect: one line, and some time until it is recorded. A kill leaves all of the line or nothing."""
    context = get_task_context()
    assert context is not None
    file = os.open(os.environ[EFFECTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f"{context.run_id} {os.getpid()}\n".encode())
    finally:
        os.close(file)
    await asyncio.sleep(BODY_S)
    return 10 * x[0] + x[1]


@workflow
async def kid(ctx: Context, x: list[int]) -> int:
    return await ctx.step(leave_mark, x)


@workflow
async def family(ctx: Context, n: int) -> list[int]:
    """One child, then two side by side, then another one."""
    first = await ctx.child(kid, [n, 0])
    both = await ctx.gather(ctx.child(kid, [n, 1]), ctx.child(kid, [n, 2]))
    return [first, *both, await ctx.child(kid, [n, 3])]


class Crew:
    """Worker processes on one database.

    Attributes:
        victims: Those that were killed.
        acked: Children that were completed when somebody was killed, with the marks that there were then.
    """

    def __init__(self, url: str, effects: Path, ask: Ask, chance: random.Random) -> None:
        self.url = url
        self.effects = effects
        self.ask = ask
        self.chance = chance
        self.workers: list[subprocess.Popen[bytes]] = []
        self.victims: set[int] = set()
        self.acked: list[tuple[set[str], int]] = []

    def hire(self) -> None:
        program = [sys.executable, "-m", "tests.integration.test_children_processes", self.url]
        environment = os.environ | {EFFECTS: str(self.effects)}
        self.workers.append(subprocess.Popen(program, cwd=ROOT, env=environment))

    async def kill_one(self, number: int) -> None:
        """SIGKILL at some commit within that part of all; another one comes."""
        wanted = PARENTS + (number - self.chance.random()) * ENTRIES / KILLS
        async with asyncio.timeout(PATIENCE_S):
            while self.ask("select sum(position) from {runs}")[0][0] < wanted:  # noqa: ASYNC110 - others decide
                await asyncio.sleep(LOOK_S)
        victim = self.workers.pop(self.chance.randrange(len(self.workers)))
        victim.kill()
        self.victims.add(victim.pid)
        victim.wait()
        completed = self.ask("select id from {runs} where workflow = 'kid' and status = 'completed'")
        self.acked.append(({row[0] for row in completed}, len(self.marks())))
        self.hire()

    def marks(self) -> list[tuple[str, int]]:
        """Run and process of each effect, in their order."""
        lines = self.effects.read_text().splitlines() if self.effects.exists() else []
        return [(run_id, int(pid)) for run_id, pid in (line.rsplit(" ", 1) for line in lines)]

    def dismiss(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()


@contextlib.contextmanager
def crew(url: str, folder: Path, ask: Ask) -> Iterator[Crew]:
    made = Crew(url, folder / "effects.txt", ask, random.Random(SEED))
    try:
        yield made
    finally:
        made.dismiss()


async def killed_families(made: Crew, workers: int) -> None:
    """Start all parents, kill worker after worker, and check what is true when all is over."""
    async with AsyncEngine(made.url, workflows=[family, kid], worker=False) as client:
        handles = [await client.start(family, n, id=f"parent-{n}") for n in range(PARENTS)]
        for _ in range(workers):
            made.hire()
        for number in range(1, KILLS + 1):
            await made.kill_one(number)
        for n, handle in enumerate(handles):
            assert await handle.result(PATIENCE_S) == [10 * n + number for number in range(CHILDREN)]
        children = [run for handle in handles for run in await outcomes(client, handle)]
        assert len(set(children)) == PARENTS * CHILDREN
        assert made.ask("select count(*), max(recoveries) from {runs}") == [(PARENTS * (CHILDREN + 1), 0)]
    check_marks(made, set(children))


async def outcomes(client: AsyncEngine, handle: AsyncHandle) -> list[str]:
    """Ids of the children of a parent, each of which was started once, and has answered once."""
    store = client._node.store
    journal = [entry.entry for entry in await handle.journal()]
    begun = {e.key: e.child.id for e in journal if isinstance(e, OperationBegun) and e.child is not None}
    answered = [e for e in journal if isinstance(e, OperationCompleted)]
    assert len([e for e in journal if isinstance(e, OperationBegun)]) == CHILDREN
    assert sorted(e.key for e in answered) == sorted(begun)
    assert sorted(e.seq for e in answered) == list(range(1, CHILDREN + 1))
    parent = await store.find_run(handle.id)
    assert parent is not None
    assert parent.messages_sent == CHILDREN
    assert await store.read_inbox(parent.key) == []
    for answer in answered:
        child = await client.get(begun[answer.key])
        found = await store.find_run(child.id)
        assert found is not None
        assert (found.status, found.parent_key) == ("completed", parent.key)
        (step,) = [e.entry for e in await child.journal() if isinstance(e.entry, OperationCompleted)]
        assert answer.output == step.output
    return list(begun.values())


def check_marks(made: Crew, children: set[str]) -> None:
    marks = made.marks()
    assert {run_id for run_id, _ in marks} == children, "an acknowledged effect is lost"
    assert max(Counter(marks).values()) == 1, "one process had the effect of a child twice"
    survived = Counter(run_id for run_id, pid in marks if pid not in made.victims)
    assert max(survived.values()) == 1, "repeated without a reason"
    for completed, before in made.acked:
        again = completed & {run_id for run_id, _ in marks[before:]}
        assert not again, "what was recorded as completed ran again"


@pytest.mark.slow
async def test_children_whose_owner_is_killed_run_once_and_answer_once_on_sqlite(tmp_path: Path) -> None:
    """Invariant 36: one process after the other on one file."""
    path = tmp_path / "runs.db"

    def ask(question: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE_S)) as connection:
            return connection.execute(question.format(runs="runs")).fetchall()

    with crew(f"sqlite:///{path}", tmp_path, ask) as made:
        await killed_families(made, 1)


@pytest.mark.slow
async def test_children_whose_workers_are_killed_run_once_and_answer_once_on_postgres(
    postgres_database: Callable[[], Database], tmp_path: Path
) -> None:
    """Invariant 36: two processes, and parents and children in different ones."""
    url, schema = postgres_database()

    def ask(question: str) -> list[tuple[Any, ...]]:
        rows = portal().fetch(question.format(runs=f'"{schema}".runs'))
        return [tuple(row) for row in rows]

    with crew(url, tmp_path, ask) as made:
        await killed_families(made, 2)


async def work(url: str) -> None:
    """What a worker process does."""
    engine = AsyncEngine(url, workflows=[family, kid], worker=True, concurrency=CONCURRENCY, lease=LEASE)
    async with engine:
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
