"""The clocks of a run, kept from its journal by rules of their own: nothing here asks what the engine says.

A sleep, the time-out of a wait and a backoff run from the stamp of the entry that set them; a pause that
freezes keeps the remainder, which runs on from the stamp of what ends it. A moment that was named as such does
not move. The same is so for what the body of a step asks for: its operations have clocks of their own.
"""

from collections.abc import Container, Iterable

from holdfast.core.entries import (
    Arrival,
    Entry,
    Moved,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Paused,
    RetryScheduled,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunReopened,
    RunStarted,
    SleepEnded,
    StepCompleted,
    StepSuspended,
    Unpaused,
    WaitTimedOut,
)
from holdfast.core.run import OPEN, Branch, Run, place_of, split_place


class Clock:
    """Of one branch, or of an operation of its step, at one place.

    Attributes:
        at: Where the branch is; for an operation, what it waits for, as if the branch did.
        due_ms, left_ms: When it runs out, or what is left while it stands still; both None where none runs.
        since_ms: When it was set: a moment that was named may have passed by then.
        backs_off: Whether it is that of a retry.
    """

    def __init__(self, at: Arrival) -> None:
        """A branch that has just arrived; `start` sets its clock."""
        self.at = at
        self.due_ms: int | None = None
        self.left_ms: int | None = None
        self.since_ms = 0
        self.backs_off = False

    @property
    def is_named(self) -> bool:
        """Whether it runs out at a moment that was named, which no pause moves."""
        return self.at.wait is not None and self.at.wait.until_ms is not None and not self.backs_off

    def start(self, at_ms: int) -> None:
        """Count from a stamp what the place says."""
        wait, self.since_ms = self.at.wait, at_ms
        if wait is not None:
            self.due_ms = wait.until_ms if wait.for_ms is None else at_ms + wait.for_ms

    def stop(self, at_ms: int) -> None:
        """Stand still."""
        if self.due_ms is not None and not self.is_named:
            self.left_ms, self.due_ms = self.due_ms - at_ms, None

    def go_on(self, at_ms: int) -> None:
        """Run again with what was left."""
        if self.left_ms is not None:
            self.due_ms, self.left_ms = at_ms + self.left_ms, None


