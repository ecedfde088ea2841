"""What an entry of a journal says, in one line for people."""

from collections.abc import Mapping

from holdfast.cli.output import LONG_CHARACTERS_MAX, duration, moment, printed_line, shortened
from holdfast.cli.payloads import plain, text_of
from holdfast.core.entries import (
    DELETED,
    Arrival,
    BranchJoined,
    Child,
    Control,
    Entry,
    Moved,
    Operated,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
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
from holdfast.runtime.views import instant

_DONE = {"sleep": "slept", "patch": "the new code is for this run"}
"""Of operations that give nothing."""


def what(entry: Entry) -> str:
    """What an entry says beyond its branch, step and attempt: a value, and where the run went from there."""
    match entry:
        case RunStarted():
            said = _value(entry.input) + _onwards("", entry.arrivals) + _within(entry.timeout_ms)
        case StepCompleted() | BranchJoined() | SleepEnded() | SignalReceived() | WaitTimedOut():
            said = _left(entry) + _onwards(entry.branch, entry.arrivals)
        case RetryScheduled():
            said = _again(entry) + _anew(entry.operation)
        case RunFailed():
            said = shortened(entry.failure.summary()) + _anew(entry.operation)
        case RunCompleted():
            said = f"the output is that of branch {entry.branch}"
        case Paused() | Unpaused() | RunCancelled() | RunReopened():
            said = _wanted(entry)
        case RunBlocked():
            said = shortened(f"{entry.code}: {entry.detail}", LONG_CHARACTERS_MAX)
        case _:
            said = _operated(entry)
    return said


def _left(entry: Moved) -> str:
    match entry:
        case StepCompleted():
            return _value(entry.output) + _sets(entry.sets)
        case BranchJoined():
            return ", ".join(entry.joined)
        case SleepEnded():
            return "slept"
        case SignalReceived():
            return f"message {entry.seq}: {_value(entry.payload)}"
        case WaitTimedOut():
            return "no signal in time"


def _operated(entry: Operated) -> str:
    match entry:
        case StepSuspended():
            return "put away until something that it waits for is there"
        case Reported():
            whose = f"{entry.key}: " if entry.key else ""
            return f"{whose}{entry.kind} {_value(entry.payload)}"
        case ScopesClosed():
            ended = ", ".join(map(str, entry.ended)) or "none"
            return f"{entry.key}: ended {ended}, the others are cancelled"
        case OperationBegun():
            said = _begun(entry.wait, entry.child)
        case OperationCompleted():
            message = f"message {entry.seq}: " if entry.seq else ""
            said = message + _value(entry.output) if entry.output else _DONE.get(entry.kind, "done")
        case OperationFailed():
            said = shortened(entry.failure.summary())
        case OperationRetried():
            said = _again(entry)
    return f"{entry.key}: {said}{_sets(entry.sets)}"


def _begun(wait: Wait | None, child: Child | None) -> str:
    if child is not None:
        return f"starts child run {child.id} of workflow {child.workflow}"
    return "begins" if wait is None else _wait(wait)


def _again(entry: RetryScheduled | OperationRetried) -> str:
    return f"in {duration(entry.delay_ms)}, after {shortened(entry.failure.summary())}"


def _anew(operation: str) -> str:
    return f", of {operation}" if operation else ""


def _wanted(entry: Control) -> str:
    by = f"by {entry.by}" if entry.by else ""
    match entry:
        case Paused():
            clocks = "" if entry.freezes else "clocks run"
            said = [by, entry.reason, clocks]
        case RunCancelled():
            said = [by, entry.reason]
        case Unpaused() | RunReopened():
            said = [by]
    return shortened(printed_line(", ".join(part for part in said if part)))


def _value(payload: bytes) -> str:
    return shortened(text_of(plain(payload)))


def _sets(sets: Mapping[str, bytes]) -> str:
    return "".join(
        f", {name} is deleted" if payload == DELETED else f", {name} = {_value(payload)}"
        for name, payload in sets.items()
    )


def _within(timeout_ms: int | None) -> str:
    return "" if timeout_ms is None else f", to be over in {duration(timeout_ms)}"


def _onwards(branch: str, arrivals: tuple[Arrival, ...]) -> str:
    if not arrivals:
        return ""
    return " -> " + ", ".join(_arrival(branch, arrival) for arrival in arrivals)


def _arrival(branch: str, arrival: Arrival) -> str:
    notes = [] if arrival.branch == branch else [f"branch {arrival.branch}"]
    if arrival.wait is not None:
        notes.append(_wait(arrival.wait))
    return f"{arrival.step} ({', '.join(notes)})" if notes else arrival.step


def _wait(wait: Wait) -> str:
    until = ""
    if wait.for_ms is not None:
        until = f" for {duration(wait.for_ms)}"
    elif wait.until_ms is not None:
        until = f" until {moment(instant(wait.until_ms))}"
    return f"waits{until} for signal {wait.signal}" if wait.signal else f"sleeps{until}"
