"""Following edges: where a branch goes after a step, and which branches start (semantics rows 8, 9).

State --(a step is done)--> State: arrivals of the entry that says so
one unnamed edge, or one naming the branch itself    the branch goes on
several edges, or a named one                        the branch completes, each edge starts a branch
no edge                                              the branch completes
a fork step                                          its edges are followed at once
a pause step                                         the same, and who follows them is paused there
a join step where another branch waits already       the arriving branch completes there
"""

from holdfast.core.entries import Arrival, Failure, Paused, Wait
from holdfast.core.run import Branch
from holdfast.core.turn import Turn
from holdfast.definition.step import Edge, Pause, Step

DUPLICATE_BRANCH = "duplicate_branch"


def leave_by(turn: Turn, branch: Branch, edges: tuple[Edge, ...]) -> tuple[Arrival, ...]:
    """Follow `edges`; without any the branch ends."""
    if edges:
        return follow(turn, branch, edges)
    turn.ended += (branch.id,)
    return ()


def follow(turn: Turn, branch: Branch, edges: tuple[Edge, ...]) -> tuple[Arrival, ...]:
    """Resolve `edges` for `branch`; records in the turn that it ended, or who waits at a join.

    A named branch that has begun before ends the run with `duplicate_branch`.
    """
    if len(edges) == 1:
        edge = edges[0]
        if edge.branch is None or edge.branch == branch.id:
            step = turn.workflow.steps[edge.step]
            if step.kind == "task":
                return (Arrival(branch.id, edge.step, branch.visits.get(edge.step, 0) + 1),)
            return arrive(turn, branch, step)
    turn.ended += (branch.id,)
    arrivals: list[Arrival] = []
    for edge in edges:
        new = edge.branch or _generated(turn, branch)
        if new in turn.run.branches or new in turn.started:
            message = f"branch {new!r} has begun before; a named edge can be entered once in a run"
            failure = Failure(DUPLICATE_BRANCH, message, (DUPLICATE_BRANCH,))
            turn.fail(branch.id, branch.at, branch.attempt, failure)
            return ()
        turn.started += (new,)
        arrivals += _at_step(turn, new, turn.workflow.steps[edge.step], 1, branch.id)
    return tuple(arrivals)


def arrive(turn: Turn, branch: Branch, step: Step) -> tuple[Arrival, ...]:
    """`branch` itself comes to `step`; a fork and a pause are passed through."""
    if step.kind == "fork":
        return follow(turn, branch, step.edges)
    if step.pause is not None:
        arrivals = follow(turn, branch, step.edges)
        for arrival in arrivals:
            _pause(turn, arrival.branch, step.pause)
        return arrivals
    arrivals = _at_step(turn, branch.id, step, branch.visits.get(step.name, 0) + 1, None)
    if not arrivals:
        turn.ended += (branch.id,)
    return arrivals


def _at_step(turn: Turn, branch_id: str, step: Step, visit: int, parent: str | None) -> tuple[Arrival, ...]:
    pause: Pause | None = None
    while step.pause is not None:
        # Only for a branch that starts here; the definition has made sure that one edge goes on.
        pause = step.pause
        step = turn.workflow.steps[step.edges[0].step]
    if pause is not None:
        _pause(turn, branch_id, pause)
    match step.kind:
        case "sleep" if step.sleep is not None:
            wait = Wait("", step.sleep.duration_ms, step.sleep.until_ms)
            return (Arrival(branch_id, step.name, visit, "sleep", parent, wait),)
        case "wait_signal" if step.wait_signal is not None:
            wait = Wait(step.wait_signal.signal, step.wait_signal.timeout_ms)
            return (Arrival(branch_id, step.name, visit, "wait_signal", parent, wait),)
        case "join":
            arrival = Arrival(branch_id, step.name, visit, "join", parent)
            if parent is None and _someone_waits(turn, step.name):
                return ()
            turn.joining += (arrival,)
            return (arrival,)
        case _:
            return (Arrival(branch_id, step.name, visit, "task", parent),)


def _pause(turn: Turn, branch_id: str, pause: Pause) -> None:
    # Of several pause steps in a row the last one counts: it stands before where the branch is held.
    if all(paused.branch != branch_id for paused in turn.pausing):
        turn.pausing += (Paused(branch_id, pause.reason, ""),)


def _someone_waits(turn: Turn, step: str) -> bool:
    before = [turn.run.branches[branch_id].at for branch_id in turn.run.joining]
    waiting = [at for at in (*before, *turn.joining) if at not in turn.joined]
    return any(at is not None and at.step == step for at in waiting)


def _generated(turn: Turn, branch: Branch) -> str:
    return f"{branch.id}-{turn.run.branches_started + len(turn.started) + 1}"
