"""What a task body may ask about itself (semantics row 46)."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import msgspec

from holdfast.core.effects import StartAttempt


class RunFacts(msgspec.Struct, eq=False):
    """What is the same for all attempts of a run.

    Attributes:
        is_stopped: The run was dropped or cancelled: whatever its bodies still do is for nothing.
    """

    run_id: str
    incarnation: int
    workflow: str
    metadata: Mapping[str, Any]
    is_stopped: bool = False


class TaskContext(msgspec.Struct, eq=False, gc=False):
    """Facts about the attempt that is running.

    Attributes:
        run_id, workflow, step, branch: Where it is.
        visit: Which time the branch is at this step, from 1.
        attempt: From 1, counting retries.
        operation: In a step of a durable function its key, such as `charge#1`; else "".
        incarnation: Of the run, from 1, counting restarts.
        metadata: Of the workflow.
        cancelled: Whether the attempt was told to stop.
    """

    # Made for every attempt and rarely asked: it holds two references, and answers from them.
    _facts: RunFacts
    _at: StartAttempt
    _is_stopped: bool = False
    _operation: str = ""
    _operation_attempt: int = 0

    @property
    def run_id(self) -> str:
        """See the class."""
        return self._facts.run_id

    @property
    def incarnation(self) -> int:
        """See the class."""
        return self._facts.incarnation

    @property
    def workflow(self) -> str:
        """See the class."""
        return self._facts.workflow

    @property
    def metadata(self) -> Mapping[str, Any]:
        """See the class."""
        return self._facts.metadata

    @property
    def branch(self) -> str:
        """See the class."""
        return self._at.branch

    @property
    def step(self) -> str:
        """See the class."""
        return self._at.step

    @property
    def visit(self) -> int:
        """See the class."""
        return self._at.visit

    @property
    def attempt(self) -> int:
        """See the class."""
        return self._operation_attempt or self._at.attempt

    @property
    def operation(self) -> str:
        """See the class."""
        return self._operation

    @property
    def idempotency_key(self) -> str:
        """The same for all attempts and recoveries of this step of this run, and for nothing else.

        Hand it to the outside (a payment, an insert) so that a repeated attempt is recognized there.
        """
        parts = [self.run_id, str(self.incarnation), self.branch, self.step, str(self.visit)]
        if self._operation:
            parts.append(self._operation)
        return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)

    @property
    def cancelled(self) -> bool:
        """Whether the attempt was told to stop: its time is up, or its run was dropped or cancelled.

        A sync body in a thread cannot be stopped from outside: what it gives later is dropped. One that may
        take long should look here now and then, and return. An async body gets `CancelledError` instead, and a
        body in a process is killed.
        """
        return self._is_stopped or self._facts.is_stopped

    def stop(self) -> None:
        """Tell the attempt to stop; for the engine, and for tests of bodies that look at `cancelled`."""
        self._is_stopped = True


class DurableContext:
    """What a function gets whose first parameter is annotated with it, or with a class made of it."""

    __slots__ = ()


CURRENT: ContextVar[TaskContext | None] = ContextVar("holdfast_task_context", default=None)
DURABLE: ContextVar[DurableContext | None] = ContextVar("holdfast_context", default=None)


def get_task_context() -> TaskContext | None:
    """The context of the attempt this code runs in; None outside of one."""
    return CURRENT.get()
