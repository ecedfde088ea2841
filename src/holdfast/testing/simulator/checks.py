"""The invariants, watched while a simulation runs. Numbers are those of the project's list of invariants.

Watched here, in `journals` and in `callers`: 2 to 6, 8 to 18, 25, 29, 32, 33 and 35. Not yet, for the engine
has none of it: signals (19 to 23), timers beside retries (24, 26 to 28), cancel and pause (30, 31), children
(36). Of 34 only that a stop fails no run.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from holdfast.core.effects import StartAttempt
from holdfast.core.entries import Entry, StepCompleted
from holdfast.runtime.context import TaskContext
from holdfast.stores.memory_rows import Row
from holdfast.stores.records import QUARANTINE_AT, SUSPECT_AT, Append, LeaseTimes, Member
from holdfast.testing.simulator.database import Database
from holdfast.testing.simulator.journals import Attempt, Shadow, failures_in
from holdfast.testing.simulator.programs import Deed, Step, failure_types
from holdfast.testing.simulator.world import World


class Worker(Protocol):
    """What the checks know of a process."""

    name: str
    identities: list[str]
    concurrency: int


class Checks:
    """See the module.

    Attributes:
        calls: How often the body of each attempt was called.
        reaped: Transactions that have charged someone.
    """

    def __init__(self, world: World, database: Database, lease: LeaseTimes) -> None:
        """Begin to watch."""
        self.calls: Counter[Attempt] = Counter()
        self.reaped = 0
        self._world = world
        self._database = database
        self._self_stop_s = lease.self_stop_ms / 1_000
        self._good_until_s: dict[str, float] = {}
        self._shadows: dict[int, Shadow] = {}
        self._deeds: dict[Attempt, tuple[Step, Deed]] = {}
        self._returned: set[Attempt] = set()
        database.look = self.look
        database.accepted = self.accepted

    # The database.

    def look(self, reaping: bool) -> None:  # noqa: FBT001 - what a database tells
        """Compare all rows with what they were."""
        now_ms = self._database.now_ms()
        for row in self._database.rows:
            shadow = self._shadows.get(row.key)
            if shadow is None:
                shadow = self._shadows[row.key] = Shadow(row)
            recoveries = row.recoveries
            entries, wrong = shadow.see(row, now_ms=now_ms, reaping=reaping)
            self.reaped += reaping and recoveries > 0
            if row.worker is not None and not self._database.has_lease(row.worker):
                wrong.append(f"held by {row.worker}, who is dead")
            for text in wrong:
                self._world.problem(f"run {row.new.id}: {text}")
            if entries:
                self._explain(row.new.id, entries)

    def accepted(self, row: Row, append: Append) -> None:
        """Invariant 8: an append applies under the row's epoch, at the row's position."""
        if (append.epoch, append.position + len(append.entries)) != (row.epoch, row.position):
            self._world.problem(
                f"run {row.new.id}: accepted under epoch {append.epoch} of {row.epoch}: {append!r}"
            )

    def _explain(self, run_id: str, entries: Sequence[Entry]) -> None:
        """Invariants 17 and 18: what is recorded of an attempt is what its body did."""
        for entry in entries:
            if isinstance(entry, StepCompleted):
                attempt = (run_id, entry.branch, entry.step, entry.visit, entry.attempt)
                if attempt not in self._returned:
                    self._world.problem(f"{attempt} is completed and has never returned")
        for at, failure in failures_in(entries):
            attempt = (run_id, at.branch, at.step, at.visit, at.attempt)
            known = self._deeds.get(attempt)
            if known is None or failure.type not in failure_types(*known):
                self._world.problem(f"{attempt} is recorded as failed by {failure.summary()}")

    # Workers.

    def registering(self, process: Worker, worker: str) -> None:
        """Invariant 12: nobody takes a name twice."""
        if worker in self._good_until_s:
            self._world.problem(f"{process.name} takes the used name {worker}")
        process.identities.append(worker)
        self._good_until_s[worker] = self._world.now_s + self._self_stop_s

    def renewed(self, worker: str, sent_s: float) -> None:
        """A renewal was answered well."""
        self._good_until_s[worker] = max(self._good_until_s[worker], sent_s + self._self_stop_s)

    def committing(self, process: Worker, group: Sequence[Member]) -> None:
        """Invariant 10, where a group is sent."""
        for member in group:
            if isinstance(member, Append):
                shadow = self._shadows.get(member.key)
                holder = None if shadow is None else shadow.holders.get(member.epoch)
                if holder is not None:
                    self._may_act(process, holder, f"commits to the run with key {member.key}")

    def told(self, member: Append) -> None:
        """The sender of an append has heard that it was applied."""
        shadow = self._shadows.get(member.key)
        if shadow is not None and shadow.run.position == member.position + len(member.entries):
            shadow.is_told = True

    def _may_act(self, process: Worker, holder: str, what: str) -> None:
        if holder not in process.identities:
            self._world.problem(f"{process.name} {what}, which {holder} holds")
        elif self._world.now_s >= self._good_until_s[holder]:
            self._world.problem(f"{process.name} {what} after its self-stop as {holder}")

    # Bodies.

    def begins(self, process: Worker, context: TaskContext, step: Step, deed: Deed) -> None:
        """Invariants 9, 10, 11, 13, 15 and 16, where a body is called."""
        run_id = context.run_id
        attempt = (run_id, context.branch, context.step, context.visit, context.attempt)
        self.calls[attempt] += 1
        self._deeds[attempt] = (step, deed)
        row = self._database.find_row(run_id)
        if row is None:
            self._world.problem(f"{attempt} of an unknown run")
            return
        effect = StartAttempt(context.branch, context.step, context.visit, context.attempt)
        shadow = self._shadows[row.key]
        # Who ends a run may not know yet that this was written; who gives it back starts nothing meanwhile.
        is_just_over = shadow.run.is_over and not shadow.is_told
        holder = shadow.holders.get(row.epoch) if is_just_over else row.worker
        if holder is None:
            self._world.problem(f"{process.name} starts {attempt}, which nobody holds")
        else:
            self._may_act(process, holder, f"starts {attempt}")
        why = shadow.why_not(effect, self._database.now_ms())
        if why is not None:
            self._world.problem(f"{process.name} starts {attempt}: {why}")
        if (effect, row.epoch) in shadow.started:
            self._world.problem(f"{process.name} starts {attempt} twice under epoch {row.epoch}")
        shadow.started.add((effect, row.epoch))
        if deed.kind == "kills" and (row.recoveries >= SUSPECT_AT or not self._is_beside_suspect(row)):
            shadow.kills.add(process.name)
            if len(shadow.kills) > QUARANTINE_AT:
                self._world.problem(f"run {run_id} has taken down {len(shadow.kills)} workers")

    def _is_beside_suspect(self, row: Row) -> bool:
        """Whether its worker holds a suspect besides it: that one is charged, and nobody else."""
        return any(
            other is not row and other.worker == row.worker and other.recoveries >= SUSPECT_AT
            for other in self._database.rows
        )

    def returns(self, context: TaskContext) -> None:
        """The body of an attempt returns."""
        attempt = (context.run_id, context.branch, context.step, context.visit, context.attempt)
        self._returned.add(attempt)

    # The end.

    def unfinished(self) -> list[str]:
        """Runs that are neither over nor blocked with a reason, with what their rows say (invariant 32)."""
        return [
            f"{row.new.id} is {row.status}, held by {row.worker}, due at {row.due_at_ms}, epoch {row.epoch}"
            for row in self._database.rows
            if row.status not in {"completed", "failed", "cancelled", "blocked"}
        ]

    def overdue(self, seconds: float, workers: Sequence[Worker]) -> list[str]:
        """Runs that are due for so long though one of the workers has a free slot (invariant 25).

        Suspects are left out: each worker drives one of them at a time.
        """
        rows = self._database.rows
        latest_ms = self._database.now_ms() - seconds * 1_000
        busy = [sum(row.worker in worker.identities for row in rows) for worker in workers]
        if all(held >= worker.concurrency for held, worker in zip(busy, workers, strict=True)):
            return []
        return [
            f"{row.new.id} is due since {row.due_at_ms} and nobody has taken it"
            for row in rows
            if row.due_at_ms is not None
            and (row.worker is None and row.due_at_ms < latest_ms and row.recoveries < SUSPECT_AT)
        ]

    def calm(self, workers: int) -> None:
        """Invariant 11: with no fault nothing is done twice, no lease is lost, and nobody charged."""
        for attempt, calls in self.calls.items():
            if calls != 1:
                self._world.problem(f"calm, and {attempt} was called {calls} times")
        if self.reaped:
            self._world.problem("calm, and a worker was taken for dead")
        if len(self._good_until_s) != workers:
            self._world.problem(f"calm, and {workers} workers had {len(self._good_until_s)} names")
