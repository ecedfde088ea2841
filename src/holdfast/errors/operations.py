"""What the body of a durable function meets: operations that failed, and calls that cannot be."""

from typing import Any

from holdfast.errors.root import HoldfastError


class OperationError(HoldfastError):
    """Something that a body asked for has failed for good; recorded, and the same whenever the body runs again.

    Let it pass, and the step fails as the operation did, of the same type. Catch it, and the body goes on.
    """

    code = "operation"
    operation: str
    failure: Any

    def __init__(self, *, operation: str, failure: Any, **facts: object) -> None:  # noqa: ANN401 - core.entries.Failure, a layer above
        """Args: its key, such as `charge#1`, and the recorded failure."""
        super().__init__(
            f"{operation} failed: {failure.type}: {failure.message}",
            operation=operation,
            failure=failure,
            **facts,
        )

    @property
    def kind(self) -> str:
        """The type of the failure: the name of a class, or what `WorkflowError(type=...)` said."""
        return str(self.failure.type)

    def is_a(self, error: type[BaseException] | str) -> bool:
        """Whether the failure is of that type: a class counts by its name, its subclasses too."""
        name = error if isinstance(error, str) else error.__name__
        return name in {self.failure.type, *self.failure.types}


class StepError(OperationError):
    """A step of a durable function has failed, and its retries are used up."""

    code = "step"


class OperationTimeoutError(OperationError, TimeoutError):
    """Something was not done in time, or the function itself has cut it off, as `asyncio.timeout` does."""

    code = "operation_timeout"


class StepTimeoutError(StepError, OperationTimeoutError):
    """A step of a durable function was not done in time."""

    code = "step_timeout"


class ChildError(OperationError):
    """A child run has failed, or was cancelled."""

    code = "child"
    run_id: str


class ChildTimeoutError(ChildError, OperationTimeoutError):
    """A child run was not over in time."""

    code = "child_timeout"


class SignalTimeoutError(OperationTimeoutError):
    """No signal came in time."""

    code = "signal_timeout"


class OperationCancelledError(HoldfastError):
    """Stands in the list of `ctx.map` for an item that was cancelled, because enough others were done."""

    code = "operation_cancelled"
    operation: str

    def __init__(self, *, operation: str) -> None:
        """Args: key of the scope of that item."""
        super().__init__(f"{operation} was cancelled: enough of the others were done", operation=operation)
