"""Joins and the end of a run: what follows from several branches together (semantics rows 18, 19).

joining    --(all of its branches completed)-->       at the next step: BranchJoined
run        --(its last branch completed)-->           completed: RunCompleted
run        --(every open branch waits at a join)-->   failed: RunFailed(join_unsatisfiable)
"""

from holdfast.core.edges import leave_by
from holdfast.core.entries import Arrival, BranchJoined, Failure, RunCompleted
from holdfast.core.run import Branch
from holdfast.core.turn import Turn

JOIN_UNSATISFIABLE = "join_unsatisfiable"


def settle(turn: Turn) -> None:
    """Fire the joins that are satisfied, until none is; then end the run if nothing of it is open."""
    waiting = _waiting(turn)
    while not turn.over:
        ready = next((at for at in waiting.values() if not _missing(turn, at)), None)
        if ready is None:
            break
        del waiting[ready.branch]
        known = len(turn.joining)
        turn.joined += (ready,)
        _join(turn, ready)
        waiting.update({at.branch: at for at in turn.joining[known:]})
    if not turn.over:
        _finish(turn, waiting)


def _waiting(turn: Turn) -> dict[str, Arrival]:
    branches = turn.run.branches
    before = [branches[name].at for name in turn.run.joining]
    return {at.branch: at for at in (*before, *turn.joining) if at is not None}


def _missing(turn: Turn, at: Arrival) -> list[str]:
    """The branches that the join at `at` still waits for."""
    join = turn.workflow.steps[at.step].join
    names = () if join is None else join.branches
    return [name for name in names if not _completed(turn, name)]


def _completed(turn: Turn, name: str) -> bool:
    if name in turn.ended:
        return True
    branch = turn.run.branches.get(name)
    return branch is not None and branch.status == "completed"


def _join(turn: Turn, at: Arrival) -> None:
    step = turn.workflow.steps[at.step]
    joined = () if step.join is None else step.join.branches
    branch = turn.run.branches.get(at.branch)
    if branch is None:
        # It starts in this very turn; only its name, place and visits matter to its edges.
        branch = Branch(at.branch, None, b"")
        branch.at = at
        branch.visits[at.step] = at.visit
    arrivals = leave_by(turn, branch, step.edges)
    turn.record(BranchJoined(at.branch, at.step, at.visit, joined, arrivals))


def _finish(turn: Turn, waiting: dict[str, Arrival]) -> None:
    still_open = turn.run.open + len(turn.started) - len(turn.ended)
    if still_open == 0:
        turn.entries.append(RunCompleted(turn.ended[-1]))
        turn.over = True
    elif still_open == len(waiting):
        at = next(iter(waiting.values()))
        names = ", ".join(_missing(turn, at))
        message = f"no branch can move any more, and join {at.step!r} still waits for: {names}"
        failure = Failure(JOIN_UNSATISFIABLE, message, (JOIN_UNSATISFIABLE,), step=at.step)
        turn.fail(at.branch, at, 1, failure)
