"""Stories of one run, told turn by turn: what the tests of the core's transitions are written with.

A module of the core shows its transitions in a table at its head. `takes` says which rows a test takes.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from holdfast.core.decide import decide
from holdfast.core.effects import ArmTimer, StartAttempt
from holdfast.core.entries import Child, Control, Entry, Failure, OperationKind, Paused, Unpaused, Wait
from holdfast.core.events import (
    AttemptDiverged,
    AttemptFailed,
    AttemptSucceeded,
    AttemptSuspended,
    BodyReported,
    ChildEnded,
    ControlRequested,
    DeadlinePassed,
    Event,
    OperationRaised,
    OperationRequested,
    OperationSucceeded,
    ScopesEnded,
    SignalArrived,
    StartRequested,
    TimerFired,
)
from holdfast.core.evolve import evolve
from holdfast.core.invariants import check
from holdfast.core.owed import owed
from holdfast.core.run import Branch, Run
from holdfast.definition.policies import Retry
from holdfast.definition.step import Edge, Join, Pause, Sleep, Step, WaitSignal
from holdfast.definition.task import Task
from holdfast.definition.workflow import Workflow

Test = TypeVar("Test", bound=Callable[..., None])
INPUT = b'json.1:"input"'
OUTPUT = b'json.1:"output"'
STARTED_AT_MS = 1_000_000
taken: set[tuple[str, str]] = set()


def takes(module: str, row: str) -> Callable[[Test], Test]:
    """Say that a test takes this row of the table at the head of `holdfast.core.<module>`."""
    taken.add((module, " ".join(row.split())))
    return lambda test: test


class Play:
    """One run and its workflow; `tell` decides events together and commits, a second after the last."""

    def __init__(
        self,
        *steps: Step,
        retry: Mapping[str, tuple[Retry, ...]] | None = None,
        timeout: float | None = None,
    ) -> None:
        names = {step.task for step in steps if step.task is not None}
        tasks = [Task(len, name=name, retry=(retry or {}).get(name, ())) for name in sorted(names)]
        self.workflow = Workflow("w", steps, tasks=tasks, timeout=timeout)
        self.run = Run("r")
        self.at_ms = STARTED_AT_MS
        self.first = self.tell(StartRequested(INPUT))

    def tell(self, *events: Event) -> list[Entry]:
        entries = decide(self.workflow, self.run, events)
        for entry in entries:
            evolve(self.run, entry, self.at_ms)
        self.at_ms += 1_000
        assert check(self.run) == []
        return entries

    def owed(self) -> dict[str, StartAttempt]:
        effects = [each.then if isinstance(each, ArmTimer) else each for each in owed(self.run)]
        return {effect.branch: effect for effect in effects if isinstance(effect, StartAttempt)}

    def timers(self) -> dict[str, ArmTimer]:
        return {effect.branch: effect for effect in owed(self.run) if isinstance(effect, ArmTimer)}

    def fire(self, branch: str = "main") -> list[Entry]:
        """Its timer, at the moment at which it is due."""
        return self.tell(self.fired(branch))

    def fired(self, branch: str = "main") -> TimerFired | DeadlinePassed:
        timer = self.timers()[branch]
        self.at_ms = max(self.at_ms, timer.due_at_ms)
        assert isinstance(timer.then, TimerFired | DeadlinePassed)
        return timer.then

    def ask(self, *wanted: Control) -> list[Entry]:
        return self.tell(*[ControlRequested(0, each) for each in wanted])

    def pause(self, branch: str = "", *, freezes: bool = True) -> list[Entry]:
        return self.ask(Paused(branch, "wait", "ops", freezes))

    def unpause(self, branch: str = "") -> list[Entry]:
        return self.ask(Unpaused(branch, "ops"))

    def success(self, branch: str = "main", output: bytes = OUTPUT, **sets: bytes) -> AttemptSucceeded:
        at = self.owed()[branch]
        return AttemptSucceeded(branch, at.step, at.visit, at.attempt, output, sets)

    def failure(self, branch: str = "main", *types: str, chance: float = 0.5) -> AttemptFailed:
        at = self.owed()[branch]
        types = types or ("ValueError",)
        return AttemptFailed(branch, at.step, at.visit, at.attempt, Failure(types[0], "no", types), chance)

    def succeed(self, *branches: str) -> list[Entry]:
        return self.tell(*[self.success(branch) for branch in branches or ("main",)])

    def fail(self, branch: str = "main", *types: str) -> list[Entry]:
        return self.tell(self.failure(branch, *types))

    def statuses(self) -> dict[str, str]:
        return {branch.id: branch.status for branch in self.run.branches.values()}


ALWAYS = {"a": (Retry(max_retries=9),)}
TWICE = Retry(max_retries=1, base_delay="3s")
FAILURE = Failure("ValueError", "no", ("ValueError",))


class Body:
    """The body of a branch's step, as events; the branch must be at a task."""

    def __init__(self, play: Play, branch: str = "main") -> None:
        self.play = play
        self.name = branch

    @property
    def branch(self) -> Branch:
        return self.play.run.branches[self.name]

    @property
    def at(self) -> tuple[str, str, int]:
        assert self.branch.at is not None
        return self.name, self.branch.at.step, self.branch.at.visit

    @property
    def attempt(self) -> tuple[str, str, int, int]:
        return *self.at, self.branch.attempt

    def statuses(self) -> dict[str, str]:
        return {key: each.status for key, each in self.branch.operations.items()}

    def sleeps(self, key: str, ms: int | None = None, until_ms: int | None = None) -> OperationRequested:
        return OperationRequested(*self.attempt, key, "sleep", Wait("", ms, until_ms))

    def waits(self, key: str, timeout_ms: int | None = None, name: str = "go") -> OperationRequested:
        return OperationRequested(*self.attempt, key, "wait_signal", Wait(name, timeout_ms))

    def starts(self, key: str, run_id: str = "child") -> OperationRequested:
        return OperationRequested(*self.attempt, key, "child", None, Child(run_id, "c"))

    def gives(self, key: str, kind: OperationKind = "value", **sets: bytes) -> OperationSucceeded:
        return OperationSucceeded(*self.attempt, key, kind, OUTPUT, sets)

    def raises(self, key: str, *retry: Retry, failure: Failure = FAILURE, **sets: bytes) -> OperationRaised:
        return OperationRaised(*self.attempt, key, "step", failure, retry, 0.5, sets)

    def closes(self, key: str, *ended: int) -> ScopesEnded:
        return ScopesEnded(*self.attempt, key, ended)

    def beats(self, key: str = "", payload: bytes = b"json.1:1") -> BodyReported:
        return BodyReported(*self.attempt, key, "heartbeat", payload)

    def suspends(self, *keys: str) -> AttemptSuspended:
        return AttemptSuspended(*self.attempt, keys)

    def diverges(self) -> AttemptDiverged:
        return AttemptDiverged(*self.attempt, "step a#1", "sleep nap#1")

    def fails(self, culprit: str = "") -> AttemptFailed:
        return AttemptFailed(*self.attempt, FAILURE, 0.5, culprit)

    def succeeds(self, **sets: bytes) -> AttemptSucceeded:
        return AttemptSucceeded(*self.attempt, OUTPUT, sets)

    def fired(self, key: str) -> TimerFired:
        """What its clock says, at the moment at which it is due."""
        due_at_ms = self.branch.operations[key].due_at_ms
        assert due_at_ms is not None
        self.play.at_ms = max(self.play.at_ms, due_at_ms)
        return TimerFired(*self.at, due_at_ms, key)

    def ended(self, key: str, *, seq: int = 7, child: str = "child", fails: bool = False) -> ChildEnded:
        outcome = (None, FAILURE) if fails else (OUTPUT, None)
        return ChildEnded(seq, *self.at, key, child, *outcome)


