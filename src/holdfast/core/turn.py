"""What one call of `decide` has decided so far, beside the state it began with."""

from collections.abc import Iterable

import msgspec

from holdfast.core.entries import Arrival, Entry, Failure, Paused, RunFailed, Unpaused
from holdfast.core.events import AttemptEnded, Operating
from holdfast.core.run import ATTEMPTING, Branch, Operation, Run, place_of
from holdfast.definition.workflow import Workflow

JOURNAL_ENTRIES_MAX = 50_000
"""Entries of one run: a longer journal takes too long to replay; split the work into child runs."""


class Turn:
    """Entries decided in this turn, and what they change across branches.

    Attributes:
        entries: In order.
        ended: Branches that complete in this turn, the last one last.
        joining: Arrivals of branches at joins in this turn.
        joined: Arrivals at joins that were satisfied in this turn: nobody waits there any more.
        started: Ids of branches that start in this turn.
        pausing: Pauses of branches that come to them by the next entry.
        moved: Places that have stopped waiting in this turn, or are gone, so that nothing else happens to them.
        over: Whether the run ends in this turn; then nothing more is decided.
    """

    __slots__ = (
        "ended",
        "entries",
        "joined",
        "joining",
        "moved",
        "over",
        "pausing",
        "run",
        "started",
        "workflow",
    )

    def __init__(self, workflow: Workflow, run: Run) -> None:
        """Nothing is decided yet."""
        self.workflow = workflow
        self.run = run
        self.entries: list[Entry] = []
        self.over = False
        # Most turns continue one branch and need none of these: empty tuples cost nothing.
        self.ended: tuple[str, ...] = ()
        self.joining: tuple[Arrival, ...] = ()
        self.joined: tuple[Arrival, ...] = ()
        self.started: tuple[str, ...] = ()
        self.pausing: tuple[Paused, ...] = ()
        self.moved: tuple[str, ...] = ()

    def current(self, event: AttemptEnded | Operating) -> Branch | None:
        """The branch that makes exactly this attempt, or None for a stale event."""
        branch = self.run.branches.get(event.branch)
        if branch is None or branch.status not in ATTEMPTING or branch.attempt != event.attempt:
            return None
        at = branch.at
        if at is None or at.step != event.step or at.visit != event.visit:
            return None
        return branch

    def has_stopped(self, branch: str) -> bool:
        """Whether a pause in this turn has stopped the clock of the branch, or with "" that of the run."""
        return self._is_stopped_by("") or (bool(branch) and self._is_stopped_by(branch))

    def _is_stopped_by(self, owner: str) -> bool:
        # Unpausing the run ends the pauses of all branches; unpausing a branch leaves that of the run.
        for entry in reversed(self.entries):
            if isinstance(entry, Unpaused) and entry.branch in {"", owner}:
                return False
            if isinstance(entry, Paused) and entry.branch == owner:
                return entry.freezes
        return False

    def move(self, branch: Branch, operations: Iterable[Operation]) -> None:
        """Nothing more happens to these operations in this turn: they are done, or gone."""
        self.moved += tuple(place_of(branch.id, operation.key) for operation in operations)

    def record(self, entry: Entry) -> None:
        """Add what a branch has done: before the failure of the run, where following its edges gave one."""
        if self.over:
            self.entries.insert(-1, entry)
        else:
            self.entries.append(entry)
            self.entries += self.pausing
        self.pausing = ()

    def fail(
        self, branch: str, at: Arrival | None, attempt: int, failure: Failure, operation: str = ""
    ) -> None:
        """End the run with a failure: of `branch` at `at`, or with "" of the run itself."""
        step, visit = (at.step, at.visit) if at is not None else ("", 0)
        if step and not failure.step:
            failure = msgspec.structs.replace(failure, step=step)
        self.entries.append(RunFailed(branch, step, visit, attempt, failure, operation))
        self.over = True
