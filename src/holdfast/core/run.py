"""A run as the fold of its journal: its state, which only `evolve` changes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from holdfast.core.entries import (
    Arrival,
    Child,
    Failure,
    OperationKind,
    Paused,
    RunBlocked,
    RunCancelled,
    Taken,
    Wait,
)

MAIN = "main"
RunStatus = Literal["pending", "running", "suspended", "paused", "blocked", "completed", "failed", "cancelled"]
BranchStatus = Literal[
    "active",
    "backoff",
    "suspended",
    "joining",
    "sleeping",
    "waiting",
    "completed",
    "failed",
    "cancelled",
]
OperationStatus = Literal["sleeping", "waiting", "backoff", "child", "completed", "failed"]
OVER: frozenset[str] = frozenset({"completed", "failed", "cancelled"})

OWING: frozenset[str] = frozenset({"active", "backoff"})
"""Branches that owe an attempt, now or when it is due."""

ATTEMPTING: frozenset[str] = frozenset({*OWING, "suspended"})
"""Branches whose attempt may be under way, as far as the journal knows."""

OPEN: frozenset[str] = frozenset({*ATTEMPTING, "joining", "sleeping", "waiting"})
"""Branches that are not over."""

PENDING: frozenset[str] = frozenset({"sleeping", "waiting", "backoff", "child"})
"""Operations that are not done."""

SCOPE = "/"
"""Between the parts of an operation's key."""

Value = bytes | Mapping[str, "Value"]
"""One encoded payload, or by branch the values that a join took; shared, never copied."""


def is_moment(at: "Arrival | Operation") -> bool:
    """Whether somebody sleeps there until a moment that was named as such, which no pause moves."""
    return at.wait is not None and at.wait.until_ms is not None


def place_of(branch: str, key: str) -> str:
    """Who waits, in one word: a branch, or an operation of its step; names have no control characters."""
    return f"{branch}\0{key}" if key else branch


def split_place(place: str) -> tuple[str, str]:
    """Branch and key of a place; the key is "" for the branch itself."""
    branch, _, key = place.partition("\0")
    return branch, key


class Operation:
    """Something that the body of a step has asked for, as far as it is recorded.

    Attributes:
        key, kind: As recorded; what a body asks for next must have the same.
        status: `sleeping` and `backoff` are until `due_at_ms`, `waiting` is for a signal, `child` for a run.
        position: Of its first entry: what is recorded later may follow from it.
        attempt: That is owed or was last, from 1.
        output: Of a completed one; b"" for a sleep.
        failure: Of a failed one, or of the attempt before the one that is owed.
        budgets: Retries used, by the policy's patterns.
        due_at_ms, left_ms: Its clock, as that of a branch.
        since_ms: Stamp of the entry that made it wait.
        wait, child: As recorded.
        ended: For kind `scopes`, which of them had ended.
        heartbeat: What its last attempt reported for the next one, or None.
        taken: The signal that it has received, where that may be given back.
    """

    __slots__ = (
        "attempt",
        "budgets",
        "child",
        "due_at_ms",
        "ended",
        "failure",
        "heartbeat",
        "key",
        "kind",
        "left_ms",
        "output",
        "position",
        "since_ms",
        "status",
        "taken",
        "wait",
    )

    def __init__(self, key: str, kind: OperationKind, position: int) -> None:
        """One of which nothing but its beginning is known."""
        self.key = key
        self.kind: OperationKind = kind
        self.position = position
        self.status: OperationStatus = "completed"
        self.attempt = 1
        self.output = b""
        self.failure: Failure | None = None
        self.budgets: dict[str, int] = {}
        self.due_at_ms: int | None = None
        self.left_ms: int | None = None
        self.since_ms = 0
        self.wait: Wait | None = None
        self.child: Child | None = None
        self.ended: tuple[int, ...] = ()
        self.heartbeat: bytes | None = None
        self.taken: Taken | None = None


NO_OPERATIONS: dict[str, Operation] = {}
NO_VARIABLES: Mapping[str, bytes] = MappingProxyType({})
"""Few bodies ask for anything: those that do not share these two, which nobody changes."""


