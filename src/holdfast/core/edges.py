"""Following edges: where a branch goes after a step, and which branches start (semantics rows 8, 9).

State --(a step is done)--> State: arrivals of the entry that says so
one unnamed edge, or one naming the branch itself    the branch goes on
several edges, or a named one                        the branch completes, each edge starts a branch
no edge                                              the branch completes
a fork step                                          its edges are followed at once
a join step where another branch waits already       the arriving branch completes there
"""

from holdfast.core.entries import Arrival, Failure
from holdfast.core.run import Branch
from holdfast.core.turn import Turn
from holdfast.definition.step import Edge, Step

DUPLICATE_BRANCH = "duplicate_branch"


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
    """`branch` itself comes to `step`; a fork is passed through."""
    if step.kind == "fork":
        return follow(turn, branch, step.edges)
    arrivals = _at_step(turn, branch.id, step, branch.visits.get(step.name, 0) + 1, None)
    if not arrivals:
        turn.ended += (branch.id,)
    return arrivals


def _at_step(turn: Turn, branch_id: str, step: Step, visit: int, parent: str | None) -> tuple[Arrival, ...]:
    if step.kind == "task":
        return (Arrival(branch_id, step.name, visit, "task", parent),)
    arrival = Arrival(branch_id, step.name, visit, "join", parent)
    if parent is None and _someone_waits(turn, step.name):
        return ()
    turn.joining += (arrival,)
    return (arrival,)


def _someone_waits(turn: Turn, step: str) -> bool:
    before = [turn.run.branches[branch_id].at for branch_id in turn.run.joining]
    waiting = [at for at in (*before, *turn.joining) if at not in turn.joined]
    return any(at is not None and at.step == step for at in waiting)


def _generated(turn: Turn, branch: Branch) -> str:
    return f"{branch.id}-{turn.run.branches_started + len(turn.started) + 1}"
