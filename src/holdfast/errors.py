"""Every error of Holdfast, one tree; what the caller can do decides the branch.

    HoldfastError
    |-- DefinitionError          fix the workflow: `.problems` lists everything at once
    |-- UsageError               fix the call: an argument, a URL, `run()` inside a loop
    |-- RunError                 change the request
    |   |-- WorkflowNotFoundError
    |   |-- InputError
    |   |-- RunNotFoundError
    |   |-- RunExistsError
    |   |-- RunConflictError
    |   |-- ResultTimeoutError
    |   |-- RunBlockedError          a person must act: `.reason` says on what
    |   `-- TaskError            the run ended without an output: `.failure` says why
    |-- StoreError
    |   |-- StoreUnavailableError    try again
    |   |-- StoreOpenError           fix the path or its rights
    |   |-- StoreOwnedError          another worker process owns the SQLite file
    |   |-- StoreRefusedError        this one value can never be written
    |   `-- StoreConnectError        fix the URL, the user or its rights
    |-- LeaseLostError           stop: this worker's lease has expired
    |-- FormatError              repair: damaged, foreign or newer data
    `-- CodecError               repair: a value that cannot be encoded or decoded

    WorkflowError                raised *by task bodies* to choose the type of their failure

A message is built once, in `__init__`, from keyword facts that stay as attributes; `code` is stable and
meant for programs. One `__reduce__` in the root makes all of them survive pickling.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

MAKE_IT_FIT = "change the value, or the annotation it is read by"


class HoldfastError(Exception):
    """Root of everything Holdfast raises on its own account."""

    code: ClassVar[str] = "holdfast"

    def __init__(self, message: str, **facts: object) -> None:
        """Keep the message and the facts it was built from."""
        super().__init__(message)
        self.facts = facts
        self.__dict__.update(facts)

    def __reduce__(self) -> tuple[Callable[..., "HoldfastError"], tuple[object, ...]]:
        """Rebuild with message, facts and notes, so that a pickled error is the same error."""
        return _rebuild, (type(self), str(self), self.__dict__)


def _rebuild(kind: type[HoldfastError], message: str, attributes: dict[str, object]) -> HoldfastError:
    error = kind.__new__(kind)
    HoldfastError.__init__(error, message)
    error.__dict__.update(attributes)
    return error


class Problem:
    """One thing wrong with a definition: which step, where in it, what, and a stable code."""

    __slots__ = ("code", "message", "path", "step")

    def __init__(self, *, step: str, path: str, code: str, message: str) -> None:
        """Args: step name or "", dotted path inside it, code, one sentence."""
        self.step = step
        self.path = path
        self.code = code
        self.message = message

    def __repr__(self) -> str:
        """Show as one line, the way `DefinitionError` prints it."""
        place = f"step {self.step!r}: " if self.step else ""
        return f"{place}{self.message} [{self.code}]"

    def __eq__(self, other: object) -> bool:
        """Two problems are equal when all four facts are."""
        return isinstance(other, Problem) and self._facts() == other._facts()

    def __hash__(self) -> int:
        """Hash the four facts."""
        return hash(self._facts())

    def _facts(self) -> tuple[str, str, str, str]:
        return (self.step, self.path, self.code, self.message)


class DefinitionError(HoldfastError):
    """A workflow, task or policy is not well formed; nothing was built."""

    code = "definition"
    subject: str
    problems: tuple[Problem, ...]

    def __init__(self, *, subject: str, problems: Sequence[Problem]) -> None:
        """Args: what was being built, and everything that is wrong with it."""
        lines = "".join(f"\n  - {problem!r}" for problem in problems)
        super().__init__(f"{subject} cannot be built:{lines}", subject=subject, problems=tuple(problems))


class UsageError(HoldfastError):
    """A call that can never work as written; nothing happened."""

    code = "usage"
    what: str
    fix: str

    def __init__(self, *, what: str, fix: str) -> None:
        """Args: what is wrong, and what to do instead."""
        super().__init__(f"{what}; {fix}", what=what, fix=fix)


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
            'or pass on_conflict="use_existing" to get that run',
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
            f"run {run_id!r} exists already with another {difference}; choose another id",
            run_id=run_id,
            difference=difference,
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


class StoreError(HoldfastError):
    """The place where runs are kept could not do what was asked."""

    code = "store"


class StoreUnavailableError(StoreError):
    """The store did not answer. Whether the last write was applied is unknown; repeat it as it was."""

    code = "store_unavailable"
    store: str
    reason: str

    def __init__(self, *, store: str, reason: str) -> None:
        """Args: the store without secrets, and the reason in its own words."""
        super().__init__(
            f"the store {store} is not available: {reason}; asking again may work",
            store=store,
            reason=reason,
        )


class StoreOpenError(StoreError):
    """The store's file cannot be created or opened; nothing was written."""

    code = "store_open"
    path: str
    reason: str

    def __init__(self, *, path: str, reason: str) -> None:
        """Args: the database file, and the reason of the operating system."""
        super().__init__(
            f"{path} cannot be opened: {reason}; check that its directory exists and can be written",
            path=path,
            reason=reason,
        )