class Branch:
    """One thread of control in a run.

    Attributes:
        id: `main`, a declared name, or `<parent>-<n>`.
        parent: The branch that started it; None for `main`.
        status: `active` owes an attempt, `backoff` owes one at `due_at_ms`, `suspended` owes one as soon as an
            operation of it is done, `joining` waits for other branches, `sleeping` for `due_at_ms`, `waiting`
            for a signal, until then if that is not None.
        at: Where it is; None only for a `main` that forked at the start.
        since_ms: Stamp of its arrival there, for all kinds but tasks.
        attempt: Number of the attempt that is owed or was last, from 1.
        due_at_ms: When its clock runs out, in store time; None without a clock, or while it stands still.
        left_ms: What is left on a clock that stands still; else None.
        pause: Why it starts nothing since `paused_at_ms`, besides what the run's own pause says.
        value: The last output, which is the next step's argument.
        variables: Encoded variables by name, as they were when it came there.
        sets: What the body there has set since then, as far as it is recorded.
        operations: What the body there has asked for, by key, in the order of their first entries.
        heartbeat, progress: What the body there has reported last, encoded.
        culprit: Key of the operation whose failure ended the branch, or "".
        visits: How often it came to each step.
        budgets: Retries used at the current step, by the policy's patterns.
        failure: What ended it, or the failure of the attempt before a retry.
        was: Its status before the run failed, which it gets back when the run is reopened.
    """

    __slots__ = (
        "at",
        "attempt",
        "budgets",
        "culprit",
        "due_at_ms",
        "failure",
        "heartbeat",
        "id",
        "left_ms",
        "operations",
        "parent",
        "pause",
        "paused_at_ms",
        "progress",
        "sets",
        "since_ms",
        "status",
        "value",
        "variables",
        "visits",
        "was",
    )

    def __init__(self, branch_id: str, parent: "Branch | None", value: Value) -> None:
        """A branch that has not arrived anywhere; variables and a pause come from the parent."""
        self.id = branch_id
        self.parent = None if parent is None else parent.id
        self.status: BranchStatus = "completed"
        self.at: Arrival | None = None
        self.since_ms = 0
        self.attempt = 1
        self.due_at_ms: int | None = None
        self.left_ms: int | None = None
        self.pause: Paused | None = None if parent is None else parent.pause
        self.paused_at_ms: int = 0 if parent is None else parent.paused_at_ms
        self.value = value
        self.variables: dict[str, bytes] = {} if parent is None else dict(parent.variables)
        self.visits: dict[str, int] = {}
        self.budgets: dict[str, int] = {}
        self.failure: Failure | None = None
        self.was: BranchStatus | None = None
        self.operations = NO_OPERATIONS
        self.sets: Mapping[str, bytes] = NO_VARIABLES
        self.heartbeat: bytes | None = None
        self.progress: bytes | None = None
        self.culprit = ""


class Run:
    """The state of one run.

    Attributes:
        id: The run's id; taken from the store, not from the journal.
        workflow, fingerprint, input: As started.
        status: Never `pending`: that is a run which no worker has claimed yet.
        position: Number of entries folded.
        branches: By id, in the order they began.
        open: How many branches are not over.
        active: How many of them owe an attempt now, and are not held by a pause.
        paused: How many of them have a pause of their own.
        joining: Ids of branches waiting at a join.
        waits: Names of awaited signals by place, in the order in which they came to be awaited.
        timers: Due times in store ms by place: clocks that run, and for which something is to be done.
        children: Child runs that are not over, by the place that waits for them.
        timeout_ms: Bound of the run, or None.
        deadline_ms: When it is over; None without one, or while the clock stands still.
        deadline_left_ms: What is left of it then.
        pause: The pause of the whole run, since `paused_at_ms`.
        cancel: Who cancelled it and why.
        blocked: Why it cannot go on.
        branches_started: Counter behind generated branch names.
        output_branch: Whose value is the output, once completed.
        failure: Why it failed.
        created_at_ms, updated_at_ms: Stamps of the first and the last entry.
    """

    __slots__ = (
        "active",
        "blocked",
        "branches",
        "branches_started",
        "cancel",
        "children",
        "created_at_ms",
        "deadline_left_ms",
        "deadline_ms",
        "failure",
        "fingerprint",
        "id",
        "input",
        "joining",
        "open",
        "output_branch",
        "pause",
        "paused",
        "paused_at_ms",
        "position",
        "status",
        "timeout_ms",
        "timers",
        "updated_at_ms",
        "waits",
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
        self.paused = 0
        self.joining: dict[str, None] = {}
        self.waits: dict[str, str] = {}
        self.timers: dict[str, int] = {}
        self.children: dict[str, Child] = {}
        self.timeout_ms: int | None = None
        self.deadline_ms: int | None = None
        self.deadline_left_ms: int | None = None
        self.pause: Paused | None = None
        self.paused_at_ms = 0
        self.cancel: RunCancelled | None = None
        self.blocked: RunBlocked | None = None
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
        if self.blocked is not None:
            return None
        if self.active:
            return 0
        return min(self.dues(), default=None)

    def dues(self) -> list[int]:
        """All moments at which something is to be done by itself."""
        return [*self.timers.values(), *(() if self.deadline_ms is None else (self.deadline_ms,))]

    def holds(self, branch: Branch) -> bool:
        """Whether a pause keeps the branch from starting anything."""
        return self.pause is not None or branch.pause is not None

    @property
    def output(self) -> Value | None:
        """The output value of a completed run, else None."""
        return None if self.output_branch is None else self.branches[self.output_branch].value
