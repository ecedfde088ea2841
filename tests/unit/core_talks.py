"""What a body says next in the random stories while its attempt is live; and what comes for it from outside."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from holdfast.core.entries import DELETED, Child, Failure, OperationKind, Wait
from holdfast.core.events import (
    AttemptSuspended,
    BodyReported,
    ChildEnded,
    Event,
    Operating,
    OperationRaised,
    OperationRequested,
    OperationSucceeded,
    ScopesEnded,
)
from holdfast.core.run import Run, split_place
from tests.unit.core_bodies import OPENED, POLICIES, SCOPES, Asked, AskedFor

T = TypeVar("T")
At = tuple[str, str, int, int]
changed = msgspec.structs.replace
WAITS = (Wait("s"), Wait("t", 3_000), Wait("s", 0), Wait("t"))
SLEEPS = (Wait("", 5_000), Wait("", 0), Wait("", None, 9_000), Wait("", None, 500))
CLOSED: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("g#1", (0,)),
    ("g#1/0/h#1", (1,)),
    ("g#1", (1, 10)),
    ("g#1", ()),
)
FAILURES = (
    Failure("E1", "first", ("E1", "Base")),
    Failure("E2", "second", ("E2",)),
    Failure("odd", "names no types"),
)
DONE_AT_ONCE: tuple[OperationKind, ...] = ("value", "record", "patch", "step")


class Chooses(Protocol):
    """See `core_stories.Choices`."""

    def below(self, bound: int) -> int: ...
    def of(self, options: Sequence[T]) -> T: ...


class Talk:
    """One body in one turn: no two of its events are about one operation."""

    def __init__(self, choices: Chooses, asked: AskedFor, at: At, numbers: Iterator[int]) -> None:
        self.choices = choices
        self.asked = asked
        self.at = at
        self.numbers = numbers
        self.taken: list[str] = []
        self.ended: dict[str, tuple[int, ...]] = {}
        self.now_ms = 0
        """The latest moment at which something was due that it has tried again."""

    def events(self) -> list[Event]:
        said: list[Event] = [self.next() for _ in range(1 + self.choices.below(3))]
        awaited = [each.key for each in self.free()]
        if awaited and self.choices.below(2):
            said.append(AttemptSuspended(*self.at, tuple(awaited[self.choices.below(len(awaited)) :])))
        return said

    def next(self) -> Operating:
        says = (self.value, self.step, self.wait, self.close, self.again, self.step, self.sleep)
        says += (self.close, self.child, self.report, self.cut_off)
        return self.choices.of(says)()

    def free(self) -> list[Asked]:
        """What is pending, and was not touched in this turn."""
        pending = [each for each in self.asked.pending() if each.key not in self.taken]
        return [each for each in pending if not self.asked.is_closed(each.key, self.ended)]

    def key(self, name: str) -> str:
        scope = self.choices.of(SCOPES)
        if self.asked.is_closed(scope + name, {}):
            scope = ""
        self.taken.append(self.asked.next_key(scope, name, self.taken))
        return self.taken[-1]

    def sets(self) -> Mapping[str, bytes]:
        number = next(self.numbers)
        return self.choices.of(
            [{}, {}, {"v": b"json.1:%d" % number}, {"w": b"json.1:%d" % number, "v": DELETED}]
        )

    def output(self) -> bytes:
        return b"json.1:%d" % next(self.numbers)

    def value(self) -> Operating:
        kind = self.choices.of(DONE_AT_ONCE)
        return OperationSucceeded(*self.at, self.key("v"), kind, self.output(), self.sets())

    def sleep(self) -> Operating:
        wait = self.choices.of(SLEEPS)
        return OperationRequested(*self.at, self.key("nap"), "sleep", wait, None, self.sets())

    def wait(self) -> Operating:
        wait = self.choices.of(WAITS)
        return OperationRequested(*self.at, self.key("w"), "wait_signal", wait, None, self.sets())

    def child(self) -> Operating:
        child = Child(f"child-{next(self.numbers)}", "c")
        return OperationRequested(*self.at, self.key("c"), "child", None, child, self.sets())

    def step(self) -> Operating:
        return self.tried(self.key(self.choices.of([*POLICIES])))

    def again(self) -> Operating:
        """An attempt that was owed has begun; where none was, another operation."""
        owed = [each for each in self.free() if each.status == "backoff" and each.due_ms is not None]
        if not owed:
            return self.step()
        chosen = self.choices.of(owed)
        self.now_ms = max(self.now_ms, chosen.due_ms or 0)
        self.taken.append(chosen.key)
        return self.tried(chosen.key)

    def cut_off(self) -> Operating:
        """It has waited long enough, for whatever that is."""
        waits = [each for each in self.free() if each.status != "backoff"]
        if not waits:
            return self.value()
        asked = self.choices.of(waits)
        self.taken.append(asked.key)
        kind: OperationKind = "sleep" if asked.wait is None or not asked.wait.signal else "wait_signal"
        kind = "child" if asked.child is not None else kind
        return OperationRaised(*self.at, asked.key, kind, FAILURES[0], (), 0.0, self.sets())

    def tried(self, key: str) -> Operating:
        if self.choices.below(2):
            return OperationSucceeded(*self.at, key, "step", self.output(), self.sets())
        policies = POLICIES[key.rpartition("/")[2].partition("#")[0]]
        chance = self.choices.below(10) / 10
        failure = self.choices.of(FAILURES)
        return OperationRaised(*self.at, key, "step", failure, policies, chance, self.sets())

    def close(self) -> Operating:
        pending = {each.key for each in self.asked.pending()}
        ends = [each for each in CLOSED if pending & {*self.asked.closed_by(*each)}] or CLOSED
        key, ended = self.choices.of(ends)
        if key in {*self.asked.all, *self.taken} or self.asked.is_closed(key, self.ended):
            return self.value()
        self.taken.append(key)
        self.ended[key] = ended
        return ScopesEnded(*self.at, key, ended)

    def report(self) -> Operating:
        if self.choices.below(2):
            kind = self.choices.of(["progress", "heartbeat"])
            return BodyReported(*self.at, "", kind, self.output())  # type: ignore[arg-type]
        steps = [each.key for each in self.free() if each.status == "backoff"]
        key = self.choices.of(steps) if steps else self.key("twice")
        self.taken.append(key)
        return BodyReported(*self.at, key, "heartbeat", self.output())


def nonsense_about(asked: AskedFor, at: At) -> list[Event]:
    """What a body may say twice, or too late: scopes are closed, operations are done."""
    said: list[Event] = [AttemptSuspended(*at, ()), AttemptSuspended(*at, ("ghost#1",))]
    for each in asked.all.values():
        said.append(OperationRequested(*at, each.key, "sleep", SLEEPS[0]))
        if not each.is_pending:
            said.append(OperationSucceeded(*at, each.key, "value", b"json.1:0"))
            said.append(BodyReported(*at, each.key, "heartbeat", b"json.1:0"))
            said.append(OperationRaised(*at, each.key, "step", FAILURES[0], POLICIES["often"], 0.0))
            said.append(AttemptSuspended(*at, (each.key,)))
        if each.kind == "scopes":
            said.append(ScopesEnded(*at, each.key, ()))
    keys = [f"{scope}late#1" for scope in OPENED if asked.is_closed(f"{scope}late#1", {})]
    said += [OperationSucceeded(*at, key, "value", b"json.1:0") for key in keys]
    said += [BodyReported(*at, key, "heartbeat", b"json.1:0") for key in keys]
    return said


def child_ended(run: Run, place: str, seq: int, outcome: bytes | Failure) -> ChildEnded:
    """The end of a child run that is waited for there."""
    name, key = split_place(place)
    at = run.branches[name].at
    assert at is not None
    output, failure = (outcome, None) if isinstance(outcome, bytes) else (None, outcome)
    return ChildEnded(seq, name, at.step, at.visit, key, run.children[place].id, output, failure)