class StoreOwnedError(StoreError):
    """Another worker owns this SQLite file; nothing was opened."""

    code = "store_owned"
    path: str
    owner: str

    def __init__(self, *, path: str, owner: str) -> None:
        """Args: the database file, and who owns it (process id, host, since)."""
        super().__init__(
            f"{path} is owned by another worker ({owner}); stop that worker, or open it as a client "
            'with worker="auto" or worker=False: what you start then runs there',
            path=path,
            owner=owner,
        )


class StoreRefusedError(StoreError):
    """This value can never be written; everything else in its group was."""

    code = "store_refused"
    reason: str

    def __init__(self, *, reason: str) -> None:
        """Args: the driver's reason."""
        super().__init__(
            f"the store can not hold this value: {reason}; "
            "change it, or keep it elsewhere and pass its address",
            reason=reason,
        )


class StoreConnectError(StoreError):
    """The store's server cannot be reached, or does not let this user in; nothing was written."""

    code = "store_connect"
    store: str
    reason: str

    def __init__(self, *, store: str, reason: str) -> None:
        """Args: the store without secrets, and the reason of the driver or the server."""
        super().__init__(
            f"the store {store} cannot be opened: {reason}; "
            "check its host, port, user, password, database and rights",
            store=store,
            reason=reason,
        )


class LeaseLostError(HoldfastError):
    """A worker's lease has expired; what it had not committed is void."""

    code = "lease_lost"
    worker: str

    def __init__(self, *, worker: str) -> None:
        """Args: the identity whose lease it was."""
        super().__init__(
            f"the lease of worker {worker!r} has expired; others go on with its runs, and this process takes "
            "a new identity: nothing is to be done here",
            worker=worker,
        )


class FormatError(HoldfastError):
    """Stored data that this version cannot read: damaged, foreign or newer. It was not touched."""

    code = "format"
    subject: str
    reason: str
    fix: str

    def __init__(self, *, subject: str, reason: str, fix: str) -> None:
        """Args: which file or entry, what is wrong with it, and the way out."""
        super().__init__(f"{subject}: {reason}; {fix}", subject=subject, reason=reason, fix=fix)


class CodecError(HoldfastError):
    """A value that cannot be turned into a payload, or a payload not into the asked type."""

    code = "codec"
    path: str
    reason: str
    fix: str

    def __init__(self, *, path: str, reason: str, fix: str = MAKE_IT_FIT) -> None:
        """Args: where in the value (`$` is the value itself), what is wrong there, and the way out."""
        super().__init__(f"{reason} - at `{path}`; {fix}", path=path, reason=reason, fix=fix)


class WorkflowError(Exception):
    """Raised by a task body to say of which type its failure is, and whether to try again.

    `type="fatal"` is never retried by `all`; any other type can be named in `Retry(error_equals=...)`.
    """

    def __init__(self, message: str, *, type: str = "WorkflowError", details: object = None) -> None:  # noqa: A002 - the word documents use
        """Args: message, type for retry patterns, and JSON-like details kept in the failure."""
        super().__init__(message)
        self.type = type
        self.details = details
