"""What cannot be done with a run."""

from collections.abc import Sequence
from typing import Any

from holdfast.errors.root import HoldfastError


class RunError(HoldfastError):
    """A request about a run that cannot be met."""

    code = "run"


class WorkflowNotFoundError(RunError):
    """No workflow of that name is known here; nothing was started."""

    code = "workflow_not_found"
    workflow: str
    known: tuple[str, ...]

    def __init__(self, *, workflow: str, known: Sequence[str]) -> None:
        """Args: the name asked for, and the names that are known."""
        listed = ", ".join(sorted(known)) or "none"
        super().__init__(
            f"no workflow {workflow!r} is known here (known: {listed}); "
            "pass it in workflows=[...] of the engine, or start a worker that has it once",
            workflow=workflow,
            known=tuple(known),
        )


class InputError(RunError):
    """The input does not fit the workflow; nothing was started."""

    code = "input"
    workflow: str
    step: str
    reason: str
    fix: str

    def __init__(self, *, workflow: str, step: str, reason: str, fix: str) -> None:
        """Args: workflow name, the step whose annotation refuses it, why (with the path), and the way out."""
        super().__init__(
            f"the input of workflow {workflow!r} does not fit step {step!r}: {reason}; {fix}",
            workflow=workflow,
            step=step,
            reason=reason,
            fix=fix,
        )


class RunNotFoundError(RunError):
    """No run has that id."""

    code = "run_not_found"
    run_id: str

    def __init__(self, *, run_id: str) -> None:
        """Args: the id that was asked for."""
        super().__init__(
            f"there is no run {run_id!r} in this store; `holdfast list` shows the ids",
            run_id=run_id,
        )


class RunExistsError(RunError):
    """A run of that id is there already; nothing was started, the old run is untouched."""

    code = "run_exists"
    run_id: str
    workflow: str
    status: str

    def __init__(self, *, run_id: str, workflow: str, status: str) -> None:
        """Args: the id, and the workflow and status of the run that holds it."""
        super().__init__(
            f"run {run_id!r} exists already (workflow {workflow!r}, {status}); choose another id, "
            'or pass on_conflict="use_existing" to get that run or "restart" to replace it',
            run_id=run_id,
            workflow=workflow,
            status=status,
        )


class RunConflictError(RunError):
    """The run of that id has another workflow or another input; it is untouched."""

    code = "run_conflict"
    run_id: str
    difference: str

    def __init__(self, *, run_id: str, difference: str) -> None:
        """Args: the id, and what differs."""
        super().__init__(
            f"run {run_id!r} exists already with another {difference}; choose another id, "
            'or pass on_conflict="restart" to replace it',
            run_id=run_id,
            difference=difference,
        )


class RunStateError(RunError):
    """What was asked cannot be done in the run's state; nothing happened."""

    code = "run_state"
    run_id: str
    status: str
    what: str
    fix: str

    def __init__(self, *, run_id: str, status: str, what: str, fix: str) -> None:
        """Args: the id, its status, what cannot be done (such as "cannot be paused"), and the way out."""
        super().__init__(
            f"run {run_id!r} is {status} and {what}; {fix}", run_id=run_id, status=status, what=what, fix=fix
        )


class BranchNotFoundError(RunError):
    """The run has no unfinished branch of that name; nothing happened."""

    code = "branch_not_found"
    run_id: str
    branch: str
    known: tuple[str, ...]

    def __init__(self, *, run_id: str, branch: str, known: Sequence[str]) -> None:
        """Args: the id, the branch asked for, and the unfinished branches there are."""
        super().__init__(
            f"run {run_id!r} has no unfinished branch {branch!r}; it has: {', '.join(known) or 'none'}",
            run_id=run_id,
            branch=branch,
            known=tuple(known),
        )


class SignalLimitError(RunError):
    """The run has as many signals pending as it may have; this one was not stored."""

    code = "signal_limit"
    run_id: str
    limit: int

    def __init__(self, *, run_id: str, limit: int) -> None:
        """Args: the id, and how many may be pending."""
        super().__init__(
            f"run {run_id!r} has {limit} signals pending, which is the limit; let it receive some first, "
            "or send several things in one payload",
            run_id=run_id,
            limit=limit,
        )


class RunWaitingError(RunError):
    """A run in memory waits for what cannot come, because nobody else knows of it; it was given up."""

    code = "run_waiting"
    run_id: str
    waiting: tuple[str, ...]

    def __init__(self, *, run_id: str, waiting: Sequence[str]) -> None:
        """Args: the id, and a line for each thing it waits for."""
        super().__init__(
            f"run {run_id!r} waits {', and '.join(waiting)}, and in run() nobody can give it that; "
            "start it with an Engine, whose handle can",
            run_id=run_id,
            waiting=tuple(waiting),
        )


class ResultTimeoutError(RunError):
    """The run was not over in time; it goes on, and asking again is fine."""

    code = "result_timeout"
    run_id: str
    timeout_ms: int
    status: str

    def __init__(self, *, run_id: str, timeout_ms: int, status: str) -> None:
        """Args: the id, the time waited in ms, and the status seen last."""
        super().__init__(
            f"run {run_id!r} was still {status} after {timeout_ms} ms; it goes on, "
            "ask again or look at handle.status()",
            run_id=run_id,
            timeout_ms=timeout_ms,
            status=status,
        )


class RunBlockedError(RunError):
    """The run cannot go on by itself; what it has recorded is kept."""

    code = "run_blocked"
    run_id: str
    reason: str

    def __init__(self, *, run_id: str, reason: str) -> None:
        """Args: the id, and what stands in the way."""
        super().__init__(
            f"run {run_id!r} is blocked: {reason}; mend that, its journal is kept as it is",
            run_id=run_id,
            reason=reason,
        )


class TaskError(RunError):
    """The run ended without an output. `.failure` holds type, message, step and traceback text."""

    code = "task"
    run_id: str
    status: str
    failure: Any

    def __init__(self, *, run_id: str, status: str, failure: Any) -> None:  # noqa: ANN401 - core.entries.Failure, a layer above
        """Args: the id, the final status, and the recorded failure (None when cancelled)."""
        reason = "" if failure is None else f": {failure.summary()}"
        super().__init__(f"run {run_id!r} {status}{reason}", run_id=run_id, status=status, failure=failure)
