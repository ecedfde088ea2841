"""What docs/semantics.md says must become of a run, as plain Python that shares nothing with the engine.

A run is branches at steps. At one moment things happen in this order: signals are received, clocks run out, the
time-out of the run, and then bodies that take no time end, the one first that began first.
"""

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from holdfast.definition.step import Step
from holdfast.definition.workflow import Workflow
from tests.machine.flows import DURATIONS_MS, FAILS, FLOWS

OVER = frozenset({"completed", "failed", "cancelled"})
RETRIES = {"hasty": (2, 204), "flaky": (2, 1_501), "slow": (1, 7_016)}
"""Most retries, and the wait before the first one, which doubles."""
REASONS = {"sleeping": "timer", "waiting": "signal", "backoff": "backoff", "joining": "join"}
Fact = tuple[int, str, tuple[tuple[str, object], ...]]
Key = tuple[str, str, int]


def fact(at_ms: int, kind: str, **facts: object) -> Fact:
    return at_ms, kind, tuple(sorted(facts.items()))


class Hold(NamedTuple):
    """A pause."""

    reason: str
    by: str
    freezes: bool


@dataclass
class Branch:
    """`due_ms` is when a clock runs out, `left_ms` what is left of one that stands still."""

    id: str
    value: int
    step: str = ""
    status: str = "completed"
    attempt: int = 1
    retries: int = 0
    due_ms: int | None = None
    left_ms: int | None = None
    body_from_ms: int = 0
    body_until_ms: int | None = None
    began: int = 0
    hold: Hold | None = None
    was: str | None = None
    came: int = 0

    @property
    def key(self) -> Key:
        return self.id, self.step, self.attempt

    def is_busy(self) -> bool:
        return self.body_until_ms is not None


