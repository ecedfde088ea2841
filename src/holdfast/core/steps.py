"""Starting a run, and completing steps.

nothing     --(StartRequested)-->    at the first step: RunStarted
active      --(AttemptSucceeded)-->  at the next step, or completed: StepCompleted
any other   --(AttemptSucceeded)-->  unchanged, the event is stale
"""

from holdfast.core.edges import arrive, follow
from holdfast.core.entries import RunStarted, StepCompleted
from holdfast.core.events import AttemptSucceeded, StartRequested
from holdfast.core.run import MAIN, Branch
from holdfast.core.turn import Turn


def start_requested(turn: Turn, event: StartRequested) -> None:
    """Record the first entry; a run that has begun stays as it is."""
    workflow = turn.workflow
    if turn.run.position:
        return
    main = Branch(MAIN, None, event.input)
    arrivals = arrive(turn, main, workflow.steps[workflow.start_at])
    # A main that forks at once ends inside RunStarted: it was never open, so it is not counted as ended.
    turn.ended = ()
    turn.entries.append(RunStarted(workflow.name, workflow.fingerprint, event.input, arrivals))


def attempt_succeeded(turn: Turn, event: AttemptSucceeded) -> None:
    """Record the step's output and where the branch goes."""
    branch = turn.current(event)
    if branch is None:
        return
    edges = turn.workflow.steps[event.step].edges
    if edges:
        arrivals = follow(turn, branch, edges)
    else:
        arrivals = ()
        turn.ended += (branch.id,)
    turn.record(
        StepCompleted(event.branch, event.step, event.visit, event.attempt, event.output, arrivals, event.sets)
    )