def a(name: str = "a", *edges: Edge) -> Step:
    return Step(name, task=name, edges=edges)


def fork(*edges: Edge, name: str = "fork") -> Step:
    return Step(name, "fork", edges=edges)


def join(*branches: str, to: str = "", name: str = "join") -> Step:
    return Step(name, "join", join=Join(branches), edges=(Edge(to),) if to else ())


def sleep(duration_ms: int | None, *edges: Edge, until_ms: int | None = None, name: str = "nap") -> Step:
    return Step(name, "sleep", sleep=Sleep(duration_ms, until_ms), edges=edges)


def wait(
    *edges: Edge, timeout_ms: int | None = None, to: str | None = None, name: str = "w", signal: str = "go"
) -> Step:
    return Step(name, "wait_signal", wait_signal=WaitSignal(signal, timeout_ms, to), edges=edges)


def pause(*edges: Edge, name: str = "pause", reason: str = "look") -> Step:
    return Step(name, "pause", pause=Pause(reason), edges=edges)


def signal(seq: int, name: str = "go") -> SignalArrived:
    return SignalArrived(seq, name, b"json.1:%d" % seq)


def at_step(step: str, failure: Failure) -> Failure:
    return msgspec.structs.replace(failure, step=step)


def kinds(entries: Iterable[Entry]) -> list[type[Entry]]:
    return [type(entry) for entry in entries]


def forked() -> Play:
    """`left` and `right` at work, `main-3` waiting for both."""
    edges = (Edge("l", "left"), Edge("r", "right"), Edge("join"))
    return Play(fork(*edges), a("l"), a("r"), join("left", "right", to="end"), a("end"))


def one() -> tuple[Play, Body]:
    """A body at work, and what comes after it."""
    play = Play(a("a", Edge("b")), a("b"), retry=ALWAYS)
    return play, Body(play)


def suspended(retry: Mapping[str, tuple[Retry, ...]] | None = None) -> tuple[Play, Body]:
    """A body that was put away, and waits for a sleep, a signal and a child."""
    play = Play(a("a", Edge("b")), a("b"), retry=retry)
    body = Body(play)
    play.tell(body.sleeps("nap#1", 5_000), body.waits("w#1", 6_000), body.starts("c#1"))
    play.tell(body.suspends("nap#1", "w#1", "c#1"))
    assert (play.run.status, play.run.active) == ("suspended", 0)
    return play, body


def owed_by_operations(play: Play) -> dict[str, int]:
    """By key, when something is owed because of an operation, in ms since the start."""
    timers = [each for each in owed(play.run) if isinstance(each, ArmTimer) and each.key]
    return {timer.key: timer.due_at_ms - STARTED_AT_MS for timer in timers}
