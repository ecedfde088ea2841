"""What an entry of a journal says, in one line for people."""

from holdfast.cli.output import duration, moment, printed_line, shortened
from holdfast.cli.payloads import plain, text_of
from holdfast.core.entries import (
    Arrival,
    BranchJoined,
    Control,
    Entry,
    Paused,
    RetryScheduled,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunReopened,
    RunStarted,
    SignalReceived,
    SleepEnded,
    StepCompleted,
    Unpaused,
    Wait,
    WaitTimedOut,
)
from holdfast.runtime.views import instant


def what(entry: Entry) -> str:
    """What an entry says beyond its branch, step and attempt: a value, and where the run went from there."""
    match entry:
        case RunStarted():
            said = _value(entry.input) + _onwards("", entry.arrivals) + _within(entry.timeout_ms)
        case StepCompleted():
            said = _value(entry.output) + _sets(entry) + _onwards(entry.branch, entry.arrivals)
        case BranchJoined():
            said = ", ".join(entry.joined) + _onwards(entry.branch, entry.arrivals)
        case SleepEnded():
            said = "slept" + _onwards(entry.branch, entry.arrivals)
        case SignalReceived():
            said = f"message {entry.seq}: {_value(entry.payload)}" + _onwards(entry.branch, entry.arrivals)
        case WaitTimedOut():
            said = "no signal in time" + _onwards(entry.branch, entry.arrivals)
        case RetryScheduled():
            said = f"in {duration(entry.delay_ms)}, after {shortened(entry.failure.summary())}"
        case RunFailed():
            said = shortened(entry.failure.summary())
        case RunCompleted():
            said = f"the output is that of branch {entry.branch}"
        case _:
            said = _wanted(entry)
    return said


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


def _sets(entry: StepCompleted) -> str:
    return "".join(f", {name} = {_value(payload)}" for name, payload in entry.sets.items())


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
