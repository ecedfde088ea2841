"""What must be so without faults: nothing is overdue, and every run is over or has a reason."""

from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from holdfast.codecs.snapshots import encode_run
from holdfast.core.run import Run
from holdfast.runtime.explain import Explanation, explain
from holdfast.runtime.folds import fold
from holdfast.runtime.views import run_status
from holdfast.stores.memory_rows import Row, record_of
from holdfast.stores.records import ENDED, SUSPECT_AT, InboxRow
from holdfast.testing.simulator.checks import Checks, Worker
from holdfast.testing.simulator.database import Database
from holdfast.testing.simulator.journals import Shadow
from holdfast.testing.simulator.mail import OUTCOME
from holdfast.testing.simulator.world import World

T = TypeVar("T")


class Endings:
    """Looks at the whole database."""

    def __init__(self, world: World, database: Database, checks: Checks) -> None:
        """Args: where problems are kept, what is looked at, and who has watched it."""
        self._world = world
        self._database = database
        self._checks = checks

    def unfinished(self) -> list[str]:
        """Runs that still have something to do by themselves, with what their rows say (invariant 32)."""
        return [
            f"{row.new.id} is {row.status}, held by {row.worker}, due at {row.due_at_ms}, epoch {row.epoch}"
            for row in self._database.rows
            if not self._is_settled(row)
        ]

    def _is_settled(self, row: Row) -> bool:
        if row.worker is not None:
            return False
        if row.status in ENDED or row.status == "blocked":
            return True
        return row.due_at_ms is None and self._shadow(row).run.due_at_ms is None

    def _shadow(self, row: Row) -> Shadow:
        return self._checks.shadows[row.key]

    def explained(self) -> list[str]:
        """What is wrong with what the engine says of settled runs (invariants 19 and 32)."""
        wrong: list[str] = []
        for row in self._database.rows:
            shadow = self._shadow(row)
            run, inbox = _now(fold(self._database, record_of(row)))
            if encode_run(run) != encode_run(shadow.run):
                wrong.append(f"run {row.new.id} is read as another one than its journal has made")
            wrong += self._orphaned(row)
            if row.status in ENDED:
                wrong += self._undelivered(row, shadow, run, inbox)
            said = self._explain(row, run)
            self._world.hits[f"explained {said.reason}"] += 1
            if said.reason not in self._reasons(row, shadow):
                wrong.append(f"run {row.new.id} is {row.status} and explained as {said}")
        return wrong

    def _orphaned(self, row: Row) -> list[str]:
        """A run that another was to wait for, which does not any more, is over; unless people made it go on."""
        key = row.new.parent_key
        if key is None or row.status in ENDED:
            return []
        parent = self._checks.shadows.get(key)
        if parent is None or parent.incarnation != row.new.parent_incarnation:
            self._world.hits["child whose parent is gone"] += 1
            return []
        lives = self._checks.archive[row.new.id]
        if any(each.reopened or each.is_restarted for each in lives):
            return []
        awaited = {child.id for child in parent.asking.children().values()}
        is_awaited = row.new.id in awaited and not parent.run.is_over
        return [] if is_awaited else [f"run {row.new.id} is {row.status}, and nobody waits for it"]

    def _explain(self, row: Row, run: Run) -> Explanation:
        workers = _now(self._database.workers())
        is_blocked = row.status == "blocked"
        return explain(
            record_of(row), None if is_blocked else run, workers, self._database.now_ms(), why_blocked="?"
        )

    def _reasons(self, row: Row, shadow: Shadow) -> set[str]:
        """What it may be said to wait for: something that has not happened."""
        if row.status in ENDED:
            return {"over"}
        if row.status == "blocked":
            return {"blocked"}
        run = shadow.run
        if shadow.paused():
            return {"pause"}
        if run.waits:
            return set() if shadow.mail.awaited(run) else {"signal"}
        return {"child"} if self._waits_for_child(shadow) else set()

    def _waits_for_child(self, shadow: Shadow) -> bool:
        """Whether it has nothing to do but to wait for children, one of which is not over."""
        if shadow.mail.outcomes():
            return False
        rows = [self._database.find_row(child.id) for child in shadow.asking.children().values()]
        return any(row is not None and row.status not in ENDED for row in rows)

    def _undelivered(self, row: Row, shadow: Shadow, run: Run, inbox: Sequence[InboxRow]) -> list[str]:
        """Signals that nobody has received are listed in the finished run."""
        listed = [signal.id for signal in run_status(record_of(row), run, inbox, run.failure, None).undelivered]
        # Whoever ends a run from outside leaves what its children have told it.
        left = [shadow.mail.pending[seq] for seq in sorted(shadow.mail.pending)]
        mine = [message.id for message in left if message.kind != OUTCOME]
        self._world.hits["undelivered signal"] += len(listed)
        # Control that was acknowledged is never left over either: nothing that ends a run passes it by.
        return [] if listed == mine else [f"run {row.new.id} lists {listed} as undelivered, and has {mine}"]

    def overdue(self, seconds: float, workers: Sequence[Worker]) -> list[str]:
        """What is due for so long, though a worker is there for it (invariants 21, 25 and 32)."""
        if not workers:
            return []
        latest_ms = self._database.now_ms() - seconds * 1_000
        wrong: list[str] = []
        for row in self._database.rows:
            if any(row.worker in worker.identities for worker in workers):
                wrong += self._late(row, latest_ms, self._world.now_s - seconds)
        return wrong + self._unclaimed(latest_ms, self._world.now_s - seconds, workers)

    def _late(self, row: Row, latest_ms: float, latest_s: float) -> list[str]:
        """What the holder of a run has not done in time."""
        shadow = self._shadow(row)
        wrong = [
            f"{row.new.id} is held by {row.worker}, and its clock ran out at {due_ms}"
            for due_ms in shadow.clocks.running()
            if due_ms < latest_ms
        ]
        mail = shadow.mail
        controls = [seq for seq, message in mail.pending.items() if message.kind != "signal"]
        wrong += [
            f"{row.new.id} is held by {row.worker}, and has message {seq} since {mail.since_s[seq]:.3f} s"
            for seq in [*mail.awaited(shadow.run), *controls]
            if max(mail.since_s[seq], shadow.held_s) < latest_s
        ]
        return wrong

    def _unclaimed(self, latest_ms: float, latest_s: float, workers: Sequence[Worker]) -> list[str]:
        """Runs that nobody has taken though one of the workers has a free slot.

        Suspects are left out: each worker drives one of them at a time.
        """
        rows = self._database.rows
        busy = [sum(row.worker in worker.identities for row in rows) for worker in workers]
        if all(held >= worker.concurrency for held, worker in zip(busy, workers, strict=True)):
            return []
        return [
            f"{row.new.id} is due since {row.due_at_ms} and nobody has taken it"
            for row in rows
            if row.due_at_ms is not None
            and (row.worker is None and row.due_at_ms < latest_ms and row.recoveries < SUSPECT_AT)
            and self._shadow(row).changed_s < latest_s
        ]

    def calm(self, workers: int) -> None:
        """Invariant 11: with no fault nothing is done twice, no lease is lost, and nobody charged."""
        for shadows in self._checks.archive.values():
            for shadow in shadows:
                for (attempt, _), calls in shadow.calls.items():
                    if calls != 1:
                        self._world.problem(f"calm, and {attempt} of {shadow.run.id} was called {calls} times")
        if self._checks.reaped:
            self._world.problem("calm, and a worker was taken for dead")
        if len(self._checks.names) != workers:
            self._world.problem(f"calm, and {workers} workers had {len(self._checks.names)} names")


def _now(asked: Coroutine[Any, Any, T]) -> T:
    """The answer of a coroutine that never waits."""
    try:
        asked.send(None)
    except StopIteration as stopped:
        answer: T = stopped.value
        return answer
    finally:
        asked.close()
    raise RuntimeError("the database never lets anyone wait")
