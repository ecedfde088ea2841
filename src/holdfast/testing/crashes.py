"""`crash_everywhere`: a workflow of yours, crashed before and after each of its commits.

The engine promises that a run goes on after a crash with what was recorded, and that nothing recorded runs
again. It cannot promise that a body runs once: a process may die after a body has done its work and before that
is recorded. Whether *that* is harmless is up to the body, and is what this finds out.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from holdfast.definition.duration import Duration
from holdfast.engine import in_running_loop
from holdfast.errors import HoldfastError, UsageError
from holdfast.runtime.starts import Definable
from holdfast.stores.records import DEFAULT_QUEUE
from holdfast.testing.faults import Fault
from holdfast.testing.recorded import (
    Journal,
    Key,
    allowed,
    completed,
    first_difference,
    operations_answered,
    operations_done,
    problems_of,
)
from holdfast.testing.trials import RUN_ID, Ended, Scene, Trial, sendings

Signals = Sequence[tuple[str, object] | tuple[str, object, Duration]]
WHEN: Mapping[Fault, Literal["before", "after"]] = {
    Fault.CRASH_BEFORE: "before",
    Fault.CRASH_AFTER: "after",
}


@dataclass(frozen=True)
class Repeat:
    """A body that ran more than once for one attempt; not that of a durable function, which always may.

    Attributes:
        task, step, branch, visit, attempt: Which one.
        times: How often.
        operation: Its key, where a durable function has called it; the attempt is of that then.
        run: Id of the child run that it is of, or "" for the run itself.
    """

    task: str
    step: str
    branch: str
    visit: int
    attempt: int
    times: int
    operation: str = ""
    run: str = ""


@dataclass(frozen=True)
class Crash:
    """What a crash at one commit has led to.

    Attributes:
        commit: Which commit, from 1.
        when: The process ended before it was written, or after.
        what: What the commit was about.
        repeats: Bodies that ran more than once for one attempt.
        outcome: Status with output or failure of the run; or the error that told that it cannot end.
        effects: What had become of the outside world; None where nobody looked.
        problems: What the engine did wrong. Always empty, or the engine has a bug.
        journal_differs: The first entry that is not what it is without a crash, or ""; see
            `recorded.first_difference` for what counts.
        steps_differ: The same, where only steps, operations and attempts are compared, and no data.
        ends_alike: Whether the outcome is that of the run without a crash.
    """

    commit: int
    when: Literal["before", "after"]
    what: str
    repeats: tuple[Repeat, ...]
    outcome: object
    effects: object
    problems: tuple[str, ...]
    journal_differs: str
    steps_differ: str
    ends_alike: bool

    def __str__(self) -> str:
        """Where it struck."""
        return f"crash {self.when} commit {self.commit} ({self.what})"


@dataclass(frozen=True)
class CrashReport:
    """What `crash_everywhere` found.

    Attributes:
        commits: Of a run without a crash.
        outcome: Status with output or failure of that run.
        effects: What had become of the outside world after it; None where nobody looked.
        tasks: Names of all tasks that were called.
        crashes: Two for each commit, in its order.
        is_observed: Whether `effects` was given.
    """

    commits: int
    outcome: object
    effects: object
    tasks: frozenset[str]
    crashes: tuple[Crash, ...]
    is_observed: bool

    @property
    def repeated(self) -> set[str]:
        """Names of the tasks whose body ran more than once for one attempt, in any of the crashes."""
        return {repeat.task for crash in self.crashes for repeat in crash.repeats}

    def assert_safe(self, *, idempotent: Collection[str] | None = None, deterministic: bool = True) -> None:
        """Fail unless every crash was harmless.

        The engine must have kept its promises; the run must have ended as it does without a crash, with the
        same journal; and the outside world must be as it is without a crash, where `effects` told. Bodies that
        ran more than once must be named in `idempotent`: all of them, unless `effects` watches the world.

        Args:
            idempotent: Names of the tasks that may run more than once for one attempt.
            deterministic: Whether tasks give the same output for the same argument. Without that, only steps,
                operations and attempts are compared.

        Raises:
            AssertionError: With everything that was found.
            UsageError: No task of that name was called.
        """
        unknown = set(idempotent or ()) - self.tasks
        if unknown:
            raise UsageError(
                what=f"no task {', '.join(sorted(unknown))} was called",
                fix=f"these were: {', '.join(sorted(self.tasks))}",
            )
        declared = self.tasks if idempotent is None and self.is_observed else set(idempotent or ())
        found = [
            f"{crash}: {line}"
            for crash in self.crashes
            for line in self._wrong(crash, deterministic=deterministic)
        ]
        found += self._undeclared(declared)
        if found:
            raise AssertionError("a crash is not harmless:\n  - " + "\n  - ".join(found))

    def _wrong(self, crash: Crash, *, deterministic: bool) -> list[str]:
        found = [f"a bug of the engine: {problem}" for problem in crash.problems]
        differs = crash.journal_differs if deterministic else crash.steps_differ
        if isinstance(crash.outcome, HoldfastError) or (deterministic and not crash.ends_alike):
            found.append(f"the run ended with {crash.outcome!r}, and without a crash with {self.outcome!r}")
        elif differs:
            found.append(f"the journal differs: {differs}")
        if crash.effects != self.effects:
            twice = ", ".join(sorted({repeat.task for repeat in crash.repeats})) or "nothing"
            found.append(
                f"the effects are {crash.effects!r}, and without a crash {self.effects!r} "
                f"(ran more than once: {twice})"
            )
        return found

    def _undeclared(self, declared: Collection[str]) -> list[str]:
        """A line for each task: the first crash after which its body ran again."""
        found: dict[str, str] = {}
        for crash in self.crashes:
            for each in crash.repeats:
                if each.task not in declared:
                    line = f"{crash}: the body of task {each.task!r} ran {each.times} times for one attempt"
                    found.setdefault(each.task, f"{line}; if that is harmless, name it in idempotent={{...}}")
        return list(found.values())


def crash_everywhere(
    workflow: Definable,
    input: object = None,
    *,
    signals: Signals = (),
    others: Iterable[Definable] = (),
    queues: Sequence[str] = (DEFAULT_QUEUE,),
    replace: Mapping[str, Callable[..., Any]] | None = None,
    reset: Callable[[], object] = lambda: None,
    effects: Callable[[], object] | None = None,
    folder: Path | None = None,
    every: int = 1,
) -> CrashReport:
    """Run a workflow again and again, each time with a crash at another commit, and compare.

    A crash is the end of the process: bodies are cut off, and a new engine opens the same store. For a run of
    `n` commits there are `2 n + 1` runs, in virtual time.

    Args:
        workflow: What to run.
        input: Its input.
        signals: What it is sent: name and payload, and how long after the start (default at once).
        others: Workflows that it starts as children, and that those start.
        queues: Of them, where they are in some of their own.
        replace: Functions to call instead of tasks, by name; see `TestEngine`.
        reset: Called before each run: puts the outside world back to how it was.
        effects: Called after each run: what has become of the outside world, as something that `==` compares.
        folder: Where to make SQLite files; default the runs are in memory.
        every: Of a workflow with many commits, crash only each that this divides.

    Returns:
        What was found; `assert_safe` judges it.

    Raises:
        RunWaitingError: Without any crash, the run waits for ever.
        UsageError: Called inside a running event loop.
    """
    if in_running_loop():
        raise UsageError(
            what="crash_everywhere() was called inside a running event loop", fix="await acrash_everywhere(...)"
        )
    return asyncio.run(
        acrash_everywhere(
            workflow,
            input,
            signals=signals,
            others=others,
            queues=queues,
            replace=replace,
            reset=reset,
            effects=effects,
            folder=folder,
            every=every,
        )
    )


async def acrash_everywhere(
    workflow: Definable,
    input: object = None,
    *,
    signals: Signals = (),
    others: Iterable[Definable] = (),
    queues: Sequence[str] = (DEFAULT_QUEUE,),
    replace: Mapping[str, Callable[..., Any]] | None = None,
    reset: Callable[[], object] = lambda: None,
    effects: Callable[[], object] | None = None,
    folder: Path | None = None,
    every: int = 1,
) -> CrashReport:
    """`crash_everywhere` inside an event loop."""
    scene = Scene(
        workflow=workflow,
        input=input,
        signals=sendings(signals),
        others=list(others),
        queues=queues,
        replace=replace or {},
        reset=reset,
        effects=effects,
        folder=folder,
    )
    calm = await Trial(scene, 0, Fault.NONE).run()
    if isinstance(calm.outcome, HoldfastError):
        raise calm.outcome
    crashes: list[Crash] = []
    tasks = set(calm.tasks.values())
    for number in range(every, calm.commits + 1, every):
        for fault, when in WHEN.items():
            ended = await Trial(scene, number, fault).run()
            # Threads may have had more luck in sharing commits this time: then there is no such commit.
            if ended.has_crashed:
                crashes.append(_crash(number, when, calm, ended))
                tasks |= set(ended.tasks.values())
    return CrashReport(
        commits=calm.commits,
        outcome=calm.outcome,
        effects=calm.effects,
        tasks=frozenset(tasks),
        crashes=tuple(crashes),
        is_observed=effects is not None,
    )


def _crash(number: int, when: Literal["before", "after"], calm: Ended, ended: Ended) -> Crash:
    total = sum(ended.lives, Counter[Key]())
    differs = first_difference(calm.journals, ended.journals, with_data=True)
    return Crash(
        commit=number,
        when=when,
        what=ended.what,
        repeats=tuple(
            _repeat(ended, key, times)
            for key, times in total.items()
            if times > 1 and key not in ended.functions
        ),
        outcome=ended.outcome,
        effects=ended.effects,
        problems=tuple(_problems(ended)),
        journal_differs=differs,
        steps_differ=first_difference(calm.journals, ended.journals, with_data=False),
        ends_alike=ended.outcome == calm.outcome or (not differs and _is_renamed(ended)),
    )


def _is_renamed(ended: Ended) -> bool:
    """Whether names are compared that no two runs have in common: the output may hold them, too."""
    return any(journal.plain is not journal.entries for journal in ended.journals.values())


def _repeat(ended: Ended, key: Key, times: int) -> Repeat:
    return Repeat(
        task=ended.tasks[key.operation or key.step],
        step=key.step,
        branch=key.branch,
        visit=key.visit,
        attempt=key.operation_attempt or key.attempt,
        times=times,
        operation=key.operation,
        run="" if key.run == RUN_ID else key.run,
    )


def _problems(ended: Ended) -> list[str]:
    """Promises of the engine that were not kept, whatever the bodies do."""
    first, second = ended.lives
    problems = [problem for journal in ended.journals.values() for problem in problems_of(journal)]
    for key in sorted(each for each in first if each.is_of_step):
        journal = ended.before.get(key.run)
        if journal is None or (key.incarnation == journal.incarnation and key not in allowed(journal)):
            problems.append(f"the body of {key.step!r} began before what allows it was written")
    for before in ended.before.values():
        problems += _not_kept(before, ended.journals.get(before.run), second)
    for key, times in (*first.items(), *second.items()):
        if times > 1 and key not in ended.functions:
            name = key.operation or key.step
            problems.append(f"the body of {name!r} ran {times} times for one attempt, in one process")
    return problems


def _not_kept(before: Journal, after: Journal | None, calls: Counter[Key]) -> list[str]:
    """What was recorded of a run at the crash, and not gone by."""
    problems = [
        f"step {key.step!r} was recorded as done, and its body ran again"
        for key in sorted(calls.keys() & completed(before))
    ]
    if not _goes_on(before, after):
        problems.append("the journal has lost entries that were written before the crash, or changed them")
    return problems + _operations_again(before, after, calls)


def _goes_on(before: Journal, after: Journal | None) -> bool:
    if after is None or after.incarnation != before.incarnation:
        return after is not None and after.incarnation > before.incarnation
    return list(after.entries[: len(before.entries)]) == list(before.entries)


def _operations_again(before: Journal, after: Journal | None, calls: Counter[Key]) -> list[str]:
    """Operations that were done at the crash and ran again, though no retry has asked for them anew."""
    again = Counter(
        key._replace(attempt=0, operation_attempt=0) for key in calls.elements() if not key.is_of_step
    )
    anew: Counter[Key] = Counter()
    if after is not None and after.incarnation == before.incarnation:
        anew = operations_answered(after, after=len(before.entries))
    return [
        f"operation {key.operation!r} was recorded as done, and its body ran again"
        for key in sorted(operations_done(before))
        if again[key] > anew[key]
    ]
