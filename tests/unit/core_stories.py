"""Random workflows, and a random outside that lets a run of one go on, to its end, while a model looks on.

The outside picks what to attempt, in which order and in which company, lets it succeed or fail, lets timers
fire, sends signals, pauses, unpauses, cancels and retries, repeats itself and talks nonsense. The model is fed
nothing but the entries, and says after each of them what the run must look like. What bodies ask for while they
run is in `core_bodies` and `core_talks`.
"""

import itertools
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import TypeVar

import msgspec
from hypothesis import strategies as st

from holdfast.codecs import entries as codec
from holdfast.codecs import snapshots
from holdfast.core import children, control, steps
from holdfast.core import decide as deciding
from holdfast.core import evolve as evolving
from holdfast.core import header as headers
from holdfast.core import owed as owing
from holdfast.core import turn as turns
from holdfast.core.effects import ArmTimer, Effect, StartAttempt
from holdfast.core.entries import (
    DELETED,
    Arrival,
    BranchJoined,
    Child,
    Control,
    Entry,
    Failure,
    Moved,
    Operated,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    Paused,
    Reported,
    RetryScheduled,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunReopened,
    RunStarted,
    ScopesClosed,
    SignalReceived,
    SleepEnded,
    StepCompleted,
    StepSuspended,
    Unpaused,
    Wait,
    WaitTimedOut,
)
from holdfast.core.events import (
    AttemptDiverged,
    AttemptEnded,
    AttemptFailed,
    AttemptSucceeded,
    AttemptSuspended,
    BodyReported,
    ChildEnded,
    ControlRequested,
    DeadlinePassed,
    Event,
    Operating,
    OperationRaised,
    OperationRequested,
    OperationSucceeded,
    ScopesEnded,
    SignalArrived,
    StartRequested,
    TimerFired,
)
from holdfast.core.invariants import check
from holdfast.core.run import Branch, Operation, Run, Value, place_of, split_place
from holdfast.definition.policies import Retry
from holdfast.definition.step import Edge, Join, Pause, Sleep, Step, WaitSignal
from holdfast.definition.task import Task
from holdfast.definition.workflow import Workflow
from tests.unit.core_bodies import Asked, AskedFor, Clock, clock_of
from tests.unit.core_talks import Talk, child_ended, nonsense_about

T = TypeVar("T")
Key = tuple[str, str, int]
Kind = type[Entry] | UnionType
Part = tuple[Retry, ...] | Sleep | WaitSignal | Pause
changed = msgspec.structs.replace

JOURNAL_MAX = 60
TURNS_MAX = 4 * JOURNAL_MAX
REOPENED_MAX = DIVERGED_MAX = 2
INPUT = b"json.1:0"
OPS = "ops"
"""Who pauses and unpauses: a pause step names nobody."""
POLICIES: tuple[tuple[Retry, ...], ...] = (
    (),
    (Retry(max_retries=4),),
    (Retry(error_equals=("E1",), max_retries=1), Retry(max_retries=2, base_delay="100ms")),
    (Retry(error_equals=("timeout", "E2"), max_retries=3, base_delay=0),),
    (Retry(error_equals=("task_failed",), max_retries=1, base_delay=9, jitter_strategy="FULL"),),
)
INSTEAD, ONWARDS = "instead", "onwards"
"""Where a time-out leads: to a task of its own, or to what comes next anyway."""
WAITS: tuple[Part, ...] = (
    Sleep(0),
    Sleep(5_000),
    Sleep(None, 500),
    Sleep(None, 20_000),
    WaitSignal("s"),
    WaitSignal("s", 4_000),
    WaitSignal("s", 2_000, INSTEAD),
    WaitSignal("t", 0, ONWARDS),
    WaitSignal("t", 3_000, ONWARDS),
    Pause("look at it"),
    Pause(),
)
FAILURES = (
    Failure("E1", "first", ("E1", "Base")),
    Failure("timeout", "late", ("timeout",)),
    Failure("E2", "second", ("E2",), notes=("note",), cause=Failure("E1", "cause")),
    Failure("odd", "names no types"),
    Failure("fatal", "hopeless", ("fatal",)),
)


# random workflows


class Blueprint:
    """Collects the steps of a random workflow; `end` is where the trunk has got to."""

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.policies: dict[str, tuple[Retry, ...]] = {}
        self.numbers = itertools.count(1)
        self.end: str | None = None
        self.taken: list[str] = []

    def add(self, part: Part | str, waits_for: Sequence[str] = ()) -> str:
        """A task with these policies, a sleep, a wait, a pause; or by its kind a fork or a join."""
        number = next(self.numbers)
        match part:
            case "fork":
                made = Step(f"f{number}", "fork")
            case "join":
                made = Step(f"j{number}", "join", join=Join(tuple(waits_for)))
            case Sleep():
                made = Step(f"n{number}", "sleep", sleep=part)
            case WaitSignal():
                made = Step(f"w{number}", "wait_signal", wait_signal=part)
            case Pause():
                made = Step(f"p{number}", "pause", pause=part)
            case _:
                assert isinstance(part, tuple)
                made = Step(f"t{number}", task=f"t{number}")
                self.policies[made.name] = part
        self.steps[made.name] = made
        return made.name

    def link(self, source: str | None, target: str, branch: str | None = None) -> None:
        if source is not None:
            step = self.steps[source]
            self.steps[source] = changed(step, edges=(*step.edges, Edge(target, branch)))

    def grow(self, target: str) -> None:
        self.link(self.end, target)
        self.end = target

    def chain(self, parts: Sequence[Part]) -> tuple[str, str]:
        """Add steps one after the other; returns the first and the last, which is no pause."""
        names = [self.add(each) for each in parts]
        if isinstance(parts[-1], Pause):
            names.append(self.add(()))
        following = dict(itertools.pairwise(names))
        for source, target in following.items():
            self.link(source, target)
        for name in names:
            wait = self.steps[name].wait_signal
            if wait is not None and wait.on_timeout is not None:
                self.lead_elsewhere(name, wait, following.get(name))
        return names[0], names[-1]

    def lead_elsewhere(self, name: str, wait: WaitSignal, onwards: str | None) -> None:
        target = onwards
        if target is None or wait.on_timeout == INSTEAD:
            target = self.add(())
            if onwards is not None:
                self.link(target, onwards)
        self.steps[name] = changed(self.steps[name], wait_signal=changed(wait, on_timeout=target))

    def branch_name(self) -> str:
        return f"b{next(self.numbers)}"

    def build(self, timeout: float | None) -> Workflow:
        for name, step in list(self.steps.items()):
            if step.kind == "pause" and not step.edges:
                self.link(name, self.add(()))
        tasks = [Task(len, name=name, retry=retry) for name, retry in self.policies.items()]
        return Workflow("w", self.steps.values(), tasks=tasks, timeout=timeout)


