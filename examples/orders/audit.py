"""Holds what Holdfast recorded against what really happened outside; lists every contradiction.

The journal of a run says which steps are recorded as done; the world's file says which bodies ran
and what they did. A strike is the moment at which a worker was killed: what had been recorded by
then, and the number of the last call by then. No clocks are compared: only the order within one
file counts.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from examples.orders.world import Call, Effect
from holdfast import JournalEntry
from holdfast.core.entries import (
    BranchJoined,
    Entry,
    RetryScheduled,
    RunCompleted,
    RunFailed,
    RunStarted,
    StepCompleted,
)

Journals = Mapping[str, Sequence[JournalEntry]]
StepKey = tuple[str, str, str, int]
"""Run id, branch, step, visit: one arrival of a run at a step."""

Rule = Literal[
    "every run ends",
    "positions have no gap",
    "no entry is lost",
    "no step is recorded twice",
    "no effect is lost",
    "no effect is doubled",
    "no recorded body runs again",
    "no body runs before what leads to it is recorded",
]


@dataclass(frozen=True)
class Strike:
    """A killed worker.

    Attributes:
        process_id: Of the worker.
        last_call: Number of the last body call that began before.
        positions: How many entries each run's journal had, by run id.
    """

    process_id: int
    last_call: int
    positions: Mapping[str, int]


@dataclass(frozen=True)
class Problem:
    """One thing that must never be: which rule, whom it is about, and what was found."""

    rule: Rule
    subject: str
    found: str

    def __str__(self) -> str:
        """As one line."""
        return f"{self.subject}: {self.found}"


def recorded_steps(journals: Journals, strike: Strike | None = None) -> int:
    """How many steps are recorded as done, now or at a strike."""
    return sum(
        isinstance(entry.entry, StepCompleted)
        for run_id, entries in journals.items()
        for entry in entries
        if strike is None or entry.position <= strike.positions.get(run_id, 0)
    )


def unrecorded(journals: Journals, calls: Sequence[Call], strike: Strike) -> list[Call]:
    """Bodies that the killed worker had begun and of which nothing was recorded when it died."""
    return [
        call
        for call in calls
        if call.process_id == strike.process_id and not _is_settled(journals, call, strike)
    ]


def repeated(calls: Sequence[Call]) -> list[Call]:
    """Bodies that ran again with the same attempt number: they had begun when a worker died."""
    seen: set[tuple[StepKey, int]] = set()
    again: list[Call] = []
    for call in calls:
        attempt = (step_key(call), call.attempt)
        if attempt in seen:
            again.append(call)
        seen.add(attempt)
    return again


def step_key(call: Call) -> StepKey:
    """Which step of which run a call belongs to."""
    return (call.run_id, call.branch, call.step, call.visit)


def find_problems(
    journals: Journals,
    calls: Sequence[Call],
    effects: Sequence[Effect],
    strikes: Sequence[Strike],
) -> list[Problem]:
    """Everything that must never be, one line each; empty if all is well."""
    return [
        *_unfinished(journals),
        *_gaps(journals),
        *_entries_lost(journals, strikes),
        *_recorded_twice(journals),
        *_effects_lost(journals, calls, effects),
        *_effects_doubled(calls, effects),
        *_bodies_repeated_in_one_process(calls),
        *_bodies_after_their_record(journals, calls, strikes),
        *_bodies_before_their_cause(journals, calls, strikes),
    ]


def _unfinished(journals: Journals) -> Iterator[Problem]:
    for run_id, entries in journals.items():
        if not entries or not isinstance(entries[-1].entry, RunCompleted | RunFailed):
            yield Problem("every run ends", run_id, "its journal does not say how it ended")


def _gaps(journals: Journals) -> Iterator[Problem]:
    for run_id, entries in journals.items():
        positions = [entry.position for entry in entries]
        if positions != list(range(1, len(entries) + 1)):
            yield Problem("positions have no gap", run_id, f"its journal has {positions}")


def _entries_lost(journals: Journals, strikes: Sequence[Strike]) -> Iterator[Problem]:
    for number, strike in enumerate(strikes, start=1):
        for run_id, position in strike.positions.items():
            left = len(journals.get(run_id, ()))
            if left < position:
                found = f"had {position} entries at kill {number}, and has {left}"
                yield Problem("no entry is lost", run_id, found)


def _recorded_twice(journals: Journals) -> Iterator[Problem]:
    counts = Counter(key for key, _ in _completions(journals))
    for key, count in counts.items():
        if count > 1:
            yield Problem("no step is recorded twice", str(key), f"recorded {count} times")


def _effects_lost(journals: Journals, calls: Sequence[Call], effects: Sequence[Effect]) -> Iterator[Problem]:
    keys = {(step_key(call), call.attempt): call.idempotency_key for call in calls}
    done = {effect.idempotency_key for effect in effects}
    for key, completed in _completions(journals):
        idempotency_key = keys.get((key, completed.attempt))
        if idempotency_key is None:
            found = f"attempt {completed.attempt} is recorded as done, and its body never ran"
            yield Problem("no effect is lost", str(key), found)
        elif idempotency_key not in done:
            yield Problem("no effect is lost", str(key), "recorded as done, without effect")


def _effects_doubled(calls: Sequence[Call], effects: Sequence[Effect]) -> Iterator[Problem]:
    by_number = {call.number: step_key(call) for call in calls}
    by_step = Counter(by_number[effect.call] for effect in effects)
    by_idempotency_key = Counter(effect.idempotency_key for effect in effects)
    for key, count in [*by_step.items(), *by_idempotency_key.items()]:
        if count > 1:
            yield Problem("no effect is doubled", str(key), f"has {count} effects")


def _bodies_repeated_in_one_process(calls: Sequence[Call]) -> Iterator[Problem]:
    counts = Counter((call.process_id, step_key(call), call.attempt) for call in calls)
    for (process_id, key, attempt), count in counts.items():
        if count > 1:
            found = f"attempt {attempt} ran {count} times in process {process_id}"
            yield Problem("no recorded body runs again", str(key), found)


def _bodies_after_their_record(
    journals: Journals, calls: Sequence[Call], strikes: Sequence[Strike]
) -> Iterator[Problem]:
    last_calls = [strike.last_call for strike in strikes]
    for call in calls:
        before = bisect_left(last_calls, call.number)
        if before and _is_settled(journals, call, strikes[before - 1]):
            found = (
                f"attempt {call.attempt} ran in process {call.process_id},"
                f" though it was recorded before kill {before}"
            )
            yield Problem("no recorded body runs again", str(step_key(call)), found)


def _bodies_before_their_cause(
    journals: Journals, calls: Sequence[Call], strikes: Sequence[Strike]
) -> Iterator[Problem]:
    last_calls = [strike.last_call for strike in strikes]
    for call in calls:
        entries = journals.get(call.run_id, ())
        after = bisect_left(last_calls, call.number)
        if after < len(strikes):
            entries = entries[: strikes[after].positions.get(call.run_id, 0)]
        if not any(_leads_to(row.entry, call) for row in entries):
            found = f"attempt {call.attempt} ran, and nothing recorded by then had led to it"
            yield Problem("no body runs before what leads to it is recorded", str(step_key(call)), found)


def _leads_to(entry: Entry, call: Call) -> bool:
    """Whether `entry` says that this attempt comes next."""
    place = (call.branch, call.step, call.visit)
    match entry:
        case RunStarted() | StepCompleted() | BranchJoined():
            places = {(to.branch, to.step, to.visit) for to in entry.arrivals}
            return call.attempt == 1 and place in places
        case RetryScheduled(branch=branch, step=step, visit=visit, attempt=attempt):
            return (*place, call.attempt) == (branch, step, visit, attempt)
        case _:
            return False


def _is_settled(journals: Journals, call: Call, strike: Strike) -> bool:
    """Whether the outcome of a call, or the end of its run, was recorded at a strike."""
    position = strike.positions.get(call.run_id, 0)
    entries = journals.get(call.run_id, ())[:position]
    return any(_settles(row.entry, call) for row in entries)


def _settles(entry: Entry, call: Call) -> bool:
    """Whether the call may not be made once `entry` is recorded."""
    place = (call.branch, call.step, call.visit)
    match entry:
        case StepCompleted(branch=branch, step=step, visit=visit, attempt=attempt):
            return place == (branch, step, visit) and call.attempt <= attempt
        case RetryScheduled(branch=branch, step=step, visit=visit, attempt=attempt):
            return place == (branch, step, visit) and call.attempt < attempt
        case RunCompleted() | RunFailed():
            return True
        case _:
            return False


def _completions(journals: Journals) -> Iterator[tuple[StepKey, StepCompleted]]:
    for run_id, entries in journals.items():
        for row in entries:
            if isinstance(row.entry, StepCompleted):
                done = row.entry
                yield (run_id, done.branch, done.step, done.visit), done
