"""What a durable function asks its context for without waiting: values, variables, reports."""
# Values are of any type, and named as users name them.
# ruff: noqa: ANN401, A002

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from holdfast.codecs import json as codec
from holdfast.core.entries import DELETED
from holdfast.definition.task import check_name
from holdfast.runtime.body import Body
from holdfast.runtime.context import DurableContext, TaskContext
from holdfast.runtime.scopes import current_scope
from holdfast.runtime.views import instant


class Facts(DurableContext):
    """The part of a `Context` that never waits. Values are recorded with whatever is recorded next.

    Attributes:
        task: Facts about the attempt: run id, workflow, branch, attempt, metadata, idempotency key.
    """

    __slots__ = ("_body", "task")

    def __init__(self, task: TaskContext, body: Body) -> None:
        """Made by the engine."""
        self.task = task
        self._body = body

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.task.run_id

    def now(self) -> datetime:
        """The time by the store's clock, in UTC; the same whenever the function runs."""
        at: datetime = self._value("now", lambda: instant(self._body.host.now_ms()), datetime)
        return at

    def random(self) -> float:
        """A number in [0, 1); the same whenever the function runs."""
        number: float = self._value("random", self._body.host.attempts.random, float)
        return number

    def uuid(self) -> UUID:
        """A new UUID of version 4; the same whenever the function runs."""
        new: UUID = self._value("uuid", self._new_uuid, UUID)
        return new

    def set(self, name: str, value: object) -> None:
        """Set a variable of the branch: shown by `handle.status()`, and there for later steps of a graph.

        What a part of `gather` sets is seen there, and by whoever waits for the parts once they all are done.
        """
        scope = current_scope(self._body, "ctx.set")
        scope.set({check_name(name, what="name of a variable"): codec.encode(value)})

    def get(self, name: str, default: Any = None, *, type: Any = Any) -> Any:
        """A variable: as it was when the branch came to this step, or as it was set since. Records nothing."""
        scope = current_scope(self._body, "ctx.get")
        payload = scope.find(name)
        if payload is None:
            payload = self._body.branch.variables.get(name, DELETED)
        return default if payload == DELETED else codec.decoder(type)(payload)

    def delete(self, name: str) -> None:
        """Remove a variable; harmless if there is none."""
        current_scope(self._body, "ctx.delete").set({name: DELETED})

    def heartbeat(self, details: object = None) -> None:
        """Say what the next attempt of this step should know; see `TaskContext.heartbeat`."""
        self.task.heartbeat(details)

    def report_progress(self, progress: object) -> None:
        """Show people how far the step is; see `TaskContext.report_progress`."""
        self.task.report_progress(progress)

    def patched(self, patch: str) -> bool:
        """Whether this run takes the new way: runs that had gone past this place before the change do not.

            if ctx.patched("check-fraud"):
                await ctx.step(check_fraud, order)

        Args:
            patch: Names the change; the same name gives the same answer in all of a run.
        """
        scope = current_scope(self._body, "ctx.patched")
        return self._body.patched(scope, check_name(patch, what="name of a patch"))

    def _value(self, name: str, make: Callable[[], Any], annotation: Any) -> Any:
        scope = current_scope(self._body, f"ctx.{name}")
        key, operation = scope.ask("value", name)
        if operation is not None:
            return codec.decoder(annotation)(operation.output)
        payload = codec.encode(make())
        self._body.record_later(key, "value", payload)
        return codec.decoder(annotation)(payload)

    def _new_uuid(self) -> UUID:
        return UUID(bytes=hashlib.sha256(self._body.host.message_id().encode()).digest()[:16], version=4)
