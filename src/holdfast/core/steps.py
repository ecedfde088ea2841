"""Starting a run, and completing steps.

nothing     --(StartRequested)-->    at the first step: RunStarted
active      --(AttemptSucceeded)-->  at the next step, or completed: StepCompleted
any other   --(AttemptSucceeded)-->  unchanged, the event is stale
run         --(CompletionRefused)--> failed: RunFailed
run over    --(CompletionRefused)--> unchanged, the event is stale
"""

from holdfast.core.edges import arrive, leave_by
from holdfast.core.entries import Arrival, Entry, RunCompleted, RunStarted, StepCompleted
from holdfast.core.events import AttemptSucceeded, CompletionRefused, StartRequested
from holdfast.core.evolve import is_plain
from holdfast.core.run import MAIN, Branch, Run
from holdfast.core.turn import JOURNAL_ENTRIES_MAX, Turn
from holdfast.definition.workflow import NO_SEQUEL, Workflow


def start_requested(turn: Turn, event: StartRequested) -> None:
    """Record the first entry; a run that has begun stays as it is."""
    workflow = turn.workflow
    if turn.run.position:
        return
    main = Branch(MAIN, None, event.input)
    arrivals = arrive(turn, main, workflow.steps[workflow.start_at])
    # A main that forks at once ends inside RunStarted: it was never open, so it is not counted as ended.
    turn.ended = ()
    if any(arrival.branch == MAIN for arrival in arrivals):
        turn.started += (MAIN,)
    timeout_ms = workflow.timeout_ms
    turn.record(RunStarted(workflow.name, workflow.fingerprint, event.input, arrivals, timeout_ms))


def completion_refused(turn: Turn, event: CompletionRefused) -> None:
    """Fail a run that was about to complete; what was still to be recorded of it is done again by a retry."""
    if not turn.run.is_over:
        turn.fail("", None, 0, event.failure)


def straight_on(workflow: Workflow, run: Run, event: AttemptSucceeded) -> StepCompleted | None:
    """The entry of a step that leads its branch straight to another task: the short way of most decisions.

    Returns:
        None where there is more to decide, or the event may be stale: then `attempt_succeeded` does it.
    """
    name, step = event.branch, event.step
    branch, sequel = run.branches.get(name), workflow.sequels.get(step)
    if branch is None or not sequel or run.position >= JOURNAL_ENTRIES_MAX or not is_plain(run, branch):
        return None
    at, visit = branch.at, event.visit
    if at is None or at.step != step or at.visit != visit or event.attempt != 1 or event.sets:
        return None
    arrivals = (Arrival(name, sequel, branch.visits.get(sequel, 0) + 1),)
    return StepCompleted(name, step, visit, 1, event.output, arrivals)


def last_step(workflow: Workflow, run: Run, event: AttemptSucceeded) -> list[Entry] | None:
    """The entries of a step that ends a run of one branch, the same way."""
    branch = run.branches.get(event.branch)
    if branch is None or workflow.sequels.get(event.step) != NO_SEQUEL or run.position >= JOURNAL_ENTRIES_MAX:
        return None
    at = branch.at
    if run.open != 1 or branch.status != "active" or at is None or branch.attempt != event.attempt:
        return None
    if at.step != event.step or at.visit != event.visit:
        return None
    done = StepCompleted(branch.id, at.step, at.visit, event.attempt, event.output, (), event.sets)
    return [done, RunCompleted(branch.id)]


def attempt_succeeded(turn: Turn, event: AttemptSucceeded) -> None:
    """Record the step's output and where the branch goes."""
    branch = turn.current(event)
    if branch is None:
        return
    turn.move(branch, branch.operations.values())
    arrivals = leave_by(turn, branch, turn.workflow.steps[event.step].edges)
    turn.record(
        StepCompleted(event.branch, event.step, event.visit, event.attempt, event.output, arrivals, event.sets)
    )
