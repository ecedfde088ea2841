"""The invariants, watched while a simulation runs. Numbers are those of the project's list of invariants.

Watched here, in `journals`, `performing`, `clocks`, `mail`, `kin`, `answers` and `endings`: 2 to 6, 8 to 27, 29
to 33, 35 and 36. Of 34 only that a stop fails no run.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from holdfast.codecs import json as codec
from holdfast.codecs.entries import decode_entry
from holdfast.core.effects import StartAttempt
from holdfast.core.entries import (
    Entry,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Paused,
    RunCompleted,
    RunStarted,
    ScopesClosed,
)
from holdfast.core.run import Run
from holdfast.runtime.context import TaskContext
from holdfast.stores.memory_rows import Row
from holdfast.stores.records import QUARANTINE_AT, SUSPECT_AT, Append, LeaseTimes, Member, Message
from holdfast.testing.simulator.database import Database
from holdfast.testing.simulator.deeds import Deed
from holdfast.testing.simulator.drawing import failure_types
from holdfast.testing.simulator.journals import DECODE, Shadow
from holdfast.testing.simulator.kin import Kin
from holdfast.testing.simulator.performing import Called
from holdfast.testing.simulator.programs import Program
from holdfast.testing.simulator.steps import Step
from holdfast.testing.simulator.world import World

GONE_S = 5 + 1
"""Until a worker hears that its run was replaced, by looking: a poll and 1 s."""


class Worker(Protocol):
    """What the checks know of a process."""

    name: str
    identities: list[str]
    concurrency: int


class Checks:
    """See the module.

    Attributes:
        programs: By name.
        reaped: Transactions that have charged someone.
        names: Names that workers have taken.
        shadows: Of the runs that are there, by key.
        archive: Of all runs that ever were, by id.
        restarts: Runs in whose place somebody has asked for another one.
    """

    def __init__(self, world: World, database: Database, lease: LeaseTimes) -> None:
        """Begin to watch."""
        self.programs: dict[str, Program] = {}
        self.reaped = 0
        self.names: dict[str, float] = {}
        self.shadows: dict[int, Shadow] = {}
        self.archive: defaultdict[str, list[Shadow]] = defaultdict(list)
        self.restarts: set[str] = set()
        self._world = world
        self._database = database
        self._self_stop_s = lease.self_stop_ms / 1_000
        self._holders: dict[tuple[int, int], str] = {}
        self._kin = Kin(world, self.shadows)
        database.look = self.look
        database.accepted = self.accepted
        database.stored = self.stored

    # The database.

    def look(self, reaping: bool) -> None:  # noqa: FBT001 - what a database tells
        """Compare all rows with what they were."""
        now_s, now_ms = self._world.now_s, self._database.now_ms()
        rows = self._database.rows
        for row in rows:
            shadow = self.shadows.get(row.key)
            if shadow is None or shadow.incarnation != row.incarnation:
                shadow = self._begin(row, shadow)
            recoveries, awaited = row.recoveries, shadow.asking.children()
            entries, wrong = shadow.see(row, now_s=now_s, now_ms=now_ms, reaping=reaping)
            self.reaped += reaping and recoveries > 0
            wrong += self._held(row)
            for text in wrong:
                self._world.problem(f"run {row.new.id}: {text}")
            if entries:
                self._explain(shadow, entries)
                self._kin.saw(shadow, row, entries, awaited)
            if shadow.mail.fresh:
                self._kin.heard(shadow)
        if len(rows) < len(self.shadows):
            for key in self.shadows.keys() - {row.key for row in rows}:
                self._remove(key)
        self._kin.settle()

    def _begin(self, row: Row, old: Shadow | None) -> Shadow:
        """A run that was inserted, or put in the place of another one."""
        now_s = self._world.now_s
        is_anew = old is not None and (row.key, row.incarnation) in self._database.anew
        shadow = Shadow(
            row,
            now_s,
            self.programs[row.new.workflow],
            epoch=0 if old is None else old.epoch,
            before=old if is_anew else None,
        )
        if old is None:
            self._kin.begins(row)
        else:
            old.ended_s = now_s
            self._world.hits["begun anew" if is_anew else "replaced"] += 1
            if is_anew:
                self._check_anew(row, old)
            elif row.new.id not in self.restarts:
                self._world.problem(
                    f"run {row.new.id}: another one is in its place, for which nobody has asked"
                )
            if (row.incarnation, row.epoch) != (old.incarnation + 1, old.epoch + 1):
                self._world.problem(f"run {row.new.id}: replaced under epoch {row.epoch} after {old.epoch}")
        self.shadows[row.key] = shadow
        self.archive[row.new.id].append(shadow)
        return shadow

    def _check_anew(self, row: Row, old: Shadow) -> None:
        """A function begins anew where it says so, with the input that it says."""
        run = Run(row.new.id)
        started = decode_entry(row.new.entries[0], run_id=run.id, position=1)
        given = DECODE(started.input) if isinstance(started, RunStarted) else None
        # A value at the end may be recorded nowhere: nothing comes after it that it would go with.
        wanted = [
            given if all(each.is_value for each in came.nexts) and came.nexts else came.anew
            for came in old.reads.values()
        ]
        if wanted != [given] or old.run.is_over:
            self._world.problem(f"run {run.id} begins anew with {given!r}, and has come to {wanted!r}")

    def _remove(self, key: int) -> None:
        shadow = self.shadows.pop(key)
        shadow.ended_s = self._world.now_s
        self._world.hits["removed"] += 1
        if not shadow.run.is_over:
            self._world.problem(f"run {shadow.run.id} is removed while it is {shadow.run.status}")

    def _held(self, row: Row) -> list[str]:
        """Epochs are never used twice, also not by another incarnation, and the dead hold nothing."""
        if row.worker is None:
            return []
        wrong = [] if self._database.has_lease(row.worker) else [f"held by {row.worker}, who is dead"]
        holder = self._holders.setdefault((row.key, row.epoch), row.worker)
        return wrong if holder == row.worker else [*wrong, f"epoch {row.epoch} was that of {holder}"]

    def accepted(self, row: Row, append: Append) -> None:
        """Invariant 8: an append applies under the row's epoch, at the row's position."""
        if (append.epoch, append.position + len(append.entries)) != (row.epoch, row.position):
            self._world.problem(
                f"run {row.new.id}: accepted under epoch {append.epoch} of {row.epoch}: {append!r}"
            )
        self._world.hits["append" if append.is_held else "append to an unheld run"] += 1

    def stored(self, row: Row, message: Message) -> None:
        """What was sent to one incarnation is not for the next one."""
        if message.incarnation not in {None, row.incarnation}:
            self._world.problem(f"run {row.new.id}: {message} is stored in incarnation {row.incarnation}")

    def _explain(self, shadow: Shadow, entries: Sequence[Entry]) -> None:
        """Invariants 17 and 18: what is recorded of an attempt is what its body did."""
        program = self.programs[shadow.run.workflow]
        for entry in entries:
            self._world.hits[f"entry {type(entry).__name__}"] += 1
            self._count(entry)
            if isinstance(entry, RunCompleted):
                self._compare(program, shadow)
            elif isinstance(entry, RunStarted) and entry.timeout_ms is not None:
                self._world.hits["run with a time-out"] += 1
        self._check_halts(program, shadow, entries)
        for called, failure in shadow.ended:
            known = shadow.deeds.get(called)
            if failure is None and called not in shadow.returned:
                self._world.problem(f"run {shadow.run.id}: {called} is completed and has never returned")
            if failure is not None and (known is None or failure.type not in failure_types(*known)):
                self._world.problem(
                    f"run {shadow.run.id}: {called} is recorded as failed by {failure.summary()}"
                )
        self._world.hits["clock re-based"] += shadow.clocks.rebased
        self._world.hits["signal given back"] += shadow.mail.returned
        shadow.clocks.rebased = shadow.mail.returned = 0

    def _count(self, entry: Entry) -> None:
        """Count what bodies have asked for."""
        hits = self._world.hits
        match entry:
            case OperationBegun():
                hits[f"operation {entry.kind} begins"] += 1
            case OperationCompleted() | OperationFailed():
                hits[f"operation {entry.kind}"] += 1
            case OperationRetried():
                hits["operation tried again"] += 1
            case ScopesClosed():
                hits[f"{entry.key.rsplit('/', 1)[-1].split('#')[0]} closed"] += 1
            case _:
                pass

    def _check_halts(self, program: Program, shadow: Shadow, entries: Sequence[Entry]) -> None:
        """Who has come by a pause step is paused (a loop comes back without one)."""
        paused = [entry.branch for entry in entries if isinstance(entry, Paused)]
        for entry in entries if program.held_back and not shadow.run.is_over else ():
            for arrival in getattr(entry, "arrivals", ()):
                is_first = arrival.visit == 1 and arrival.step in program.held_back
                if is_first and arrival.branch not in paused:
                    self._world.problem(f"run {shadow.run.id}: {arrival} is not paused")

    def _compare(self, program: Program, shadow: Shadow) -> None:
        value, output = shadow.run.input, shadow.run.output
        given = None if output is None else DECODE(codec.flatten(output))
        shadow.outputs.append(given)
        try:
            expected = program.expected(DECODE(value), shadow.received)
        except LookupError as error:
            expected = f"no end, for nothing came of {error}"
        if given != expected:
            self._world.problem(f"run {shadow.run.id} has come to {given!r} instead of {expected!r}")

    # Workers.

    def registering(self, process: Worker, worker: str) -> None:
        """Invariant 12: nobody takes a name twice."""
        if worker in self.names:
            self._world.problem(f"{process.name} takes the used name {worker}")
        process.identities.append(worker)
        self.names[worker] = self._world.now_s + self._self_stop_s

    def renewed(self, worker: str, sent_s: float) -> None:
        """A renewal was answered well."""
        self.names[worker] = max(self.names[worker], sent_s + self._self_stop_s)

    def committing(self, process: Worker, group: Sequence[Member]) -> None:
        """Invariant 10, where a group is sent."""
        for member in group:
            if isinstance(member, Append) and member.is_held:
                holder = self._holders.get((member.key, member.epoch))
                if holder is not None:
                    self._may_act(process, holder, f"commits to the run with key {member.key}")

    def told(self, member: Append) -> None:
        """The sender of an append has heard that it was applied."""
        shadow = self.shadows.get(member.key)
        if shadow is None or shadow.epoch != member.epoch:
            return
        if shadow.run.position == member.position + len(member.entries):
            shadow.is_told, shadow.told_s = True, self._world.now_s

    def _may_act(self, process: Worker, holder: str, what: str) -> None:
        if holder not in process.identities:
            self._world.problem(f"{process.name} {what}, which {holder} holds")
        elif self._world.now_s >= self.names[holder]:
            self._world.problem(f"{process.name} {what} after its self-stop as {holder}")

    # Bodies.

    def life(self, context: TaskContext) -> int:
        """See `Called`, for an attempt that begins."""
        shadow = self._of(context)
        return 0 if shadow is None else self._called(context, shadow).life

    def _of(self, context: TaskContext) -> Shadow | None:
        known = [each for each in self.archive[context.run_id] if each.incarnation == context.incarnation]
        return known[-1] if known else None

    def _called(self, context: TaskContext, shadow: Shadow) -> Called:
        at = StartAttempt(context.branch, context.step, context.visit, context.attempt)
        branch = shadow.run.branches.get(context.branch)
        life = branch.attempt if branch is not None and context.operation else 0
        return Called(at, context.operation, life)

    def enters(self, process: Worker, context: TaskContext) -> None:
        """A durable function begins at its first line (invariants 9 and 10)."""
        shadow = self._of(context)
        if shadow is None:
            self._world.problem(f"a body of the unknown run {context.run_id}")
        else:
            self._world.hits["body begins"] += 1
            self._check_holder(process, context, shadow, f"enters {context.step}")

    def _check_holder(self, process: Worker, context: TaskContext, shadow: Shadow, what: str) -> None:
        row = self._database.find_row(context.run_id)
        is_there = row is not None and shadow.ended_s is None
        # Who ends a run may not know yet that this was written; who gives it back starts nothing meanwhile. Nor
        # does a run that is replaced know it before its next commit.
        is_just_over = shadow.run.is_over and not shadow.is_told
        holder = row.worker if row is not None and is_there and not is_just_over else None
        holder = holder if is_there and not is_just_over else shadow.holders.get(shadow.epoch)
        if holder is None:
            self._world.problem(f"{process.name} {what} of {context.run_id}, which nobody holds")
        else:
            self._may_act(process, holder, f"{what} of {context.run_id}")
        if shadow.ended_s is not None and self._world.faults.is_prompt:
            since_s = self._world.now_s - shadow.ended_s
            if since_s > GONE_S:
                self._world.problem(f"{process.name} {what}, whose run is gone since {since_s:.1f} s")

    def begins(self, process: Worker, context: TaskContext, step: Step, deed: Deed, argument: object) -> None:
        """Invariants 9, 10, 11, 13, 15, 16 and 31, where a body is called."""
        shadow = self._of(context)
        if shadow is None:
            self._world.problem(f"a body of the unknown run {context.run_id}")
            return
        called = self._called(context, shadow)
        shadow.deeds[called] = (step, deed)
        shadow.calls[called, shadow.reopened] += 1
        self._check_holder(process, context, shadow, f"starts {called}")
        why = shadow.why_not(step, called, argument, (self._world.now_s, self._database.now_ms()))
        if why is not None:
            self._world.problem(f"{process.name} starts {called} of {context.run_id}: {why}")
        if (called, shadow.epoch) in shadow.started:
            self._world.problem(f"{process.name} starts {called} twice under epoch {shadow.epoch}")
        shadow.started.add((called, shadow.epoch))
        row = self._database.find_row(context.run_id)
        if deed.kind == "kills" and row is not None and shadow.ended_s is None:
            self._kills(process, row, shadow)

    def _kills(self, process: Worker, row: Row, shadow: Shadow) -> None:
        """Invariant 33."""
        if row.recoveries >= SUSPECT_AT or not self._is_beside_suspect(row):
            shadow.kills.add(process.name)
            if len(shadow.kills) > QUARANTINE_AT:
                self._world.problem(f"run {row.new.id} has taken down {len(shadow.kills)} workers")

    def _is_beside_suspect(self, row: Row) -> bool:
        """Whether its worker holds a suspect besides it: that one is charged, and nobody else."""
        return any(
            other is not row and other.worker == row.worker and other.recoveries >= SUSPECT_AT
            for other in self._database.rows
        )

    def returns(self, context: TaskContext) -> None:
        """The body of an attempt returns."""
        shadow = self._of(context)
        if shadow is not None:
            shadow.returned.add(self._called(context, shadow))
