"""The durable functions of one run, as far as its journal tells: what they have asked for, and what is next."""

from collections.abc import Mapping

import msgspec

from holdfast.codecs import json as codec
from holdfast.core.effects import StartAttempt
from holdfast.core.entries import (
    Entry,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    RetryScheduled,
    RunFailed,
    StepCompleted,
)
from holdfast.core.run import ATTEMPTING, Branch, Run
from holdfast.testing.simulator.asked import Asked, Asking
from holdfast.testing.simulator.clocks import Clocks
from holdfast.testing.simulator.functions import Durable
from holdfast.testing.simulator.ports import THREAD_WAIT_S
from holdfast.testing.simulator.reading import DECODE, Read, read


class Called(msgspec.Struct, frozen=True):
    """An attempt: of a step of the graph, or with a key of what its body has asked for.

    `life` is the attempt of the function then: in each of them it asks anew for what has failed, and for what
    was cancelled with that.
    """

    at: StartAttempt
    key: str = ""
    life: int = 0


class Nexts(msgspec.Struct):
    """The steps that bodies may begin, each with the argument that it must have, since some moment."""

    since_s: float
    steps: dict[Called, object]


class Performing:
    """See the module.

    Attributes:
        asking: What is recorded.
        reads: What came of reading the function of each branch that is at one.
        nexts: What may begin now; before the last change that was not told; and before that.
    """

    def __init__(self, durables: Mapping[str, Durable]) -> None:
        """Args: the durable functions of the program, by step."""
        self.asking = Asking()
        self.reads: dict[str, Read] = {}
        self.nexts = Nexts(0.0, {})
        self._earlier: list[Nexts] = []
        self._durables = durables
        self._variables: dict[str, object] | None = None

    def called(self, entry: OperationCompleted | OperationFailed | OperationRetried, run: Run) -> Called:
        """The attempt that such an entry, which is not taken in yet, is the outcome of."""
        known = self.asking.of(entry.branch).get(entry.key)
        attempt = 1 if known is None else known.attempt
        at = StartAttempt(entry.branch, entry.step, entry.visit, attempt)
        return Called(at, entry.key, run.branches[entry.branch].attempt)

    def wrong(self, entry: Entry, run: Run) -> list[str]:
        """Why an entry, which is not taken in yet, cannot be what became of a function."""
        if not self._durables or not isinstance(entry, StepCompleted | RetryScheduled | RunFailed):
            return self.asking.wrong(entry, run)
        branch = run.branches.get(entry.branch)
        came = None if branch is None else self._read(branch)
        if branch is None or came is None:
            return []
        if isinstance(entry, StepCompleted):
            given = DECODE(entry.output)
            is_right = came.has_ended and came.fallen is None and came.anew is None and came.value == given
            return [] if is_right else [f"it gives {given!r}, and came to {came!r}"]
        fallen = came.fallen
        is_right = fallen is not None and (fallen.type, fallen.key) == (entry.failure.type, entry.operation)
        return [] if is_right else [f"{entry!r}, and it came to {came!r}"]

    def see(self, entry: Entry, position: int, run: Run) -> None:
        """Take an entry in, before the run does."""
        if self._durables:
            branch = run.branches.get(entry.branch) if isinstance(entry, StepCompleted) else None
            came = None if branch is None else self._read(branch)
            if came is not None and branch is not None:
                both = {**_variables(branch), **came.sets}
                self._variables = {name: value for name, value in both.items() if value is not None}
            self.asking.see(entry, position)

    def differs(self, entry: Entry, run: Run) -> list[str]:
        """What is wrong with the variables after an entry that was just taken in."""
        wanted, self._variables = self._variables, None
        if wanted is None or not isinstance(entry, StepCompleted):
            return []
        given = _variables(run.branches[entry.branch])
        return [] if given == wanted else [f"variables are {given}, instead of {wanted}"]

    def reread(self, run: Run, now_s: float) -> list[str]:
        """Read all functions, after a transaction that has changed something."""
        if not self._durables:
            return []
        self.reads = {}
        wrong: list[str] = self.asking.differences(run)
        for branch in run.branches.values() if not run.is_over else ():
            came = self._read(branch)
            if came is None:
                continue
            self.reads[branch.id] = came
            wrong += came.wrong
            if branch.status == "suspended" and not came.only_waits:
                wrong.append(f"{branch.id} is suspended, and could go on with {came!r}")
        steps = self._steps(run)
        if steps != self.nexts.steps:
            # Whoever was called in a thread begins a little later than it was told to.
            self._earlier = [each for each in self._earlier if each.since_s >= now_s - THREAD_WAIT_S]
            self._earlier.append(Nexts(now_s, self.nexts.steps))
            self.nexts = Nexts(now_s, steps)
        return wrong

    def _steps(self, run: Run) -> dict[Called, object]:
        steps: dict[Called, object] = {}
        for branch_id, came in self.reads.items():
            branch = run.branches[branch_id]
            if run.holds(branch) or branch.at is None or branch.status not in ATTEMPTING:
                continue
            for each in came.nexts:
                if each.is_step:
                    at = StartAttempt(branch.id, branch.at.step, branch.at.visit, each.attempt)
                    steps[Called(at, each.key, branch.attempt)] = each.argument
        return steps

    def why_not(
        self, called: Called, argument: object, clocks: Clocks, now: tuple[float, int], *, is_told: bool
    ) -> str | None:
        """Why the journal owes no such call now, or None if it does.

        Args:
            called: The attempt.
            argument: What it is called with.
            clocks: Of the run.
            now: Virtual time, and the store's in ms.
            is_told: Whether the holder of the run has heard of the last commit.
        """
        now_s, now_ms = now
        known = [self.nexts, *(each for each in self._earlier if each.since_s >= now_s - THREAD_WAIT_S)]
        known += [] if is_told else self._earlier[-1:]
        found = [each.steps[called] for each in known if called in each.steps]
        if not found:
            return f"next are {self.nexts.steps}"
        if argument not in found:
            return f"it is called with {argument!r} instead of {found[0]!r}"
        early_ms = clocks.early_ms(called.at.branch, called.key, now_ms)
        return f"it is {early_ms} ms early" if early_ms > 0 else None

    def _read(self, branch: Branch) -> Read | None:
        at = branch.at
        durable = None if at is None else self._durables.get(at.step)
        if durable is None or branch.status not in ATTEMPTING:
            return None
        value = DECODE(branch.value if isinstance(branch.value, bytes) else codec.flatten(branch.value))
        asked: Mapping[str, Asked] = self.asking.of(branch.id)
        return read(durable, value, asked, branch.attempt, _variables(branch))


def _variables(branch: Branch) -> dict[str, object]:
    return {name: DECODE(payload) for name, payload in branch.variables.items()}
