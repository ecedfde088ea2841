"""A run as the fold of its journal: `evolve`, `replay` and `owed`.

Only `evolve` changes a `Run`. It takes the store's stamp of the commit as an argument and needs neither the
definition nor any code of the user, so that a journal replays exactly under every later version.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, assert_never

from holdfast.core.effects import ArmTimer, Effect, StartAttempt
from holdfast.core.entries import (
    Arrival,
    BranchJoined,
    Entry,
    Failure,
    RetryScheduled,
    RunCompleted,
    RunFailed,
    RunStarted,
    StepCompleted,
)

MAIN = "main"
RunStatus = Literal["pending", "running", "suspended", "paused", "blocked", "completed", "failed", "cancelled"]
BranchStatus = Literal["active", "backoff", "joining", "completed", "failed", "cancelled"]
OVER: frozenset[str] = frozenset({"completed", "failed", "cancelled"})

OWING: frozenset[str] = frozenset({"active", "backoff"})
"""Branches that owe an attempt, now or when it is due."""

OPEN: frozenset[str] = frozenset({"active", "backoff", "joining"})
"""Branches that are not over."""

Value = bytes | Mapping[str, "Value"]
"""One encoded payload, or by branch the values that a join took; shared, never copied."""


class Branch:
    """One thread of control in a run.

    Attributes:
        id: `main`, a declared name, or `<parent>-<n>`.
        parent: The branch that started it; None for `main`.
        status: `active` owes an attempt, `backoff` waits for `due_at_ms`, `joining` for other branches.
        at: Where it is; None only for a `main` that forked at the start.
        attempt: Number of the attempt that is owed or was last, from 1.
        due_at_ms: Earliest start of that attempt in store time; 0 without backoff.
        value: The last output, which is the next step's argument.
        variables: Encoded variables by name.
        visits: How often it came to each step.
        budgets: Retries used at the current step, by the policy's patterns.
        failure: What ended it, or the failure of the attempt before a retry.
    """

    __slots__ = (
        "at",
        "attempt",
        "budgets",
        "due_at_ms",
        "failure",
        "id",
        "parent",
        "status",
        "value",
        "variables",
        "visits",
    )

    def __init__(self, branch_id: str, parent: "Branch | None", value: Value) -> None:
        """A branch that has not arrived anywhere; variables come from the parent."""
        self.id = branch_id
        self.parent = None if parent is None else parent.id
        self.status: BranchStatus = "completed"
        self.at: Arrival | None = None
        self.attempt = 1
        self.due_at_ms = 0
        self.value = value
        self.variables: dict[str, bytes] = {} if parent is None else dict(parent.variables)
        self.visits: dict[str, int] = {}
        self.budgets: dict[str, int] = {}
        self.failure: Failure | None = None


class Run:
    """The state of one run.

    Attributes:
        id: The run's id; taken from the store, not from the journal.
        workflow, fingerprint, input: As started.
        status: Never `pending`: that is a run which no worker has claimed yet.
        position: Number of entries folded.
        branches: By id, in the order they began.
        open: How many branches are not over.
        active: How many of them owe an attempt now.
        joining: Ids of branches waiting at a join.
        backoffs: Due times in store ms by branch.
        branches_started: Counter behind generated branch names.
        output_branch: Whose value is the output, once completed.
        failure: Why it failed.
        created_at_ms, updated_at_ms: Stamps of the first and the last entry.
    """

    __slots__ = (
        "active",
        "backoffs",
        "branches",
        "branches_started",
        "created_at_ms",
        "failure",
        "fingerprint",
        "id",
        "input",
        "joining",
        "open",
        "output_branch",
        "position",
        "status",
        "updated_at_ms",
        "workflow",
    )

    def __init__(self, run_id: str) -> None:
        """A run of which nothing is recorded yet."""
        self.id = run_id
        self.workflow = ""
        self.fingerprint = ""
        self.input = b""
        self.status: RunStatus = "suspended"
        self.position = 0
        self.branches: dict[str, Branch] = {}
        self.open = 0
        self.active = 0
        self.joining: dict[str, None] = {}
        self.backoffs: dict[str, int] = {}
        self.branches_started = 0
        self.output_branch: str | None = None
        self.failure: Failure | None = None
        self.created_at_ms = 0
        self.updated_at_ms = 0

    @property
    def is_over(self) -> bool:
        """Whether the run is completed, failed or cancelled."""
        return self.status in OVER

    @property
    def due_at_ms(self) -> int | None:
        """When someone must act on it, if nobody holds it: 0 for at once, None for never by itself."""
        if self.active:
            return 0
        return min(self.backoffs.values(), default=None)

    @property
    def output(self) -> Value | None:
        """The output value of a completed run, else None."""
        return None if self.output_branch is None else self.branches[self.output_branch].value


def evolve(run: Run, entry: Entry, at_ms: int) -> None:
    """Apply one recorded entry, stamped `at_ms` by the store. The only way a run changes."""
    match entry:
        case StepCompleted():
            _step_completed(run, entry)
        case RunStarted():
            _run_started(run, entry, at_ms)
        case RetryScheduled():
            _retry_scheduled(run, entry, at_ms)
        case BranchJoined():
            _branch_joined(run, entry)
        case RunCompleted():
            run.output_branch = entry.branch
            run.status = "completed"
        case RunFailed():
            _run_failed(run, entry)
        case _:
            assert_never(entry)
    if run.open:
        run.status = "running" if run.active else "suspended"
    run.position += 1
    run.updated_at_ms = at_ms


def replay(run_id: str, entries: Iterable[tuple[Entry, int]]) -> Run:
    """Fold (entry, stamp in ms) pairs, from position 1 on, into a run."""
    run = Run(run_id)
    for entry, at_ms in entries:
        evolve(run, entry, at_ms)
    return run


def owed(run: Run) -> list[Effect]:
    """Everything that must happen next, from the state alone; nothing once the run is over.

    Recovery is `replay` and then this; `owed_after` is the part of it that a commit has changed.
    """
    if run.is_over:
        return []
    effects = (owed_by(branch) for branch in run.branches.values())
    return [effect for effect in effects if effect is not None]


def owed_by(branch: Branch) -> Effect | None:
    """What one branch of an unfinished run owes, or None while it waits for others or is over."""
    at = branch.at
    if at is None:
        return None
    if branch.status == "active":
        return StartAttempt(branch.id, at.step, at.visit, branch.attempt)
    if branch.status == "backoff":
        return ArmTimer(branch.due_at_ms, StartAttempt(branch.id, at.step, at.visit, branch.attempt))
    return None


def owed_after(run: Run, entries: list[Entry]) -> list[Effect]:
    """What the branches owe that `entries`, applied just now, have moved; nothing once the run is over."""
    if len(entries) == 1 and type(entries[0]) is StepCompleted and len(entries[0].arrivals) == 1:
        at = entries[0].arrivals[0]
        # An arrival at a task is attempt 1, owed now; at anything else, it waits.
        return [StartAttempt(at.branch, at.step, at.visit, 1)] if at.kind == "task" else []
    moved: list[str] = []
    for entry in entries:
        match entry:
            case StepCompleted() | BranchJoined() | RunStarted():
                moved += [arrival.branch for arrival in entry.arrivals]
            case RetryScheduled():
                moved.append(entry.branch)
            case RunCompleted() | RunFailed():
                return []
    if len(entries) > 1:
        # A branch may have come to a join and left it in the same commit.
        moved = list(dict.fromkeys(moved))
    effects = [owed_by(run.branches[name]) for name in moved]
    return [effect for effect in effects if effect is not None]


def _run_started(run: Run, entry: RunStarted, at_ms: int) -> None:
    run.workflow = entry.workflow
    run.fingerprint = entry.fingerprint
    run.input = entry.input
    run.created_at_ms = at_ms
    run.branches[MAIN] = main = Branch(MAIN, None, entry.input)
    _arrive(run, main, entry.arrivals)


def _step_completed(run: Run, entry: StepCompleted) -> None:
    branch = run.branches[entry.branch]
    branch.value = entry.output
    if entry.sets:
        branch.variables.update(entry.sets)
    arrivals = entry.arrivals
    if len(arrivals) == 1 and branch.status == "active" and branch.attempt == 1:
        arrival = arrivals[0]
        if arrival.kind == "task" and arrival.branch == branch.id:
            # Most entries by far: it stays open and active, so there is nothing to count or to reset.
            branch.at = arrival
            branch.visits[arrival.step] = arrival.visit
            return
    _leave(run, branch)
    _arrive(run, branch, arrivals)


def _branch_joined(run: Run, entry: BranchJoined) -> None:
    branch = run.branches[entry.branch]
    branch.value = {name: run.branches[name].value for name in entry.joined}
    _leave(run, branch)
    _arrive(run, branch, entry.arrivals)


def _retry_scheduled(run: Run, entry: RetryScheduled, at_ms: int) -> None:
    branch = run.branches[entry.branch]
    _leave(run, branch)
    branch.status = "backoff"
    branch.attempt = entry.attempt
    branch.due_at_ms = at_ms + entry.delay_ms
    branch.budgets[entry.pattern] = branch.budgets.get(entry.pattern, 0) + 1
    branch.failure = entry.failure
    run.open += 1
    run.backoffs[branch.id] = branch.due_at_ms


def _run_failed(run: Run, entry: RunFailed) -> None:
    for branch in run.branches.values():
        if branch.status in OPEN:
            _leave(run, branch)
            branch.status = "failed" if branch.id == entry.branch else "cancelled"
            branch.failure = entry.failure if branch.id == entry.branch else None
    run.failure = entry.failure
    run.status = "failed"


def _leave(run: Run, branch: Branch) -> None:
    """Take an open branch from where it is; it is completed unless it arrives somewhere."""
    if branch.status == "active":
        run.active -= 1
    elif branch.status == "backoff":
        del run.backoffs[branch.id]
    else:
        del run.joining[branch.id]
    run.open -= 1
    branch.status = "completed"


def _arrive(run: Run, source: Branch, arrivals: tuple[Arrival, ...]) -> None:
    """Put `source` and the branches it starts where the journal says."""
    for arrival in arrivals:
        branch = run.branches.get(arrival.branch)
        if branch is None:
            branch = run.branches[arrival.branch] = Branch(arrival.branch, source, source.value)
            run.branches_started += 1
        branch.at = arrival
        branch.visits[arrival.step] = arrival.visit
        branch.attempt, branch.due_at_ms, branch.budgets, branch.failure = 1, 0, {}, None
        run.open += 1
        if arrival.kind == "task":
            branch.status = "active"
            run.active += 1
        else:
            branch.status = "joining"
            run.joining[branch.id] = None
