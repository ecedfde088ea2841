"""What bodies ask for in the random stories: a second reading of entries, simple where the core is quick."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.core.effects import ArmTimer, StartAttempt
from holdfast.core.entries import (
    DELETED,
    Child,
    Failure,
    Operated,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Reported,
    ScopesClosed,
    StepSuspended,
    Wait,
)
from holdfast.core.events import OperationRaised, TimerFired
from holdfast.core.run import Branch, Operation
from holdfast.definition.policies import Retry

POLICIES: Mapping[str, tuple[Retry, ...]] = {
    "once": (),
    "twice": (Retry(max_retries=1, base_delay="2s"),),
    "often": (
        Retry(error_equals=("E1",), max_retries=1),
        Retry(max_retries=2, base_delay="100ms"),
    ),
}
"""Of the steps that bodies ask for, by the name in their keys."""
OPENED = ("k#1/1/", "g#1/1/", "g#1/10/", "g#1/0/", "g#1/0/h#1/1/", "g#1/0/h#1/2/")
SCOPES = ("", "", *OPENED)


@dataclass
class Clock:
    """Runs out at `due_ms`, unless it stands still; a moment that was named as such never moves."""

    due_ms: int
    named: bool = False
    stood_ms: int | None = None

    def stand(self, still: bool, at_ms: int) -> None:
        if still and self.stood_ms is None and not self.named:
            self.stood_ms = at_ms
        elif not still and self.stood_ms is not None:
            self.due_ms += at_ms - self.stood_ms
            self.stood_ms = None

    @property
    def now_due_ms(self) -> int | None:
        return None if self.stood_ms is not None else self.due_ms

    @property
    def left_ms(self) -> int | None:
        return None if self.stood_ms is None else self.due_ms - self.stood_ms


def clock_of(wait: Wait | None, at_ms: int) -> Clock | None:
    if wait is None:
        return None
    if wait.until_ms is not None:
        return Clock(wait.until_ms, named=True)
    return None if wait.for_ms is None else Clock(at_ms + wait.for_ms)


def path_of(key: str) -> tuple[str, ...]:
    """The scopes around an operation, from the outside in."""
    return tuple(key.split("/")[:-1])


def parts_of(key: str) -> list[tuple[str, str]]:
    """The same as pairs: a parallel work, and which part of it."""
    path = path_of(key)
    return list(zip(path[::2], path[1::2], strict=True))


def is_beside(one: str, other: str) -> bool:
    """Whether two operations are in different parts of one parallel work."""
    differing = [(mine, its) for mine, its in zip(parts_of(one), parts_of(other), strict=False) if mine != its]
    return bool(differing) and differing[0][0][0] == differing[0][1][0]


@dataclass
class Asked:
    """An operation."""

    key: str
    kind: str
    position: int
    status: str = "completed"
    since_ms: int = 0
    attempt: int = 1
    clock: Clock | None = None
    wait: Wait | None = None
    child: Child | None = None
    output: bytes = b""
    failure: Failure | None = None
    used: Counter[str] = field(default_factory=Counter)
    ended: tuple[int, ...] = ()
    heartbeat: bytes | None = None

    @property
    def is_pending(self) -> bool:
        return self.status not in {"completed", "failed"}

    @property
    def due_ms(self) -> int | None:
        return None if self.clock is None else self.clock.now_due_ms

    def end(self, status: str) -> None:
        self.status, self.clock, self.heartbeat = status, None, None

    def agrees_with(self, found: Operation) -> None:
        assert (found.key, found.kind, found.status) == (self.key, self.kind, self.status)
        assert (found.position, found.attempt) == (self.position, self.attempt)
        assert (found.output, found.failure) == (self.output, self.failure)
        assert (found.wait, found.child, found.ended) == (self.wait, self.child, self.ended)
        assert (found.due_at_ms, found.heartbeat) == (self.due_ms, self.heartbeat)
        assert found.left_ms == (self.clock and self.clock.left_ms), "invariant 27"
        assert found.budgets == dict(self.used)


class AskedFor:
    """What the body of a step has asked for, and what else it has said, while its branch stays there."""

    def __init__(self) -> None:
        self.all: dict[str, Asked] = {}
        self.sets: dict[str, bytes] = {}
        self.heartbeat: bytes | None = None
        self.progress: bytes | None = None

    def pending(self) -> list[Asked]:
        return [each for each in self.all.values() if each.is_pending]

    def take(self, entry: Operated, position: int, at_ms: int) -> None:
        match entry:
            case OperationBegun():
                self.begin(entry, position, at_ms)
            case OperationCompleted() | OperationFailed():
                self.end(entry, position, at_ms)
            case OperationRetried():
                self.retry(entry, position, at_ms)
            case ScopesClosed():
                for key in self.closed_by(entry.key, entry.ended):
                    del self.all[key]
                assert entry.key not in self.all, "scopes are closed once"
                self.all[entry.key] = Asked(entry.key, "scopes", position, ended=entry.ended)
            case Reported():
                self.report(entry, position, at_ms)
            case StepSuspended():
                assert self.pending(), "who waits for nothing is not put away"
        if not isinstance(entry, ScopesClosed | Reported | StepSuspended):
            self.sets |= entry.sets

    def begin(self, entry: OperationBegun, position: int, at_ms: int) -> None:
        assert entry.key not in self.all, "an operation begins once (invariant 36)"
        status = {"sleep": "sleeping", "wait_signal": "waiting"}.get(entry.kind, "child")
        self.all[entry.key] = Asked(entry.key, entry.kind, position, status, at_ms)
        asked = self.all[entry.key]
        asked.clock, asked.wait, asked.child = clock_of(entry.wait, at_ms), entry.wait, entry.child

    def end(self, entry: OperationCompleted | OperationFailed, position: int, at_ms: int) -> None:
        asked = self.all.setdefault(entry.key, Asked(entry.key, entry.kind, position, "new"))
        assert asked.is_pending, "an operation is done once (invariants 14, 23, 26, 36)"
        assert asked.kind == entry.kind
        is_cut_off = isinstance(entry, OperationFailed) and entry.failure.type != "timeout"
        if asked.status in {"sleeping", "waiting"} and not entry.seq and not is_cut_off:
            assert asked.due_ms is not None
            assert asked.due_ms <= at_ms, "no clock of an operation is early (invariant 24)"
        asked.end("completed" if isinstance(entry, OperationCompleted) else "failed")
        if isinstance(entry, OperationCompleted):
            asked.output = entry.output
        else:
            asked.failure = entry.failure

    def retry(self, entry: OperationRetried, position: int, at_ms: int) -> None:
        asked = self.all.setdefault(entry.key, Asked(entry.key, "step", position, "backoff"))
        assert asked.status == "backoff"
        asked.attempt += 1
        assert entry.attempt == asked.attempt
        asked.used[entry.pattern] += 1
        asked.failure, asked.clock = entry.failure, Clock(at_ms + entry.delay_ms)
        asked.since_ms = at_ms

    def report(self, entry: Reported, position: int, at_ms: int) -> None:
        if entry.kind == "progress":
            self.progress = entry.payload
        elif not entry.key:
            self.heartbeat = entry.payload
        else:
            if entry.key not in self.all:
                began = Asked(entry.key, "step", position, "backoff", at_ms, clock=Clock(at_ms))
                self.all[entry.key] = began
            assert self.all[entry.key].is_pending
            self.all[entry.key].heartbeat = entry.payload

    def closed_by(self, key: str, ended: Iterable[int]) -> list[str]:
        """Keys of what is cancelled when these scopes are closed."""
        outer = tuple(key.split("/"))
        scopes = {each: path_of(each) for each in self.all}
        within = {each: path for each, path in scopes.items() if path[: len(outer)] == outer}
        return [each for each, path in within.items() if int(path[len(outer)]) not in set(ended)]

    def caused_by(self, culprit: str) -> list[str]:
        """Keys of an operation, and of what was asked for because of it: later, and not beside it."""
        known = self.all.get(culprit)
        if known is None:
            return []
        later = [each.key for each in self.all.values() if each.position >= known.position]
        return [key for key in later if not is_beside(key, culprit)]

    def forget(self, culprit: str) -> None:
        for key in self.caused_by(culprit):
            del self.all[key]

    def forget_children(self) -> None:
        for each in self.pending():
            if each.status == "child":
                del self.all[each.key]

    def is_closed(self, key: str, ended: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether an operation would be in a scope that is closed, or is by now with `ended`."""
        closed = {each.key: each.ended for each in self.all.values() if each.kind == "scopes"} | {**ended}
        parts = key.split("/")
        around = {"/".join(parts[:n]): int(parts[n]) for n in range(1, len(parts) - 1, 2)}
        return any(number not in closed[outer] for outer, number in around.items() if outer in closed)

    def expected_of(self, event: OperationRaised) -> type[Operated]:
        """Row 23."""
        known = self.all.get(event.key)
        types = event.failure.types or (event.failure.type,)
        for policy in event.retry:
            if policy.matches(types):
                used = 0 if known is None else known.used[policy.pattern]
                return OperationRetried if used < policy.max_retries else OperationFailed
        return OperationFailed

    def after_completion(self, variables: Mapping[str, bytes], sets: Mapping[str, bytes]) -> dict[str, bytes]:
        """What the next step sees: only now, and without what was deleted."""
        seen = {**variables, **self.sets, **sets}
        return {name: payload for name, payload in seen.items() if payload != DELETED}

    def owed(self, start: StartAttempt, *, is_away: bool) -> list[ArmTimer]:
        """Timers of what is pending, of the step that owes `start`.

        A body that is there makes the next attempt by itself: it is owed where that was put away.
        """
        effects: list[ArmTimer] = []
        for each in self.pending():
            if each.due_ms is None or (each.status == "backoff" and not is_away):
                continue
            fired = TimerFired(start.branch, start.step, start.visit, each.due_ms, each.key)
            then = start if each.status == "backoff" else fired
            effects.append(ArmTimer(start.branch, each.due_ms, then, each.key))
        return effects

    def agrees_with(self, branch: Branch) -> None:
        assert list(branch.operations) == list(self.all)
        for key, asked in self.all.items():
            asked.agrees_with(branch.operations[key])
        assert dict(branch.sets) == self.sets
        assert (branch.heartbeat, branch.progress) == (self.heartbeat, self.progress)

    def next_key(self, scope: str, name: str, taken: Sequence[str]) -> str:
        """A key that is new, also beside those that were asked for in this turn."""
        number = 1
        while f"{scope}{name}#{number}" in {*self.all, *taken}:
            number += 1
        return f"{scope}{name}#{number}"
