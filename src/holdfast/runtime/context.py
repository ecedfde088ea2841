"""What a task body may ask about itself (semantics row 46)."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Literal, Protocol
from weakref import ref

import msgspec

from holdfast.codecs import json as codec
from holdfast.core.effects import StartAttempt
from holdfast.errors import UsageError


class Listener(Protocol):
    """Takes what attempts report."""

    def report(
        self, at: StartAttempt, key: str, kind: Literal["progress", "heartbeat"], payload: bytes
    ) -> None:
        """Take a report of an attempt, or of the operation `key` of it, from any thread."""
        ...


class RunFacts(msgspec.Struct, eq=False):
    """What is the same for all attempts of a run.

    Attributes:
        is_stopped: The run was dropped or cancelled: whatever its bodies still do is for nothing.
        listener: A weak reference to what takes the reports of attempts; None where nobody would hear them.
            Weak, because the garbage collector does not track a `TaskContext`, which so must be in no cycle.
    """

    run_id: str
    incarnation: int
    workflow: str
    metadata: Mapping[str, Any]
    is_stopped: bool = False
    listener: "ref[Listener] | None" = None


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
    _heartbeat: bytes | None = None
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

    def heartbeat(self, details: object = None) -> None:
        """Say that the attempt is alive, and what the next one should know if this one is lost or fails.

        From any thread. Written at once, then every 5 s at most, and with the attempt's outcome.

        Args:
            details: JSON-like data, a dataclass, ...; `heartbeat_details` gives it to the next attempt.

        Raises:
            CodecError: It cannot be encoded.
            UsageError: In a process of its own: only who drives the run can write.
        """
        self._report("heartbeat", details)

    def report_progress(self, progress: object) -> None:
        """Show people how far the step is, in `handle.status().branches`; written as often as `heartbeat`."""
        self._report("progress", progress)

    def heartbeat_details(self, type: Any = Any) -> Any:  # noqa: A002, ANN401 - a user's word and value
        """What the attempt before this one said last with `heartbeat`, decoded as `type`; None if nothing."""
        return None if self._heartbeat is None else codec.decoder(type)(self._heartbeat)

    def _report(self, kind: Literal["progress", "heartbeat"], said: object) -> None:
        if self._facts.listener is None:
            raise UsageError(
                what=f"a {kind} was reported where nobody hears it",
                fix="a body in a process of its own cannot; leave executor out",
            )
        payload, listener = codec.encode(said), self._facts.listener()
        if listener is not None and not self.cancelled:
            # What an attempt says that was given up is nothing to the next one.
            listener.report(self._at, self._operation, kind, payload)

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
