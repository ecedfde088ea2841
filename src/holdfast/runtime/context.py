"""What a task body may ask about itself (semantics row 46)."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import msgspec

from holdfast.core.effects import StartAttempt


class RunFacts(msgspec.Struct, frozen=True):
    """What is the same for all attempts of a run."""

    run_id: str
    incarnation: int
    workflow: str
    metadata: Mapping[str, Any]


class TaskContext(msgspec.Struct, frozen=True, gc=False):
    """Facts about the attempt that is running.

    Attributes:
        run_id, workflow, step, branch: Where it is.
        visit: Which time the branch is at this step, from 1.
        attempt: From 1, counting retries.
        incarnation: Of the run, from 1, counting restarts.
        metadata: Of the workflow.
    """

    # Made for every attempt and rarely asked: it holds two references, and answers from them.
    _facts: RunFacts
    _at: StartAttempt

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
        return self._at.attempt

    @property
    def idempotency_key(self) -> str:
        """The same for all attempts and recoveries of this step of this run, and for nothing else.

        Hand it to the outside (a payment, an insert) so that a repeated attempt is recognized there.
        """
        parts = (self.run_id, str(self.incarnation), self.branch, self.step, str(self.visit))
        return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)


CURRENT: ContextVar[TaskContext | None] = ContextVar("holdfast_task_context", default=None)


def get_task_context() -> TaskContext | None:
    """The context of the attempt this code runs in; None outside of one."""
    return CURRENT.get()
