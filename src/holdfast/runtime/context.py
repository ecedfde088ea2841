"""What a task body may ask about itself (semantics row 46)."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any


class TaskContext:
    """Facts about the attempt that is running.

    Attributes:
        run_id, workflow, step, branch: Where it is.
        visit: Which time the branch is at this step, from 1.
        attempt: From 1, counting retries.
        incarnation: Of the run, from 1, counting restarts.
        metadata: Of the workflow.
    """

    __slots__ = (
        "attempt",
        "branch",
        "incarnation",
        "metadata",
        "run_id",
        "step",
        "visit",
        "workflow",
    )

    def __init__(
        self,
        run_id: str,
        incarnation: int,
        workflow: str,
        metadata: Mapping[str, Any],
        branch: str,
        step: str,
        visit: int,
        attempt: int,
    ) -> None:
        """Made by the engine for each attempt."""
        self.run_id = run_id
        self.incarnation = incarnation
        self.workflow = workflow
        self.metadata = metadata
        self.branch = branch
        self.step = step
        self.visit = visit
        self.attempt = attempt

    @property
    def idempotency_key(self) -> str:
        """The same for all attempts and recoveries of this step of this run, and for nothing else.

        Hand it to the outside (a payment, an insert) so that a repeated attempt is recognized there.
        """
        return f"{self.run_id}/{self.incarnation}/{self.branch}/{self.step}/{self.visit}"


CURRENT: ContextVar[TaskContext | None] = ContextVar("holdfast_task_context", default=None)


def get_task_context() -> TaskContext | None:
    """The context of the attempt this code runs in; None outside of one."""
    return CURRENT.get()