CHAINS: st.SearchStrategy[list[Part]] = st.lists(
    st.sampled_from([*POLICIES, *POLICIES, *WAITS]), min_size=1, max_size=3
)
NUMBERS = st.lists(st.integers(0, 59), min_size=1, max_size=80)
MANY_NUMBERS = st.lists(st.integers(0, 59), min_size=25, max_size=80)


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    """Sequences, forks and joins one after another; now and then an end that goes wrong."""
    plan = Blueprint()
    for part in draw(st.lists(st.sampled_from(["steps", "fork", "late", "pause"]), min_size=1, max_size=3)):
        if part == "fork":
            draw_fork(draw, plan)
        elif part == "late" and plan.taken:
            draw_late_join(draw, plan)
        elif part == "pause":
            plan.grow(plan.add(Pause("trunk")))
        else:
            first, last = plan.chain(draw(CHAINS))
            plan.grow(first)
            plan.end = last
    ends = {
        "none": lambda: None,
        "loose": lambda: draw_loose_end(draw, plan),
        "circle": lambda: draw_circle(draw, plan),
        "deadlock": lambda: draw_deadlock(draw, plan),
        "twice": lambda: draw_twice(draw, plan),
    }
    ends[draw(st.sampled_from(["none", "none", *ends]))]()
    return plan.build(draw(st.sampled_from([None, None, None, 6, 60])))


@st.composite
def bodies(draw: st.DrawFn) -> Workflow:
    """Little but steps with a lot to say: one or two branches, most of which may fail and try again."""
    plan = Blueprint()
    plan.grow(plan.add("fork"))
    parts: list[Part] = [*POLICIES[1:3], *POLICIES[1:3], *POLICIES, WaitSignal("s")]
    chains = st.lists(st.sampled_from(parts), min_size=1, max_size=2)
    for chain in draw(st.lists(chains, min_size=1, max_size=2)):
        plan.link(plan.end, plan.chain(chain)[0], plan.branch_name())
    return plan.build(None)


def draw_fork(draw: st.DrawFn, plan: Blueprint) -> None:
    """Branches that a join takes together, and one or more that walk there and wait."""
    splitting: list[Part | str] = [(), "fork", "fork", Pause("fork")]
    plan.grow(plan.add(draw(st.sampled_from(splitting))))
    fork = plan.end
    taken: list[str] = []
    for chain in draw(st.lists(CHAINS, min_size=1, max_size=4)):
        name = plan.branch_name()
        first, last = plan.chain(chain)
        plan.link(fork, first, name)
        if draw(st.integers(0, 5)) == 5:
            name = draw(st.sampled_from([name, draw_inner_fork(draw, plan, last)]))
        taken.append(name)
    plan.taken = taken
    join = plan.add("join", waits_for=draw(st.permutations(taken)))
    walkers = draw(st.lists(CHAINS, max_size=2))
    for chain in walkers:
        first, last = plan.chain(chain)
        plan.link(fork, first, draw(st.sampled_from([None, plan.branch_name()])))
        plan.link(last, join)
    if not walkers:
        plan.link(fork, join, draw(st.sampled_from([None, plan.branch_name()])))
    plan.end = join


def draw_late_join(draw: st.DrawFn, plan: Blueprint) -> None:
    """A branch that begins at a join of branches that have long been taken."""
    plan.grow(plan.add("fork"))
    plan.link(plan.end, plan.chain(draw(CHAINS))[0], plan.branch_name())
    join = plan.add("join", waits_for=plan.taken)
    plan.grow(join)


def draw_inner_fork(draw: st.DrawFn, plan: Blueprint, last: str) -> str:
    """A fork at the end of a branch; returns the name of the branch that goes on after its join."""
    fork, inner, waiting = plan.add("fork"), plan.branch_name(), plan.branch_name()
    plan.link(last, fork)
    first, _ = plan.chain(draw(CHAINS))
    plan.link(fork, first, inner)
    join = plan.add("join", waits_for=[inner])
    plan.link(fork, join, waiting)
    if draw(st.booleans()):
        plan.link(join, plan.chain(draw(CHAINS))[0])
    return waiting


def draw_loose_end(draw: st.DrawFn, plan: Blueprint) -> None:
    """Branches that nobody joins."""
    plan.grow(plan.add("fork"))
    for chain in draw(st.lists(CHAINS, min_size=1, max_size=3)):
        plan.link(plan.end, plan.chain(chain)[0], draw(st.sampled_from([None, plan.branch_name()])))


def draw_circle(draw: st.DrawFn, plan: Blueprint) -> None:
    """Back to some step: round and round, or into a branch that has begun already (rows 9, 16)."""
    first, last = plan.chain([(), *draw(CHAINS)])
    plan.grow(first)
    plan.link(last, draw(st.sampled_from([*plan.policies])))


def draw_deadlock(draw: st.DrawFn, plan: Blueprint) -> None:
    """Two branches that wait for each other (row 19)."""
    plan.grow(plan.add("fork"))
    names = [plan.branch_name(), plan.branch_name()]
    for name, other in (names, reversed(names)):
        first, last = plan.chain(draw(CHAINS))
        plan.link(plan.end, first, name)
        plan.link(last, plan.add("join", waits_for=[other]))


def draw_twice(draw: st.DrawFn, plan: Blueprint) -> None:
    """Two ways into one named branch: the second fails the run (row 9)."""
    plan.grow(plan.add("fork"))
    twice, target = plan.branch_name(), plan.add(())
    for chain in draw(st.lists(CHAINS, min_size=2, max_size=2)):
        first, last = plan.chain(chain)
        plan.link(plan.end, first, plan.branch_name())
        plan.link(last, target, twice)


# the model: what a run must look like, told from the entries alone


@dataclass
class Stay:
    """A branch at a step."""

    step: str
    visit: int
    kind: str
    since_ms: int
    attempt: int = 1
    clock: Clock | None = None
    is_suspended: bool = False
    asked: AskedFor = field(default_factory=AskedFor)

    @property
    def clocks(self) -> list[Clock]:
        found = [self.clock, *[each.clock for each in self.asked.pending()]]
        return [clock for clock in found if clock is not None]

    @property
    def status(self) -> str:
        if self.is_suspended:
            return "suspended"
        if self.kind == "task":
            return "active" if self.clock is None else "backoff"
        return {"join": "joining", "sleep": "sleeping", "wait_signal": "waiting"}[self.kind]

    @property
    def due_ms(self) -> int | None:
        return None if self.clock is None else self.clock.now_due_ms

    def is_due(self, at_ms: int) -> bool:
        """A clock that stands still is never due."""
        return self.due_ms is not None and self.due_ms <= at_ms


def wait_at(step: Step) -> Wait | None:
    if step.sleep is not None:
        return Wait("", step.sleep.duration_ms, step.sleep.until_ms)
    return None if step.wait_signal is None else Wait(step.wait_signal.signal, step.wait_signal.timeout_ms)


def clock_at(step: Step, at_ms: int) -> Clock | None:
    return clock_of(wait_at(step), at_ms)


@dataclass
class Told:
    """What the events of a turn have changed so far.

    Attributes:
        paused: Names of branches with a pause of their own, and "" for the run.
        moved: Places that wait for nothing any more.
        stopped: Branches whose clocks a pause has stopped, "" for all of them.
        closed: By branch, scopes that were closed, with those of them that had ended.
    """

    paused: set[str]
    moved: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    closed: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)


