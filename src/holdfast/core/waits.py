"""Sleeps, signals and time-outs (semantics rows 24, 28 to 30).

sleeping   --(TimerFired)-->                       at the next step: SleepEnded
waiting    --(SignalArrived, the awaited one)-->   at the next step: SignalReceived
waiting    --(TimerFired)-->                       where `on_timeout` leads: WaitTimedOut, or failed: RunFailed
run        --(DeadlinePassed)-->                   failed: RunFailed
any other  --(any of them)-->                      unchanged, the event is stale
"""

from holdfast.core import operations
from holdfast.core.edges import arrive, leave_by
from holdfast.core.entries import Failure, SignalReceived, SleepEnded, WaitTimedOut
from holdfast.core.events import DeadlinePassed, SignalArrived, TimerFired
from holdfast.core.run import Branch, is_moment
from holdfast.core.turn import Turn
from holdfast.definition.policies import TIMEOUT


def signal_arrived(turn: Turn, event: SignalArrived) -> None:
    """Give the signal to the branch that has waited longest for it; where none does, it stays pending."""
    for name, signal in turn.run.waits.items():
        if signal == event.name and name not in turn.moved:
            branch = turn.run.branches.get(name)
            if branch is None:
                turn.moved += (name,)
                operations.signal_arrived(turn, name, event)
                return
            arrivals = leave_by(turn, branch, turn.workflow.steps[_step(branch)].edges)
            turn.moved += (name,)
            turn.record(SignalReceived(name, _step(branch), _visit(branch), event.seq, event.payload, arrivals))
            return


def timer_fired(turn: Turn, event: TimerFired) -> None:
    """End a sleep, or a wait without its signal; not if its clock says something else by now."""
    branch = turn.run.branches.get(event.branch)
    if branch is None or branch.due_at_ms != event.due_at_ms or event.branch in turn.moved:
        return
    if _step(branch) != event.step or _visit(branch) != event.visit:
        return
    step = turn.workflow.steps[event.step]
    if turn.has_stopped(branch.id) and branch.at is not None and not is_moment(branch.at):
        return
    if branch.status == "sleeping":
        turn.moved += (branch.id,)
        arrivals = leave_by(turn, branch, step.edges)
        turn.record(SleepEnded(branch.id, event.step, event.visit, arrivals))
    elif branch.status == "waiting":
        turn.moved += (branch.id,)
        instead = None if step.wait_signal is None else step.wait_signal.on_timeout
        if instead is None:
            signal = turn.run.waits[branch.id]
            failure = Failure(TIMEOUT, f"no signal {signal!r} came in time", (TIMEOUT, TimeoutError.__name__))
            turn.fail(branch.id, branch.at, branch.attempt, failure)
            return
        arrivals = arrive(turn, branch, turn.workflow.steps[instead])
        turn.record(WaitTimedOut(branch.id, event.step, event.visit, arrivals))


def deadline_passed(turn: Turn, event: DeadlinePassed) -> None:
    """Fail a run that is not over in time."""
    if turn.run.deadline_ms == event.due_at_ms and not turn.has_stopped(""):
        seconds = (turn.run.timeout_ms or 0) / 1_000
        message = f"the run was not over {seconds:g} s after its start, pauses left out"
        turn.fail("", None, 0, Failure(TIMEOUT, message, (TIMEOUT, TimeoutError.__name__)))


def _step(branch: Branch) -> str:
    return "" if branch.at is None else branch.at.step


def _visit(branch: Branch) -> int:
    return 0 if branch.at is None else branch.at.visit