class Clocks:
    """All clocks of one run.

    Attributes:
        rebased: How many clocks ran on after a pause.
    """

    def __init__(self) -> None:
        """Nothing has started."""
        self.rebased = 0
        self._clocks: dict[str, Clock] = {}
        self._pauses: dict[str, Paused] = {}
        self._deadline = Clock(Arrival("", "", 0))
        self._timeout_ms: int | None = None
        self._operations: dict[str, Clock] = {}
        self._stopped: dict[str, Clock] = {}
        self._failed = ""

    def wrong(self, entry: Entry, at_ms: int) -> str | None:
        """Why a clock does not allow this entry now: before its time, or none runs (invariants 16, 24, 26)."""
        if isinstance(entry, OperationCompleted | OperationFailed | OperationRetried):
            return self._wrong_operation(entry, at_ms)
        if not isinstance(entry, SleepEnded | WaitTimedOut | StepCompleted | RetryScheduled | RunFailed):
            return None
        clock = self._clocks.get(entry.branch) if entry.branch else self._deadline
        if isinstance(entry, SleepEnded | WaitTimedOut):
            is_needed = True
            if clock is not None and (clock.at.step, clock.at.visit) != (entry.step, entry.visit):
                clock = None
        else:
            is_needed = self._is_needed(entry, clock)
        if not is_needed:
            return None
        if clock is None or clock.due_ms is None:
            return f"no clock runs for {entry!r}"
        return f"{clock.due_ms - at_ms} ms early: {entry!r}" if at_ms < clock.due_ms else None

    def _wrong_operation(
        self, entry: OperationCompleted | OperationFailed | OperationRetried, at_ms: int
    ) -> str | None:
        """The same for what a body has asked for: a sleep, the time-out of a wait, the backoff of a step."""
        clock = self._operations.get(place_of(entry.branch, entry.key))
        is_attempt = isinstance(entry, OperationRetried) or entry.kind == "step"
        is_timer = isinstance(entry, OperationCompleted) and entry.kind == "sleep"
        is_timer = is_timer or (isinstance(entry, OperationFailed) and entry.kind == "wait_signal")
        if is_attempt and clock is not None and (clock.left_ms is None or clock.left_ms > 0):
            is_timer = True
        if not is_timer:
            return None
        if clock is None or clock.due_ms is None:
            return f"no clock runs for {entry!r}"
        return f"{clock.due_ms - at_ms} ms early: {entry!r}" if at_ms < clock.due_ms else None

    def _is_needed(self, entry: StepCompleted | RetryScheduled | RunFailed, clock: Clock | None) -> bool:
        """Whether a clock must have run out for that: the time-out of a wait or of the run, or a backoff."""
        if clock is None:
            return False
        times_out = isinstance(entry, RunFailed) and entry.failure.type == "timeout"
        if times_out and (not entry.branch or clock.at.wait is not None):
            return True
        # What had begun when a pause came may end in it.
        return clock.backs_off and (clock.left_ms is None or clock.left_ms > 0)

    def see(self, entry: Entry, at_ms: int) -> None:
        """Take in an entry and its stamp."""
        match entry:
            case RunStarted():
                self._timeout_ms = entry.timeout_ms
                self._begin(at_ms)
                self._arrive("main", entry.arrivals, at_ms)
            case RetryScheduled():
                clock = self._clocks[entry.branch]
                clock.backs_off, clock.due_ms, clock.left_ms = True, at_ms + entry.delay_ms, None
                self._freeze_new(entry.branch, at_ms)
            case Paused() | Unpaused():
                self._pause(entry, at_ms)
            case RunReopened():
                self._reopen(at_ms)
            case RunFailed() | RunCancelled() | RunCompleted():
                self._end(entry, at_ms)
            case _ if isinstance(entry, Moved):
                self._move(entry, at_ms)
            case OperationBegun() | OperationRetried():
                self._time(entry, at_ms)
            case StepSuspended():
                # The attempt was under way: its delay is over, whatever a pause has kept of it.
                clock = self._clocks[entry.branch]
                clock.backs_off, clock.due_ms, clock.left_ms = False, None, None
            case _:
                pass

    def keep(self, places: Container[str]) -> None:
        """Forget the clocks of operations that are done or gone: only those of `places` are not."""
        for place in [place for place in self._operations if place not in places]:
            del self._operations[place]

    def _time(self, entry: OperationBegun | OperationRetried, at_ms: int) -> None:
        wait = entry.wait if isinstance(entry, OperationBegun) else None
        clock = Clock(Arrival(entry.branch, entry.step, entry.visit, wait=wait))
        clock.start(at_ms)
        if isinstance(entry, OperationRetried):
            clock.backs_off, clock.due_ms = True, at_ms + entry.delay_ms
        self._operations[place_of(entry.branch, entry.key)] = clock
        if self._is_frozen(entry.branch):
            clock.stop(at_ms)

    def _of(self, branch: str) -> list[Clock]:
        """The clocks of a branch and of its operations, or with "" the deadline."""
        if not branch:
            return [self._deadline]
        mine = [clock for place, clock in self._operations.items() if split_place(place)[0] == branch]
        return [self._clocks[branch], *mine]

    def _move(self, entry: Moved, at_ms: int) -> None:
        del self._clocks[entry.branch]
        self._arrive(entry.branch, entry.arrivals, at_ms)

    def _begin(self, at_ms: int) -> None:
        self._deadline = Clock(Arrival("", "", 0))
        self._deadline.due_ms = None if self._timeout_ms is None else at_ms + self._timeout_ms

    def _arrive(self, source: str, arrivals: tuple[Arrival, ...], at_ms: int) -> None:
        pause = self._pauses.get(source)
        for at in arrivals:
            self._clocks[at.branch] = clock = Clock(at)
            clock.start(at_ms)
            if pause is not None:
                self._pauses[at.branch] = pause
            self._freeze_new(at.branch, at_ms)
        if all(at.branch != source for at in arrivals):
            self._pauses.pop(source, None)

    def _freeze_new(self, branch: str, at_ms: int) -> None:
        if self._is_frozen(branch):
            self._clocks[branch].stop(at_ms)

    def _is_frozen(self, branch: str) -> bool:
        return any(self._pauses[each].freezes for each in ("", branch) if each in self._pauses)

    def _pause(self, entry: Paused | Unpaused, at_ms: int) -> None:
        if isinstance(entry, Paused):
            self._pauses[entry.branch] = entry
        elif entry.branch:
            self._pauses.pop(entry.branch, None)
        else:
            self._pauses.clear()
        for branch in [*self._clocks, ""]:
            for clock in self._of(branch):
                if self._is_frozen(branch):
                    clock.stop(at_ms)
                else:
                    self.rebased += clock.left_ms is not None
                    clock.go_on(at_ms)

    def _end(self, entry: RunFailed | RunCancelled | RunCompleted, at_ms: int) -> None:
        self._stopped, self._clocks = self._clocks, {}
        self._pauses.clear()
        self._deadline = Clock(Arrival("", "", 0))
        self._failed = entry.branch if isinstance(entry, RunFailed) else ""
        for clock in [*self._stopped.values(), *self._operations.values()]:
            clock.stop(at_ms)

    def _reopen(self, at_ms: int) -> None:
        self._clocks, self._stopped = self._stopped, {}
        self._begin(at_ms)
        for branch, clock in self._clocks.items():
            if branch != self._failed:
                clock.go_on(at_ms)
            else:
                clock.backs_off, clock.due_ms, clock.left_ms = False, None, None
                clock.start(at_ms)
        for clock in self._operations.values():
            clock.go_on(at_ms)
        for clock in [*self._clocks.values(), *self._operations.values()]:
            clock.since_ms = at_ms

    def differences(self, run: Run) -> list[str]:
        """Where the fold of the journal says otherwise (invariant 27)."""
        wrong: list[str] = []
        branches = {branch.id: branch for branch in run.branches.values() if branch.status in OPEN}
        if branches.keys() != self._clocks.keys():
            wrong.append(f"open are {list(branches)}, by the entries {list(self._clocks)}")
        for name, clock in self._clocks.items():
            branch = branches.get(name)
            if branch is not None and (branch.due_at_ms, branch.left_ms) != (clock.due_ms, clock.left_ms):
                wrong.append(
                    f"the clock of {name} says {branch.due_at_ms}, {branch.left_ms} left, "
                    f"instead of {clock.due_ms}, {clock.left_ms} left"
                )
        wrong += self._operating(branches.values())
        mine = (self._deadline.due_ms, self._deadline.left_ms)
        if not run.is_over and (run.deadline_ms, run.deadline_left_ms) != mine:
            wrong.append(f"the deadline is {run.deadline_ms}, {run.deadline_left_ms} left, instead of {mine}")
        return wrong

    def _operating(self, branches: Iterable[Branch]) -> list[str]:
        timed = {
            place_of(branch.id, each.key): each
            for branch in branches
            for each in branch.operations.values()
            if each.due_at_ms is not None or each.left_ms is not None
        }
        theirs = {place: (each.due_at_ms, each.left_ms) for place, each in timed.items()}
        clocks = {place: (clock.due_ms, clock.left_ms) for place, clock in self._operations.items()}
        mine = {
            place: times
            for place, times in clocks.items()
            if times != (None, None) and split_place(place)[0] in self._clocks
        }
        return [] if theirs == mine else [f"clocks of operations say {theirs}, instead of {mine}"]

    def early_ms(self, branch: str, key: str, now_ms: int) -> int:
        """How long an attempt of an operation has to wait yet: for its own delay, or for that of the step."""
        clocks = [self._operations.get(place_of(branch, key)), self._clocks.get(branch)]
        dues = [
            each.due_ms for each in clocks if each is not None and each.backs_off and each.due_ms is not None
        ]
        return max((due_ms - now_ms for due_ms in dues), default=0)

    def running(self) -> list[int]:
        """From when on each clock that runs is due, but for those of retries, which may wait for a slot.

        One that was set when its moment had passed is due from then on.
        """
        clocks = [*self._clocks.values(), *self._operations.values(), self._deadline]
        running = [clock for clock in clocks if not clock.backs_off]
        return [max(clock.due_ms, clock.since_ms) for clock in running if clock.due_ms is not None]