@dataclass
class Run:
    """One run; `journal` is everything that must be recorded, `starts` how often each body must have begun."""

    name: str
    value: int
    now_ms: int
    incarnation: int = 1
    branches: dict[str, Branch] = field(default_factory=dict)
    journal: list[Fact] = field(default_factory=list)
    starts: Counter[Key] = field(default_factory=Counter)
    may_start: Counter[Key] = field(default_factory=Counter)
    inbox: list[tuple[str, str, int]] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    over: str | None = None
    output: str | None = None
    pause: Hold | None = None
    deadline_ms: int | None = None
    deadline_left_ms: int | None = None
    arrivals: int = 0
    crashes: int = 0

    def __post_init__(self) -> None:
        self.record("RunStarted", workflow=self.name, input=self.value)
        self.deadline_ms = self.flow.timeout_ms and self.now_ms + self.flow.timeout_ms
        self.branches["main"] = Branch("main", self.value)
        self.arrive(self.branches["main"], self.flow.start_at)

    def record(self, kind: str, **facts: object) -> None:
        self.journal.append(fact(self.now_ms, kind, **facts))

    @property
    def flow(self) -> Workflow:
        return FLOWS[self.name]

    # What people do.

    def signal(self, name: str, message_id: str, payload: int) -> None:
        if message_id not in self.sent:
            self.sent.add(message_id)
            self.inbox.append((name, message_id, payload))

    def set_pause(self, branch: str, hold: Hold) -> None:
        if (self.branches[branch].hold if branch else self.pause) is not None:
            return
        self.record("Paused", branch=branch, **hold._asdict())
        if branch:
            self.branches[branch].hold = hold
        else:
            self.pause = hold
        self.reclock()

    def unpause(self, branch: str, by: str) -> None:
        held = [self.branches[branch]] if branch else [each for each in self.open() if each.hold]
        if not any(each.hold for each in held) and (branch or self.pause is None):
            return
        self.record("Unpaused", branch=branch, by=by)
        for each in held:
            each.hold = None
        self.pause = self.pause if branch else None
        self.reclock()

    def cancel(self, reason: str, by: str) -> None:
        self.record("RunCancelled", reason=reason, by=by)
        self.end("cancelled")

    def reopen(self, by: str) -> None:
        self.record("RunReopened", by=by)
        self.over, self.pause = None, None
        self.deadline_ms = self.flow.timeout_ms and self.now_ms + self.flow.timeout_ms
        for branch in self.branches.values():
            if branch.was is None:
                continue
            failed, branch.status, branch.was, branch.hold = branch.status == "failed", branch.was, None, None
            self.arrivals += 1
            branch.came = self.arrivals
            if failed and branch.status in {"active", "backoff"}:
                branch.attempt, branch.retries, branch.status = branch.attempt + 1, 0, "active"
                branch.due_ms = branch.left_ms = None
            elif failed:
                self.arrive(branch, branch.step)
        self.reclock()

    # What happens by itself.

    def micro(self) -> bool:
        """The one thing that happens next at this moment; False if nothing does."""
        return self.over is None and (self._receive() or self._wake() or self._work())

    def settle(self) -> "Run":
        while self.micro():
            pass
        return self

    def next_ms(self) -> int | None:
        """When something happens by itself."""
        clocks = [b.due_ms for b in self.open() if b.status != "backoff" or not (b.is_busy() or self.holds(b))]
        bodies = [b.body_until_ms for b in self.open()]
        return min((ms for ms in (*clocks, *bodies, self.deadline_ms) if ms is not None), default=None)

    def advance(self, until_ms: int, *, before: bool = False) -> "Run":
        """Let time pass; with `before`, what happens at its very end has not happened yet."""
        while self.over is None and (at_ms := self.next_ms()) is not None and at_ms + before <= until_ms:
            self.now_ms = max(at_ms, self.now_ms)
            self.settle()
        self.now_ms = until_ms
        return self

    def crash(self, *, recorded: bool = False, midway: bool = True) -> "Run":
        """The process has died; a body that ends right now was `recorded`, the others are cut off.

        `midway`, also one that takes no time may have been, between its end and the record of it.
        """
        self.crashes += midway
        for branch in self.open():
            if branch.body_until_ms is not None and (branch.body_until_ms > self.now_ms or not recorded):
                branch.body_until_ms = None
                self.starts[branch.key] -= 1
                self.may_start[branch.key] += 1
        return self

    def wait_until(self, now_ms: int) -> "Run":
        """Time passes, and nobody drives; then somebody does."""
        self.now_ms = now_ms
        return self.settle()

    def _receive(self) -> bool:
        for branch in sorted(self.open(), key=lambda each: each.came):
            wait = self.step(branch).wait_signal
            row = next((row for row in self.inbox if wait and row[0] == wait.signal), None)
            if branch.status == "waiting" and row is not None:
                self.inbox.remove(row)
                branch.value = row[2]
                self.record("SignalReceived", branch=branch.id, step=branch.step, payload=row[2])
                self.leave(branch)
                return True
        return False

    def _wake(self) -> bool:
        for branch in self.open():
            if branch.status in {"sleeping", "waiting"} and self.is_due(branch.due_ms):
                self._time_is_up(branch)
                return True
        if self.is_due(self.deadline_ms):
            self.fail(None, "timeout")
            return True
        return False

    def _time_is_up(self, branch: Branch) -> None:
        wait = self.step(branch).wait_signal
        if wait is None:
            self.record("SleepEnded", branch=branch.id, step=branch.step)
            self.leave(branch)
        elif wait.on_timeout is None:
            self.fail(branch, "timeout")
        else:
            self.record("WaitTimedOut", branch=branch.id, step=branch.step)
            self.arrive(branch, wait.on_timeout)

    def _work(self) -> bool:
        for branch in self.open():
            owes = branch.status == "active" or (branch.status == "backoff" and self.is_due(branch.due_ms))
            if owes and not branch.is_busy() and not self.holds(branch):
                self.arrivals += 1
                branch.began = self.arrivals
                branch.body_from_ms = self.now_ms
                branch.body_until_ms = self.now_ms + DURATIONS_MS.get(self.step(branch).task or "", 0)
                self.starts[branch.key] += 1
                return True
        ended = [branch for branch in self.open() if self.is_due(branch.body_until_ms)]
        if ended:
            self._finish(min(ended, key=lambda branch: branch.began))
        return bool(ended)

    def _finish(self, branch: Branch) -> None:
        branch.body_until_ms = None
        facts: dict[str, object] = {"branch": branch.id, "step": branch.step, "attempt": branch.attempt}
        if branch.attempt > branch.value % FAILS:
            self.record("StepCompleted", **facts)
            self.leave(branch)
            return
        most, delay_ms = RETRIES.get(self.step(branch).task or "", (0, 0))
        if branch.retries >= most:
            self.fail(branch, "OopsError")
            return
        delay_ms *= 2**branch.retries
        branch.attempt, branch.retries = branch.attempt + 1, branch.retries + 1
        branch.status, branch.due_ms = "backoff", self.now_ms + delay_ms
        self.record("RetryScheduled", **facts | {"attempt": branch.attempt, "delay_ms": delay_ms})
        self.reclock()

    # Where branches go.

    def leave(self, branch: Branch) -> None:
        edges = self.step(branch).edges
        if edges:
            self.arrive(branch, edges[0].step)
            return
        branch.status = "completed"
        for each in self.open():
            join = self.step(each).join
            if join and all(self.is_completed(name) for name in join.branches):
                each.value = max(self.branches[name].value for name in join.branches)
                self.record("BranchJoined", branch=each.id, step=each.step)
                self.leave(each)
        if not any(self.open()) and self.over is None:
            self.record("RunCompleted", branch=branch.id)
            self.output = branch.id
            self.end("completed")

    def arrive(self, branch: Branch, name: str) -> None:
        step, held = self.flow.steps[name], False
        while step.kind == "pause" and step.pause is not None:
            branch.hold, held = Hold(step.pause.reason, "", freezes=True), True
            step = self.flow.steps[step.edges[0].step]
        if held and branch.hold is not None:
            self.record("Paused", branch=branch.id, **branch.hold._asdict())
        if step.kind == "fork":
            branch.status = "completed"
            for edge in step.edges:
                new = Branch(edge.branch or "", branch.value, hold=branch.hold)
                self.branches[new.id] = new
                self.arrive(new, edge.step)
            return
        self.arrivals += 1
        branch.step, branch.came, branch.attempt, branch.retries = step.name, self.arrivals, 1, 0
        kinds = {"task": "active", "join": "joining", "sleep": "sleeping", "wait_signal": "waiting"}
        branch.status, branch.left_ms, branch.due_ms = kinds[step.kind], None, None
        wait_ms = (step.sleep and step.sleep.duration_ms) or (step.wait_signal and step.wait_signal.timeout_ms)
        if step.sleep and step.sleep.until_ms is not None:
            branch.due_ms = step.sleep.until_ms
        elif wait_ms:
            branch.due_ms = self.now_ms + wait_ms
        self.reclock()

    def fail(self, branch: Branch | None, why: str) -> None:
        at: Mapping[str, object] = {"branch": "", "step": "", "attempt": 0}
        if branch is not None:
            at = {"branch": branch.id, "step": branch.step, "attempt": branch.attempt}
        self.record("RunFailed", **at, failure=why)
        self.end("failed", branch)

    def end(self, status: str, failed: Branch | None = None) -> None:
        for branch in self.open():
            self._stop_clock(branch)
            branch.was, branch.status = branch.status, "failed" if branch is failed else "cancelled"
            # What begins at this very moment has begun, or not quite.
            begins = branch.is_busy() and branch.body_from_ms == self.now_ms
            if begins:
                self.starts[branch.key] -= 1
            if begins or (branch.was == "active" and branch is not failed and not branch.is_busy()):
                self.may_start[branch.key] += 1
            branch.body_until_ms = None
        self.over, self.deadline_ms, self.deadline_left_ms = status, None, None

    # Clocks.

    def reclock(self) -> None:
        """Stop the clocks that a pause freezes, and let the others go on with what is left."""
        for branch in self.open():
            if any(hold and hold.freezes for hold in (self.pause, branch.hold)):
                self._stop_clock(branch)
            elif branch.left_ms is not None:
                branch.due_ms, branch.left_ms = self.now_ms + branch.left_ms, None
        if self.pause and self.pause.freezes and self.deadline_ms is not None:
            self.deadline_left_ms, self.deadline_ms = self.deadline_ms - self.now_ms, None
        elif self.pause is None and self.deadline_left_ms is not None:
            self.deadline_ms, self.deadline_left_ms = self.now_ms + self.deadline_left_ms, None

    def _stop_clock(self, branch: Branch) -> None:
        sleep = self.step(branch).sleep
        if branch.due_ms is not None and not (sleep and sleep.until_ms is not None):
            branch.left_ms, branch.due_ms = branch.due_ms - self.now_ms, None

    def is_due(self, ms: int | None) -> bool:
        return ms is not None and ms <= self.now_ms

    # What one sees.

    def step(self, branch: Branch) -> Step:
        return self.flow.steps[branch.step] if branch.step else self.flow.steps[self.flow.start_at]

    def open(self) -> Iterator[Branch]:
        return iter([b for b in self.branches.values() if b.status not in OVER and b.step])

    def is_completed(self, name: str) -> bool:
        return name in self.branches and self.branches[name].status == "completed"

    def holds(self, branch: Branch) -> bool:
        return self.pause is not None or branch.hold is not None

    def runs(self) -> bool:
        return any(branch.status == "active" and not self.holds(branch) for branch in self.open())

    def status(self) -> str:
        if self.over is not None or self.runs():
            return self.over or "running"
        held = self.pause is not None or any(branch.hold for branch in self.open())
        return "paused" if held else "suspended"

    def waits(self) -> set[tuple[str, str, str, int | None]]:
        """Branch, step, reason and due time of everything it waits for."""
        return {
            (b.id, b.step, "pause" if self.holds(b) else REASONS[b.status], b.due_ms)
            for b in self.open()
            if self.holds(b) or b.status != "active"
        }

    def reason(self) -> str:
        """What `explain` must name."""
        if self.over is not None:
            return "over"
        if any(
            not self.holds(branch) and (branch.is_busy() or branch.status == "active") for branch in self.open()
        ):
            return "running"
        reasons = {reason for _, _, reason, _ in self.waits()}
        return next(each for each in ("pause", "signal", "timer", "backoff", "join") if each in reasons)


def variants(run: Run, most: int) -> Iterable[Run]:
    """The run after 0, 1, 2, ... of the things that happen at this moment, in their order."""
    run = copy.deepcopy(run)
    yield copy.deepcopy(run)
    for _ in range(most):
        if not run.micro():
            return
        yield copy.deepcopy(run)