@dataclass
class Model:
    """A second reading of the journal, simple where the core is quick."""

    workflow: Workflow
    journal: list[Entry] = field(default_factory=list)
    at: dict[str, Stay] = field(default_factory=dict)
    stopped: dict[str, Stay] = field(default_factory=dict)
    retries: Counter[tuple[Key, str]] = field(default_factory=Counter)
    allowed: Counter[Key] = field(default_factory=Counter)
    parents: dict[str, str] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    variables: dict[str, dict[str, bytes]] = field(default_factory=dict)
    visits: Counter[tuple[str, str]] = field(default_factory=Counter)
    left: set[Key] = field(default_factory=set)
    received: set[int] = field(default_factory=set)
    pause: Paused | None = None
    pauses: dict[str, Paused | None] = field(default_factory=dict)
    passed: dict[str, list[str]] = field(default_factory=dict)
    deadline: Clock | None = None
    cut_short: bool = False
    failed: str = ""
    culprit: str = ""
    status: str = ""

    def take(self, entry: Entry, at_ms: int) -> None:
        if self.status:
            assert self.status == "failed", "nothing follows a terminal entry (invariant 29)"
            assert isinstance(entry, RunReopened), "but a retry follows a failure"
        if self.passed:
            assert isinstance(entry, Paused), "who passes a pause step is paused at once"
            assert entry.reason in self.passed.pop(entry.branch)
        assert isinstance(entry, RunStarted) == (not self.journal), "one start, at the start"
        self.journal.append(entry)
        self.apply(entry, at_ms)
        self.set_clocks(at_ms)

    def apply(self, entry: Entry, at_ms: int) -> None:
        match entry:
            case RunStarted():
                self.start(entry, at_ms)
            case StepCompleted() | SleepEnded() | SignalReceived() | WaitTimedOut() | BranchJoined():
                self.move(entry, at_ms)
            case RetryScheduled():
                self.retry(entry, at_ms)
            case Paused() | Unpaused():
                self.change_pause(entry)
            case RunReopened():
                self.reopen(at_ms)
            case RunCompleted():
                assert self.at == {}, "a run completes with its last branch"
                self.status, self.deadline = "completed", None
            case RunFailed() | RunCancelled():
                self.stop(entry, at_ms)
            case RunBlocked():
                assert self.at[entry.branch].step == entry.step
            case _:
                self.operate(entry, at_ms)

    def operate(self, entry: Operated, at_ms: int) -> None:
        stay = self.at[entry.branch]
        assert (stay.step, stay.visit, stay.kind) == (entry.step, entry.visit, "task")
        stay.asked.take(entry, len(self.journal), at_ms)
        if isinstance(entry, StepSuspended):
            assert not stay.is_suspended, "who is put away is put away once"
            stay.is_suspended, stay.clock = True, None
        else:
            stay.is_suspended = False

    def start(self, entry: RunStarted, at_ms: int) -> None:
        assert entry.timeout_ms == self.workflow.timeout_ms
        self.values["main"], self.variables["main"] = entry.input, {}
        if entry.timeout_ms is not None:
            self.deadline = Clock(at_ms + entry.timeout_ms)
        self.arrive("main", (Edge(self.workflow.start_at),), entry.arrivals, at_ms)

    def move(
        self, entry: StepCompleted | SleepEnded | SignalReceived | WaitTimedOut | BranchJoined, at_ms: int
    ) -> None:
        key = (entry.branch, entry.step, entry.visit)
        assert key not in self.left, "a step is left once per visit (invariants 14, 23, 26)"
        self.left.add(key)
        stay, step = self.at.pop(entry.branch), self.workflow.steps[entry.step]
        assert (stay.step, stay.visit) == (entry.step, entry.visit)
        edges = step.edges
        match entry:
            case StepCompleted():
                assert (stay.kind, stay.attempt) == ("task", entry.attempt)
                self.values[entry.branch] = entry.output
                seen = stay.asked.after_completion(self.variables[entry.branch], entry.sets)
                self.variables[entry.branch] = seen
            case SleepEnded():
                assert stay.kind == "sleep"
                assert stay.is_due(at_ms), "no sleep is short (invariant 24)"
            case SignalReceived():
                assert stay.kind == "wait_signal"
                assert entry.seq not in self.received, "a signal is received once (invariant 19)"
                self.received.add(entry.seq)
                self.values[entry.branch] = entry.payload
            case WaitTimedOut():
                assert step.wait_signal is not None
                assert step.wait_signal.on_timeout is not None
                assert stay.is_due(at_ms), "no time-out is early (invariant 24)"
                edges = (Edge(step.wait_signal.on_timeout),)
            case BranchJoined():
                assert step.join is not None
                assert entry.joined == step.join.branches
                assert all(map(self.is_ended, entry.joined))
                self.values[entry.branch] = {name: self.values[name] for name in entry.joined}
        self.arrive(entry.branch, edges, entry.arrivals, at_ms)

    def retry(self, entry: RetryScheduled, at_ms: int) -> None:
        key, stay = (entry.branch, entry.step, entry.visit), self.at[entry.branch]
        assert (stay.step, stay.visit) == (entry.step, entry.visit)
        stay.attempt += 1
        assert entry.attempt == stay.attempt
        self.retries[key, entry.pattern] += 1
        self.allowed[key] -= 1
        assert self.allowed[key] >= 0, "invariant 15"
        stay.clock, stay.is_suspended = Clock(at_ms + entry.delay_ms), False
        stay.asked.forget(entry.operation)

    def change_pause(self, entry: Paused | Unpaused) -> None:
        pause = entry if isinstance(entry, Paused) else None
        if not entry.branch:
            self.pause = pause
        if entry.branch or pause is None:
            for name in [entry.branch] if entry.branch else [*self.at]:
                self.pauses[name] = pause if name in self.at else self.pauses[name]

    def stop(self, entry: RunFailed | RunCancelled, at_ms: int) -> None:
        self.status = "failed" if isinstance(entry, RunFailed) else "cancelled"
        self.failed = entry.branch if isinstance(entry, RunFailed) else ""
        self.culprit = entry.operation if isinstance(entry, RunFailed) else ""
        self.stopped, self.at, self.deadline = self.at, {}, None
        for clock in [clock for stay in self.stopped.values() for clock in stay.clocks]:
            clock.stand(still=True, at_ms=at_ms)

    def reopen(self, at_ms: int) -> None:
        """Semantics row 52: the failed step again with new budgets, the others as they were."""
        assert self.can_reopen(), "what can only fail again is not retried"
        failed = self.failed
        self.status, self.pause = "", None
        if self.workflow.timeout_ms is not None:
            self.deadline = Clock(at_ms + self.workflow.timeout_ms)
        self.at, self.stopped = self.stopped, {}
        for name, stay in self.at.items():
            self.pauses[name] = None
            stay.asked.forget_children()
            stay.is_suspended = False
            if name == failed and stay.kind == "task":
                stay.asked.forget(self.culprit)
                stay.attempt, stay.clock = stay.attempt + 1, None
                self.give_budgets((name, stay.step, stay.visit))
            elif name == failed:
                stay.since_ms = at_ms
                stay.clock = clock_at(self.workflow.steps[stay.step], at_ms)

    def can_reopen(self) -> bool:
        was_lost = self.failed and self.failed not in self.stopped
        return not was_lost and any(stay.kind != "join" for stay in self.stopped.values())

    def set_clocks(self, at_ms: int) -> None:
        whole = self.pause is not None and self.pause.freezes
        for name, stay in self.at.items():
            own = self.pauses[name]
            for clock in stay.clocks:
                clock.stand(whole or (own is not None and own.freezes), at_ms)
        if self.deadline is not None:
            self.deadline.stand(whole, at_ms)

    def arrive(self, source: str, edges: Sequence[Edge], arrivals: Sequence[Arrival], at_ms: int) -> None:
        reasons: list[str] = []
        self.pauses.setdefault(source, None)
        while len(edges) == 1 and self.workflow.steps[edges[0].step].kind in {"fork", "pause"}:
            if edges[0].branch not in {None, source}:
                break
            step = self.workflow.steps[edges[0].step]
            reasons += [] if step.pause is None else [step.pause.reason]
            edges = step.edges
        if len(arrivals) != len(edges):
            assert not arrivals
            waited_at = {stay.step for stay in self.at.values()}
            self.cut_short = len(edges) > 1 or edges[0].step not in waited_at
        for each, edge in zip(arrivals, edges, strict=False):
            step, passed = self.past_pauses(edge.step)
            assert (each.step, each.kind, each.wait) == (step.name, step.kind, wait_at(step))
            assert each.branch not in self.at
            if len(edges) == 1 and edge.branch in {None, source}:
                assert (each.branch, each.parent) == (source, None)
            else:
                self.begin(each, edge, source)
            if passed or reasons:
                self.passed[each.branch] = [*reasons, *passed]
            self.visits[each.branch, each.step] += 1
            assert each.visit == self.visits[each.branch, each.step]
            self.at[each.branch] = Stay(each.step, each.visit, each.kind, at_ms, clock=clock_at(step, at_ms))
            self.give_budgets((each.branch, each.step, each.visit))

    def past_pauses(self, name: str) -> tuple[Step, list[str]]:
        step, reasons = self.workflow.steps[name], []
        while step.pause is not None:
            reasons.append(step.pause.reason)
            step = self.workflow.steps[step.edges[0].step]
        return step, reasons

    def give_budgets(self, key: Key) -> None:
        policies = self.workflow.retry(key[1])
        self.allowed[key] = sum(policy.max_retries for policy in policies)
        for policy in policies:
            self.retries[key, policy.pattern] = 0

    def begin(self, arrival: Arrival, edge: Edge, source: str) -> None:
        branch = edge.branch or f"{source}-{len(self.values)}"
        assert branch not in self.values, "a branch begins once"
        assert (arrival.branch, arrival.parent) == (branch, source), "row 9"
        self.parents[branch] = source
        self.values[branch] = self.values[source]
        self.variables[branch] = self.variables[source]
        self.pauses[branch] = self.pauses[source]

    def is_ended(self, branch: str) -> bool:
        return branch in self.values and branch not in self.at

    def is_held(self, branch: str) -> bool:
        return self.pause is not None or self.pauses[branch] is not None

    def waiting(self) -> dict[str, str]:
        """Awaited signals by place."""
        found = {name: self.workflow.steps[stay.step].wait_signal for name, stay in self.at.items()}
        awaited = {name: wait.signal for name, wait in found.items() if wait is not None}
        for name, stay in self.at.items():
            for each in stay.asked.pending():
                if each.status == "waiting" and each.wait is not None:
                    awaited[place_of(name, each.key)] = each.wait.signal
        return awaited

    def since(self, place: str) -> int:
        name, key = split_place(place)
        return self.at[name].asked.all[key].since_ms if key else self.at[name].since_ms

    def expected(self, event: Event, told: Told) -> Kind | None:
        """What an event is recorded as, or None for not at all."""
        match event:
            case AttemptSucceeded():
                return StepCompleted
            case AttemptFailed():
                return self.expected_of(event)
            case SignalArrived():
                return self.expected_of_signal(event, told)
            case TimerFired():
                return self.expected_of_timer(event, told)
            case DeadlinePassed():
                return None if "" in told.stopped else RunFailed
            case _:
                return self.expected_of_body(event, told)

    def expected_of_signal(self, event: SignalArrived, told: Told) -> Kind | None:
        waiting = [at for at, signal in self.waiting().items() if signal == event.name and at not in told.moved]
        if not waiting:
            return None
        # Row 28: it is for the one that has waited longest; several may have begun in the same millisecond.
        longest_ms = min(map(self.since, waiting))
        are_branches = {at in self.at for at in waiting if self.since(at) == longest_ms}
        kinds = {True: SignalReceived, False: OperationCompleted}
        return kinds[are_branches.pop()] if len(are_branches) == 1 else SignalReceived | OperationCompleted

    def expected_of_timer(self, event: TimerFired, told: Told) -> type[Entry] | None:
        stay = self.at[event.branch]
        asked = stay.asked.all[event.key] if event.key else None
        clock = stay.clock if asked is None else asked.clock
        is_named = clock is not None and clock.named
        if place_of(event.branch, event.key) in told.moved:
            return None
        if told.stopped & {"", event.branch} and not is_named:
            return None
        if asked is None:
            return self.expected_at(self.workflow.steps[event.step])
        return OperationCompleted if asked.status == "sleeping" else OperationFailed

    def expected_of_body(self, event: Event, told: Told) -> type[Entry] | None:
        assert isinstance(event, AttemptSuspended | AttemptDiverged | Operating | ChildEnded)
        stay = self.at[event.branch]
        if isinstance(event, AttemptDiverged):
            return RunBlocked
        if isinstance(event, AttemptSuspended):
            gone = {place_of(event.branch, key) for key in event.awaited} & told.moved
            return None if gone or stay.is_suspended else StepSuspended
        is_done = place_of(event.branch, event.key) in told.moved
        if is_done or stay.asked.is_closed(event.key, told.closed.get(event.branch, {})):
            return None
        if isinstance(event, OperationRaised):
            return stay.asked.expected_of(event)
        if isinstance(event, ChildEnded):
            return OperationCompleted if event.failure is None else OperationFailed
        kinds: dict[type[Event], type[Entry]] = {
            OperationRequested: OperationBegun,
            OperationSucceeded: OperationCompleted,
            ScopesEnded: ScopesClosed,
            BodyReported: Reported,
        }
        return kinds[type(event)]

    def moved_by(self, entry: Entry) -> set[str]:
        """Places that wait for nothing any more after an entry."""
        if not isinstance(entry, Moved | Operated | RetryScheduled):
            return set()
        asked = self.at[entry.branch].asked
        gone: Iterable[str] = ()
        match entry:
            case SleepEnded() | WaitTimedOut() | SignalReceived():
                return {entry.branch}
            case StepCompleted():
                gone = asked.all
            case RetryScheduled():
                gone = asked.caused_by(entry.operation)
            case ScopesClosed():
                gone = asked.closed_by(entry.key, entry.ended)
            case OperationCompleted() | OperationFailed():
                gone = [entry.key]
            case _:
                pass
        return {place_of(entry.branch, key) for key in gone}

    def expected_at(self, step: Step) -> type[Entry]:
        if step.wait_signal is None:
            return SleepEnded
        return RunFailed if step.wait_signal.on_timeout is None else WaitTimedOut

    def meant(self, wanted: Paused | Unpaused | RunCancelled, paused: set[str]) -> list[Entry]:
        """What a request is recorded as, where `paused` are paused by now; asking twice means nothing more.

        What is asked of a branch that is over by now is meant for those that have come of it.
        """
        match wanted:
            case RunCancelled():
                return [wanted]
            case Unpaused(branch=""):
                return [wanted] if paused else []
            case Paused():
                return [
                    changed(wanted, branch=name) for name in self.heirs(wanted.branch) if name not in paused
                ]
            case _:
                return [changed(wanted, branch=name) for name in self.heirs(wanted.branch) if name in paused]

    def heirs(self, name: str) -> list[str]:
        if name in {"", *self.at}:
            return [name]
        return [heir for child, parent in self.parents.items() if parent == name for heir in self.heirs(child)]

    def expected_of(self, event: AttemptFailed) -> type[Entry]:
        """Row 23."""
        types = event.failure.types or (event.failure.type,)
        key = (event.branch, event.step, event.visit)
        for policy in self.workflow.retry(event.step):
            if policy.matches(types):
                has_budget = self.retries[key, policy.pattern] < policy.max_retries
                return RetryScheduled if has_budget else RunFailed
        return RunFailed

    def paused(self) -> set[str]:
        """Names of branches with a pause of their own, and "" for the run."""
        names = {name for name in self.at if self.pauses[name] is not None}
        return names | ({""} if self.pause is not None else set())

    def owed(self) -> list[Effect]:
        effects: list[Effect] = []
        for branch, stay in self.at.items():
            start = StartAttempt(branch, stay.step, stay.visit, stay.attempt)
            effects += stay.asked.owed(start, is_away=stay.is_suspended and not self.is_held(branch))
            if stay.is_suspended or (stay.kind == "task" and self.is_held(branch)):
                continue
            if stay.status == "active":
                effects.append(start)
            elif stay.due_ms is not None:
                fired = TimerFired(branch, stay.step, stay.visit, stay.due_ms)
                effects.append(ArmTimer(branch, stay.due_ms, start if stay.kind == "task" else fired))
        if self.deadline is not None and self.deadline.now_due_ms is not None:
            due_ms = self.deadline.now_due_ms
            effects.append(ArmTimer("", due_ms, DeadlinePassed(due_ms)))
        return effects

    def expected_status(self) -> str:
        if self.status:
            return self.status
        if isinstance(self.journal[-1], RunBlocked):
            return "blocked"
        if any(stay.status == "active" and not self.is_held(name) for name, stay in self.at.items()):
            return "running"
        return "paused" if self.paused() else "suspended"

    def agrees_with(self, run: Run) -> None:
        """After each commit."""
        failure = run.failure
        assert not self.passed
        assert not self.cut_short or (failure is not None and failure.type == "duplicate_branch")
        assert run.position == len(self.journal)
        assert run.open == len(self.at)
        assert {branch.id: branch.value for branch in run.branches.values()} == self.values
        assert {branch.id: branch.variables for branch in run.branches.values()} == self.variables
        assert run.status == self.expected_status()
        still_open = {name: run.branches[name] for name in self.at}
        assert {name: b.status for name, b in still_open.items()} == {n: s.status for n, s in self.at.items()}
        assert {name: b.pause for name, b in still_open.items()} == {n: self.pauses[n] for n in self.at}
        assert {name: b.due_at_ms for name, b in still_open.items()} == {
            n: s.due_ms for n, s in self.at.items()
        }
        lefts = {name: stay.clock and stay.clock.left_ms for name, stay in self.at.items()}
        assert {name: b.left_ms for name, b in still_open.items()} == lefts, "invariant 27"
        assert run.waits == self.waiting()
        for name, stay in self.at.items():
            stay.asked.agrees_with(run.branches[name])
        assert run.children == {
            place_of(name, each.key): each.child
            for name, stay in self.at.items()
            for each in stay.asked.pending()
            if each.child is not None
        }
        since = [self.since(place) for place in run.waits]
        assert since == sorted(since), "who waits longest comes first (row 28)"
        self.agrees_with_effects(run)
        if not isinstance(self.journal[-1], RunReopened | RunBlocked):
            self.no_join_is_forgotten(run)

    def agrees_with_effects(self, run: Run) -> None:
        deadline = self.deadline or Clock(0)
        assert run.deadline_ms == (self.deadline and deadline.now_due_ms)
        assert run.deadline_left_ms == (self.deadline and deadline.left_ms)
        effects = self.owed()
        owed = owing.owed(run)
        assert {place(effect): effect for effect in owed} == {place(effect): effect for effect in effects}
        assert len(owed) == len(effects)
        for effect in owed:
            then = effect.then if isinstance(effect, ArmTimer) else effect
            assert not (isinstance(then, StartAttempt) and run.holds(run.branches[then.branch])), "invariant 31"
        is_running = any(isinstance(effect, StartAttempt) for effect in effects)
        dues = [effect.due_at_ms for effect in effects if isinstance(effect, ArmTimer)]
        if isinstance(self.journal[-1], RunBlocked):
            assert run.due_at_ms is None, "a blocked run waits for people"
        else:
            assert run.is_over or run.due_at_ms == (0 if is_running else min(dues, default=None))

    def no_join_is_forgotten(self, run: Run) -> None:
        joining = [name for name, stay in self.at.items() if stay.kind == "join"]
        assert set(run.joining) == set(joining)
        for branch in joining:
            step = self.workflow.steps[self.at[branch].step]
            assert step.join is not None
            assert not all(map(self.is_ended, step.join.branches)), "nobody waits for nothing"
        waited_at = [self.at[branch].step for branch in joining]
        assert len(set(waited_at)) == len(waited_at), "one branch waits at a join (row 18)"


