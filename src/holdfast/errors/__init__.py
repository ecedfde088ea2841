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
    |   |-- RunStateError            the run is in a state in which that cannot be done
    |   |-- BranchNotFoundError
    |   |-- SignalLimitError
    |   |-- RunWaitingError          `run()` cannot go on: `.waiting` says what for
    |   |-- ResultTimeoutError
    |   |-- RunBlockedError          a person must act: `.reason` says on what
    |   `-- TaskError            the run ended without an output: `.failure` says why
    |-- OperationError           raised *inside durable functions*: catch it, or let the step fail of it
    |   |-- StepError
    |   |   `-- StepTimeoutError         also a TimeoutError, as the next ones that are called so
    |   |-- ChildError
    |   |   `-- ChildTimeoutError
    |   |-- OperationTimeoutError
    |   |   `-- SignalTimeoutError
    |-- OperationCancelledError  in the list of `ctx.map`, for an item that was not needed any more
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

from holdfast.errors.operations import (
    ChildError,
    ChildTimeoutError,
    OperationCancelledError,
    OperationError,
    OperationTimeoutError,
    SignalTimeoutError,
    StepError,
    StepTimeoutError,
)
from holdfast.errors.root import DefinitionError, HoldfastError, Problem, UsageError, WorkflowError
from holdfast.errors.runs import (
    BranchNotFoundError,
    InputError,
    ResultTimeoutError,
    RunBlockedError,
    RunConflictError,
    RunError,
    RunExistsError,
    RunNotFoundError,
    RunStateError,
    RunWaitingError,
    SignalLimitError,
    TaskError,
    WorkflowNotFoundError,
)
from holdfast.errors.stores import (
    MAKE_IT_FIT,
    CodecError,
    FormatError,
    LeaseLostError,
    StoreConnectError,
    StoreError,
    StoreOpenError,
    StoreOwnedError,
    StoreRefusedError,
    StoreUnavailableError,
)

__all__ = [
    "MAKE_IT_FIT",
    "BranchNotFoundError",
    "ChildError",
    "ChildTimeoutError",
    "CodecError",
    "DefinitionError",
    "FormatError",
    "HoldfastError",
    "InputError",
    "LeaseLostError",
    "OperationCancelledError",
    "OperationError",
    "OperationTimeoutError",
    "Problem",
    "ResultTimeoutError",
    "RunBlockedError",
    "RunConflictError",
    "RunError",
    "RunExistsError",
    "RunNotFoundError",
    "RunStateError",
    "RunWaitingError",
    "SignalLimitError",
    "SignalTimeoutError",
    "StepError",
    "StepTimeoutError",
    "StoreConnectError",
    "StoreError",
    "StoreOpenError",
    "StoreOwnedError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "TaskError",
    "UsageError",
    "WorkflowError",
    "WorkflowNotFoundError",
]
