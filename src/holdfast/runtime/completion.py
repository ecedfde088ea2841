"""Completion hooks: the runs that follow a run start in the commit that completes it (semantics row 57)."""

import inspect
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec

from holdfast.codecs import json as codec
from holdfast.core.children import Awaited, outcome
from holdfast.core.effects import StartAttempt
from holdfast.core.entries import Entry, Failure, RunCompleted
from holdfast.core.events import AttemptFailed
from holdfast.core.header import run_after
from holdfast.core.run import Run
from holdfast.definition.task import Task, check_name, is_coroutine_function
from holdfast.definition.workflow import Completion, FollowUp
from holdfast.errors import HoldfastError, UsageError
from holdfast.runtime import failures
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.runtime.calls import call_of
from holdfast.runtime.context import CURRENT
from holdfast.runtime.host import Host
from holdfast.stores.records import NewRun, RunRecord

ON_COMPLETE = "on_complete"


class Hook:
    """What a workflow wants to start when a run of it completes.

    Attributes:
        found: The runs that follow, or why there are none; None until it was asked.
    """

    __slots__ = ("_bound", "_host", "_record", "found")

    def __init__(self, host: Host, record: RunRecord, bound: BoundWorkflow) -> None:
        """Args: the worker, the row of the run, and its workflow."""
        self._host = host
        self._record = record
        self._bound = bound
        self.found: Sequence[NewRun] | Failure | None = None

    def is_wanted(self, entries: Sequence[Entry]) -> bool:
        """Whether it is to be asked before these entries are committed."""
        return self.found is None and type(entries[-1]) is RunCompleted

    async def ask(self, run: Run, entries: Sequence[Entry]) -> None:
        """Call it, with the output that the run will have after `entries`."""
        # Called from the task of a branch, whose attempt it is no part of.
        CURRENT.set(None)
        workflow, record = self._bound.workflow, self._record
        output = outcome(run_after(run, entries))
        given = None if output is None or isinstance(output, Failure) else codec.flatten(output)
        said = Completion(
            run_id=record.id,
            workflow=workflow.name,
            output=None if given is None else self._bound.decode_output(given),
            metadata=workflow.metadata,
        )
        follow_ups: list[FollowUp] = []

        def collect(wanted: object) -> None:
            follow_ups.extend(_checked(wanted))

        hook = workflow.on_complete
        if hook is None:
            return
        call = call_of(Task[..., Any](_collecting(hook, collect), name=ON_COMPLETE), {})
        at = StartAttempt("", ON_COMPLETE, 1, 1)
        event = await self._host.attempts.make(at, call((said,)), b"")
        self.found = (
            event.failure if isinstance(event, AttemptFailed) else await self._new_runs(follow_ups, run)
        )

    async def _new_runs(self, follow_ups: list[FollowUp], run: Run) -> list[NewRun] | Failure:
        found: list[NewRun] = []
        for number, wanted in enumerate(follow_ups, start=1):
            awaited = Awaited("", ON_COMPLETE, 1, f"{ON_COMPLETE}#{number}")
            try:
                new = await self._host.new_child(
                    self._record, awaited, run.position, wanted.workflow, wanted.input, detach=True
                )
            except HoldfastError as error:
                return failures.from_exception(error, ON_COMPLETE)
            found.append(new if wanted.id is None else msgspec.structs.replace(new, id=wanted.id))
        return found


def _collecting(hook: Any, collect: Any) -> Any:  # noqa: ANN401 - a user's function, sync or async
    """The hook, whose result is taken as it is: workflows in it cannot be encoded."""
    if is_coroutine_function(hook):

        async def call_async(completion: Completion) -> None:
            collect(await hook(completion))

        return call_async

    def call(completion: Completion) -> object:
        given = hook(completion)
        if inspect.isawaitable(given):
            return later(given)
        collect(given)
        return None

    async def later(given: Awaitable[object]) -> None:
        collect(await given)

    return call


def _checked(wanted: Any) -> list[FollowUp]:  # noqa: ANN401 - what a user's function gave
    """Raise `UsageError` for what is no list of `FollowUp`."""
    given: list[Any] = [wanted] if isinstance(wanted, FollowUp) else list(wanted or ())
    follow_ups = [each for each in given if isinstance(each, FollowUp)]
    if len(follow_ups) < len(given):
        raise UsageError(what=f"on_complete gave {wanted!r}", fix="let it return a list of FollowUp, or None")
    for each in follow_ups:
        if each.id is not None:
            check_name(each.id, what="run id")
    return follow_ups