def place(effect: Effect) -> tuple[str, str]:
    return effect.branch, effect.key if isinstance(effect, ArmTimer) else ""


def photo(state: object, slot: str = "") -> object:
    """All slots of a run and of what is in it, with the order of what they hold; for some it means nothing."""
    if isinstance(state, Run | Branch | Operation):
        return tuple([(each, photo(getattr(state, each), each)) for each in state.__slots__])
    if isinstance(state, Mapping):
        items = [(key, photo(value)) for key, value in state.items()]
        return tuple(sorted(items) if slot in {"timers", "children"} else items)
    return state


# the outside


class Choices:
    """A few numbers, over and over, decide everything; where they are 0, all goes well and in order."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = itertools.cycle(numbers)

    def below(self, bound: int) -> int:
        return next(self._numbers) % bound

    def of(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]


Attempted = AttemptSucceeded | AttemptFailed
Move = Effect | str | tuple[str, Child]
"""An attempt or a timer; the name of a signal; a child, and who waits for it."""


class Story:
    """One run from its start to its end; every commit is held to the model, the header and the replay."""

    def __init__(self, workflow: Workflow, numbers: Sequence[int], *, is_talkative: bool = False) -> None:
        self.workflow = workflow
        self.choices = Choices(numbers)
        self.is_talkative = is_talkative or self.choices.below(4) == 3
        self.model = Model(workflow)
        self.run = Run("r")
        self.now_ms = 1_000
        self.journal: list[tuple[bytes, int]] = []
        self.photos: list[object] = [photo(self.run)]
        self.owings: list[list[Effect]] = [[]]
        self.states: list[bytes] = [snapshots.encode_run(self.run)]
        self.told: list[Event] = []
        self.busy: set[str] = set()
        """Branches whose bodies have said something in this turn."""
        self.begun: set[StartAttempt] = set()
        self.outputs = itertools.count(1)
        self.seqs = itertools.count(1)
        self.reopened = self.diverged = 0
        self.commits: list[int] = []
        """Positions at which the run stood after each commit."""

    def tell_all(self) -> None:
        self.commit([StartRequested(INPUT)], [])
        for _ in range(TURNS_MAX):
            if self.run.is_over and not self.reopens():
                break
            self.turn()
        assert self.run.is_over, "every run ends"
        assert isinstance(self.model.journal[-1], RunCompleted | RunFailed | RunCancelled)
        self.replays()

    def reopens(self) -> bool:
        """Retry a failed run now and then, where that makes sense; it is refused where it does not."""
        entries = control.controlled(self.run, [ControlRequested(0, RunReopened(OPS))])
        can = self.run.status == "failed" and self.model.can_reopen()
        assert entries == ([RunReopened(OPS)] if can else [])
        if not can or self.reopened == REOPENED_MAX or self.choices.below(3) == 0:
            return False
        self.reopened += 1
        self.told.clear()
        self.apply(entries)
        self.take_over()
        return not self.run.is_over

    def turn(self) -> None:
        moves = self.moves()
        asked = self.asked()
        assert moves or asked, "a run that is not over can go on"
        count = 1 + self.choices.below(len(moves)) if moves else 0
        events: list[Event] = []
        self.busy = set()
        for _ in range(count):
            events += self.events_of(moves.pop(self.choices.below(len(moves))))
        for each in asked:
            events.insert(self.choices.below(len(events) + 1), ControlRequested(next(self.seqs), each))
        mixed = list(events)
        for _ in range(self.choices.below(3)):
            mixed.insert(self.choices.below(len(mixed) + 1), self.nonsense(events[0]))
        repeatable = Attempted | TimerFired | DeadlinePassed | OperationRequested | ScopesEnded | ChildEnded
        self.told += [each for each in events if isinstance(each, repeatable)]
        self.commit(mixed, events)

    def moves(self) -> list[Move]:
        """Attempts that are owed, or were and still run; timers; what somebody waits for."""
        moves: list[Move] = [each for each in owing.owed(self.run) if each.branch]
        for each in sorted(self.begun, key=lambda start: start.branch):
            branch = self.run.branches[each.branch]
            place = Arrival(each.branch, each.step, each.visit)
            is_there = branch.at is not None and (branch.at.step, branch.at.visit) == (place.step, place.visit)
            if is_there and branch.status == "active" and branch.attempt == each.attempt and each not in moves:
                moves.append(each)
        moves += [*self.run.waits.values(), *self.run.children.items()]
        deadlines = [each for each in owing.owed(self.run) if not each.branch]
        if not moves or self.choices.below(5) == 4:
            moves += deadlines
        return moves

    def asked(self) -> list[Paused | Unpaused | RunCancelled]:
        """What people want of the run in this turn, most often nothing; a pause is not for ever."""
        choices, names = self.choices, [*self.model.at]
        is_stuck = not self.moves_without_deadline()
        if is_stuck or (self.model.paused() and choices.below(3) == 2):
            paused = sorted(self.model.paused())
            return [Unpaused(choices.of(["", *paused]) if paused and not is_stuck else "", OPS)]
        if choices.below(5) == 4:
            name = choices.of(["", "", *names, *self.model.parents.values()])
            if set(self.model.heirs(name)) - self.model.paused():
                return [Paused(name, "wait", OPS, freezes=choices.below(3) != 2)]
        return [RunCancelled("enough", OPS)] if choices.below(15) == 14 else []

    def moves_without_deadline(self) -> bool:
        owed = [each for each in owing.owed(self.run) if each.branch]
        return bool(owed or self.run.waits or self.run.children)

    def events_of(self, move: Move) -> list[Event]:
        if isinstance(move, str):
            number = next(self.outputs)
            return [SignalArrived(next(self.seqs), move, b"json.1:%d" % number)]
        if isinstance(move, tuple):
            failed = self.choices.below(3) == 2
            outcome = self.choices.of(FAILURES) if failed else b"json.1:%d" % next(self.outputs)
            return [child_ended(self.run, move[0], next(self.seqs), outcome)]
        if isinstance(move, ArmTimer):
            self.now_ms = max(self.now_ms, move.due_at_ms)
            if not isinstance(move.then, StartAttempt):
                return [move.then]
            move = move.then
        return self.said_by(move)

    def said_by(self, move: StartAttempt) -> list[Event]:
        """What its body says, once in a turn."""
        if move.branch in self.busy:
            return []
        self.busy.add(move.branch)
        at = (move.branch, move.step, move.visit, move.attempt)
        if not self.is_talkative or self.choices.below(4) == 0:
            return [self.outcome(at)]
        if self.diverged < DIVERGED_MAX and self.choices.below(20) == 19:
            self.diverged += 1
            return [AttemptDiverged(*at, "step a#1", "sleep nap#1")]
        talk = Talk(self.choices, self.model.at[move.branch].asked, at, self.outputs)
        events = talk.events()
        self.now_ms = max(self.now_ms, talk.now_ms)
        if not isinstance(events[-1], AttemptSuspended) and self.choices.below(3) == 2:
            events.append(self.outcome(at, talk))
        return events

    def outcome(self, at: tuple[str, str, int, int], talk: Talk | None = None) -> Attempted:
        asked = self.model.at[at[0]].asked
        if self.choices.below(3) == 2:
            chance = self.choices.below(10) / 10
            failed = [each.key for each in asked.all.values() if each.status == "failed"]
            if talk is not None:
                failed = [key for key in failed if not asked.is_closed(key, talk.ended)]
            culprit = self.choices.of(["", *failed, *failed])
            return AttemptFailed(*at, self.choices.of([*FAILURES[:3], *FAILURES]), chance, culprit)
        number = next(self.outputs)
        sets = self.choices.of([{}, {"v": b"json.1:%d" % number}, {"v": DELETED}])
        return AttemptSucceeded(*at, b"json.1:%d" % number, sets)

    def nonsense(self, event: Event) -> Event:
        """What is stale, or was never true: it must mean nothing."""
        options: list[Event] = [
            StartRequested(b"json.1:1"),
            SignalArrived(0, "nobody", INPUT),
            DeadlinePassed(1),
            ControlRequested(0, RunReopened(OPS)),
            ControlRequested(0, Paused("ghost", "", OPS)),
            ControlRequested(0, Unpaused("ghost", OPS)),
            *[each for each in [*self.told[-3:], *self.told[:1]] if not self.is_owed(each)],
        ]
        if isinstance(event, AttemptEnded | Operating | TimerFired | ChildEnded):
            options += [changed(event, visit=event.visit + 1), changed(event, step="ghost")]
            options += [changed(event, branch="ghost")]
        if isinstance(event, TimerFired | ChildEnded):
            options += [changed(event, key="ghost#1")]
        if isinstance(event, ChildEnded):
            options += [changed(event, child="other", seq=event.seq + 1_000)] * 9
        if isinstance(event, AttemptEnded | Operating):
            options += [changed(event, attempt=event.attempt + 1), changed(event, attempt=event.attempt - 1)]
        if isinstance(event, TimerFired | DeadlinePassed):
            options += [changed(event, due_at_ms=event.due_at_ms + by) for by in (-1, 1)]
        for name, stay in self.model.at.items():
            if stay.kind in {"sleep", "wait_signal"}:
                # Its clock says something else, or stands still by now.
                options.append(TimerFired(name, stay.step, stay.visit, (stay.due_ms or 0) - 1))
            options += nonsense_about(stay.asked, (name, stay.step, stay.visit, stay.attempt))
        over = [name for name in self.run.branches if not self.model.heirs(name)]
        options += [ControlRequested(0, Paused(name, "", OPS)) for name in over[:1]]
        options += [ControlRequested(0, Unpaused(name, OPS)) for name in over[:1]]
        return self.choices.of(options)

    def is_owed(self, event: Event) -> bool:
        """Whether a clock says again what a pause of no length has passed over."""
        return any(isinstance(each, ArmTimer) and each.then == event for each in owing.owed(self.run))

    def commit(self, events: Sequence[Event], genuine: Sequence[Event]) -> None:
        entries = deciding.decide(self.workflow, self.run, events)
        assert photo(self.run) == self.photos[-1], "decide is pure"
        assert entries, "what is not stale means something"
        self.short_way_is_right(events)
        if genuine:
            assert deciding.decide(self.workflow, self.run, genuine) == entries, "the stale means nothing"
            in_company = [*genuine, StartRequested(INPUT)]
            assert deciding.decide(self.workflow, self.run, in_company) == entries, "no shortcut differs"
            self.recorded_as_expected(genuine, entries)
            asked = [event for event in genuine if isinstance(event, ControlRequested)]
            if len(asked) == len(genuine) and self.run.position + len(entries) <= turns.JOURNAL_ENTRIES_MAX:
                assert control.controlled(self.run, asked) == entries, "control needs no definition"
        self.apply(entries)
        if isinstance(entries[-1], RunBlocked):
            self.told.clear()
            self.take_over()

    def short_way_is_right(self, events: Sequence[Event]) -> None:
        """Where a step leads straight on, that is all that is decided and owed, also of the stale."""
        for event in events:
            done = isinstance(event, AttemptSucceeded) and steps.straight_on(self.workflow, self.run, event)
            if not done:
                continue
            assert deciding.decide(self.workflow, self.run, [event]) == [done], "no shortcut differs"
            assert headers.header_after(self.run, [done]) == headers.Header("running", 0, completes=True)
            quick, slow = (self.recovered(len(self.journal)) for _ in range(2))
            at = evolving.go_straight_on(quick, done, self.now_ms)
            evolving._evolve(slow, done, self.now_ms)
            slow.branches[done.branch].since_ms = quick.branches[done.branch].since_ms  # counts not for tasks
            assert photo(quick) == photo(slow), "no shortcut differs"
            assert owing.owed_after(quick, [done]) == [StartAttempt(at.branch, at.step, at.visit, 1)]

    def take_over(self) -> None:
        """A join may have been met in the turn that stopped everything; a worker decides that first."""
        met = deciding.decide(self.workflow, self.run, [])
        if met:
            self.apply(met)
        self.model.no_join_is_forgotten(self.run)

    def apply(self, entries: list[Entry]) -> None:
        header = headers.header_after(self.run, entries)
        before = owing.owed(self.run)
        waited_for = dict(self.run.children)
        after = headers.run_after(self.run, entries)
        passed = children.passed_down(self.run, after, entries)
        started = children.started(after, entries)
        outcome = children.outcome(after)
        assert photo(self.run) == self.photos[-1], "nobody changes a run but evolve"
        at_ms = self.now_ms + self.choices.below(3) * 700
        # The same header is right whatever the stamp turns out to be.
        for stamp_ms in (at_ms + 7_000_000, at_ms):
            run = self.run if stamp_ms == at_ms else self.recovered(len(self.journal))
            for entry in entries:
                evolving.evolve(run, entry, stamp_ms)
                if run is self.run:
                    self.record(entry, at_ms)
            self.header_is_right(run, header, entries, stamp_ms)
        self.now_ms = at_ms
        self.commits.append(len(self.journal))
        self.model.agrees_with(self.run)
        self.owes_what_it_should(entries, before)
        self.children_are_told(entries, waited_for, passed)
        assert started == [
            place
            for place in [
                place_of(each.branch, each.key) for each in entries if isinstance(each, OperationBegun)
            ]
            if place in self.run.children
        ]
        assert not self.run.is_over or outcome == self.outcome_of_run()
        if self.choices.below(4) == 3 and not self.run.is_over:
            self.clocks_stand_still_in_a_pause()

    def record(self, entry: Entry, at_ms: int) -> None:
        """Hold one entry that was applied just now to everything that is true after each."""
        self.journal.append((codec.encode_entry(entry), at_ms))
        self.model.take(entry, at_ms)
        assert check(self.run) == []
        self.photos.append(photo(self.run))
        self.owings.append(owing.owed(self.run))
        self.states.append(snapshots.encode_run(self.run))
        assert photo(self.recovered(len(self.journal))) == self.photos[-1], "a snapshot has all of it"

    def recovered(self, position: int) -> Run:
        """The run as a snapshot of that position gives it (invariant 5)."""
        run = snapshots.decode_run("r", self.states[position])
        assert run is not None
        return run

    def recorded_as_expected(self, events: Iterable[Event], entries: Iterable[Entry]) -> None:
        """Each event, in its order, is recorded as what it means; the rest follows from these."""
        left, told = deque(entries), Told(self.model.paused())
        for event in events:
            skip_consequences(left, told.paused)
            if left and isinstance(left[0], RunFailed) and left[0].failure.type == "duplicate_branch":
                break
            if isinstance(event, ControlRequested):
                wanted = event.wanted
                assert not isinstance(wanted, RunReopened)
                for each in self.model.meant(wanted, told.paused):
                    assert left.popleft() == each
                    note_pause(each, told.paused, told.stopped)
                if isinstance(wanted, RunCancelled):
                    assert not left
                    break
                continue
            kind = self.model.expected(event, told)
            if kind is None:
                continue
            entry = left.popleft()
            assert isinstance(entry, kind)
            if isinstance(entry, RunFailed | RunBlocked):
                assert not left
                break
            self.says_the_same(event, entry)
            if isinstance(event, SignalArrived):
                self.was_first(entry, told.moved)
            if isinstance(entry, ScopesClosed):
                told.closed.setdefault(entry.branch, {})[entry.key] = entry.ended
            told.moved |= self.model.moved_by(entry)
        skip_consequences(left, told.paused)
        types = [entry.failure.type if isinstance(entry, RunFailed) else type(entry).__name__ for entry in left]
        assert types in ([], ["duplicate_branch"], ["journal_limit"], ["join_unsatisfiable"])

    def was_first(self, entry: Entry, moved: set[str]) -> None:
        """Row 28: of those who wait for the signal it is for the one that has waited longest."""
        assert isinstance(entry, SignalReceived | OperationCompleted)
        found = place_of(entry.branch, entry.key if isinstance(entry, OperationCompleted) else "")
        signal = self.run.waits[found]
        waiting = [name for name, each in self.run.waits.items() if each == signal]
        assert found == next(name for name in waiting if name not in moved)

    def says_the_same(self, event: Event, entry: Entry) -> None:
        told = ("branch", "step", "visit", "key", "kind", "wait", "child", "ended", "operation")
        told += ("output", "sets", "failure", "seq", "payload")
        for name in told:
            # A child's id is told where it has ended, and a child where it begins.
            if hasattr(event, name) and hasattr(entry, name):
                assert getattr(entry, name) == getattr(event, name)
        if isinstance(event, SignalArrived) and isinstance(entry, OperationCompleted):
            assert entry.output == event.payload

    def header_is_right(self, run: Run, header: headers.Header, entries: Sequence[Entry], at_ms: int) -> None:
        """Invariant 4: the row says what the fold says, before the stamp is known."""
        dues = [] if header.due_at_ms is None else [header.due_at_ms]
        dues += [] if header.due_in_ms is None else [at_ms + header.due_in_ms]
        assert header.status == run.status
        assert min(dues, default=None) == (None if run.is_over else run.due_at_ms)
        assert run.status != "running" or run.due_at_ms == 0
        progress = (
            StepCompleted | SleepEnded | SignalReceived | WaitTimedOut | OperationCompleted | OperationFailed
        )
        assert header.completes == any(isinstance(entry, progress) for entry in entries)
        late = [each for each in entries if isinstance(each, OperationFailed) and each.kind == "wait_signal"]
        assert header.times_out == (late != [] or any(isinstance(entry, WaitTimedOut) for entry in entries))
        idle = headers.header_after(run, [])
        assert run.is_over or (idle.status, idle.due_at_ms) == (run.status, run.due_at_ms)

    def owes_what_it_should(self, entries: Sequence[Entry], before: Sequence[Effect]) -> None:
        """What each commit adds is owed, and with what was owed before it is all that a recovery finds."""
        added = owing.owed_after(self.run, list(entries))
        owed = owing.owed(self.run)
        assert [each for each in added if each not in owed] == []
        # Whoever asks for something or reports is under way: that attempt is owed to who takes over only.
        living = [
            each for each in entries if isinstance(each, Operated) and not isinstance(each, StepSuspended)
        ]
        live = {each.branch for each in living}
        new = [each for each in owed if each not in added and each not in before]
        assert all(isinstance(each, StartAttempt) and each.branch in live for each in new)
        self.begun |= {each for each in owed if isinstance(each, StartAttempt)}

    def children_are_told(
        self,
        entries: Sequence[Entry],
        waited_for: Mapping[str, Child],
        passed: Sequence[tuple[Child, Control]],
    ) -> None:
        """Row 56: who is waited for is paused with who waits; who is waited for no more is cancelled."""
        done = [each for each in entries if isinstance(each, OperationCompleted | OperationFailed)]
        answered = {place_of(each.branch, each.key) for each in done if each.seq}
        asked: list[tuple[Child, Control]] = []
        for at, child in waited_for.items():
            told = [each for kept, each in passed if kept == child]
            if at in self.run.children:
                pauses = [each for each in entries if isinstance(each, Paused | Unpaused)]
                pauses = [each for each in pauses if each.branch in {"", split_place(at)[0]}]
                expected: list[Control] = [changed(each, branch="") for each in pauses]
                assert told == expected
            elif at in answered:
                assert told == []
            else:
                assert [type(each) for each in told] == [RunCancelled]
                assert self.run.cancel is None or told == [self.run.cancel]
            asked += [(child, each) for each in told]
        assert asked == [*passed]

    def outcome_of_run(self) -> Value | Failure | None:
        if self.run.status == "cancelled":
            assert self.run.cancel is not None
            return Failure("cancelled", f"run 'r' was cancelled: {self.run.cancel.reason}", ("cancelled",))
        return self.run.failure if self.run.status == "failed" else self.run.output

    def clocks_stand_still_in_a_pause(self) -> None:
        """Invariant 27: a pause moves every clock that stood still in it by exactly its length, to 1 ms."""
        pause_ms, length_ms = self.now_ms + 13, 86_400_001
        target = self.choices.of(["", *self.model.at])
        freezes = self.choices.below(4) != 3
        if target in self.model.paused():
            return
        run = self.recovered(len(self.journal))
        evolving.evolve(run, Paused(target, "", OPS, freezes=freezes), pause_ms)
        evolving.evolve(run, Unpaused(target, OPS), pause_ms + length_ms)
        for name, was in self.run.branches.items():
            is_meant = freezes and not was.left_ms and target in {"", name}
            stay = self.model.at.get(name)
            is_named = stay is not None and stay.clock is not None and stay.clock.named
            # Where a pause of its own holds it still, only the end of that one moves it; "" ends all of them.
            ends_all = target == "" and was.left_ms is not None
            if ends_all and name in self.model.at:
                assert run.branches[name].due_at_ms == pause_ms + length_ms + (was.left_ms or 0)
            elif was.due_at_ms is not None and name in self.model.at:
                moved_ms = length_ms if is_meant and not is_named else 0
                assert run.branches[name].due_at_ms == was.due_at_ms + moved_ms
            if name in self.model.at:
                for key, each in self.model.at[name].asked.all.items():
                    now_ms = run.branches[name].operations[key].due_at_ms
                    if ends_all_of(each, target):
                        assert now_ms == pause_ms + length_ms + ((each.clock and each.clock.left_ms) or 0)
                    elif each.due_ms is not None and each.clock is not None:
                        is_moved = freezes and target in {"", name} and not each.clock.named
                        assert now_ms == each.due_ms + (length_ms if is_moved else 0)
        if self.run.deadline_ms is not None:
            moved_ms = length_ms if freezes and not target else 0
            assert run.deadline_ms == self.run.deadline_ms + moved_ms

    def replays(self) -> None:
        """Invariant 5: any prefix of the journal gives the state that was live there."""
        decoded = [
            (codec.decode_entry(data, run_id="r", position=position), at_ms)
            for position, (data, at_ms) in enumerate(self.journal, start=1)
        ]
        assert [entry for entry, _ in decoded] == self.model.journal
        again = Run("r")
        for (entry, at_ms), live in zip(decoded, self.photos[1:], strict=True):
            evolving.evolve(again, entry, at_ms)
            assert photo(again) == live
        length = self.choices.below(len(decoded))
        replayed = evolving.replay("r", decoded[:length])
        assert photo(replayed) == self.photos[length]
        assert owing.owed(replayed) == self.owings[length]
        assert owing.owed(evolving.replay("r", decoded)) == []
        continued = self.recovered(length)
        for entry, at_ms in decoded[length:]:
            evolving.evolve(continued, entry, at_ms)
        assert photo(continued) == self.photos[-1], "what goes on from a snapshot goes on as it would have"


def ends_all_of(asked: Asked, target: str) -> bool:
    return target == "" and asked.clock is not None and asked.clock.left_ms is not None


def skip_consequences(entries: deque[Entry], paused: set[str]) -> None:
    """Leave out what follows from several branches together, and pauses by steps."""
    while entries:
        entry = entries[0]
        if isinstance(entry, Paused) and not entry.by:
            paused.add(entry.branch)
        elif not isinstance(entry, BranchJoined | RunCompleted):
            return
        entries.popleft()


def note_pause(entry: Entry, paused: set[str], stopped: set[str]) -> None:
    """Keep up with who is paused, and whose clocks were stopped, within a turn."""
    if isinstance(entry, Paused):
        paused.add(entry.branch)
        stopped |= {entry.branch} if entry.freezes else set()
    elif isinstance(entry, Unpaused):
        gone = {entry.branch} if entry.branch else {*paused, *stopped}
        paused -= gone
        stopped -= gone
