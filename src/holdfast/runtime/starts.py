"""Starting runs: the definition, the input checked against it, and the first entry."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from holdfast.codecs import json as codec
from holdfast.codecs.entries import decode_entry, encode_awaited, encode_entry
from holdfast.core.children import Awaited
from holdfast.core.decide import decide
from holdfast.core.entries import Entry, Failure, RunFailed
from holdfast.core.events import StartRequested
from holdfast.core.header import header_after
from holdfast.core.run import OVER, Run
from holdfast.definition.flow import Flow
from holdfast.definition.task import NAME_MAX_BYTES
from holdfast.definition.workflow import Workflow
from holdfast.errors import (
    CodecError,
    InputError,
    RunConflictError,
    RunExistsError,
    UsageError,
    WorkflowNotFoundError,
)
from holdfast.runtime.bindings import BoundWorkflow
from holdfast.stores.base import Store
from holdfast.stores.records import Applied, NewRun, RunRecord

CHILD_DIGEST_CHARACTERS = 12
"""Hexadecimal: 48 bits, and the id of the parent, the operation and the position go into it."""
Definable = Flow | Workflow
OnConflict = Literal["fail", "use_existing", "restart"]


class Start:
    """A run that is about to be inserted: its first entries and what the store needs with them."""

    def __init__(self, run_id: str, workflow: Workflow, payload: bytes) -> None:
        """Decide the first entries; nothing is written.

        There is one, unless the graph ends the run at once: joins that can never be met, right at the start.
        """
        self.run = Run(run_id)
        self.entries: list[Entry] = decide(workflow, self.run, [StartRequested(payload)])
        status = header_after(self.run, self.entries).status
        self.over = status if status in OVER else None
        self._workflow = workflow
        self._payload = payload

    def new_run(self, worker: str | None) -> NewRun:
        """The row to insert, held by `worker` at once or left to a claim."""
        workflow = self._workflow
        digest = hashlib.sha256(workflow.name.encode() + b"\0" + self._payload).digest()
        return NewRun(
            id=self.run.id,
            workflow=workflow.name,
            fingerprint=workflow.fingerprint,
            entries=tuple([encode_entry(entry) for entry in self.entries]),
            input_digest=digest,
            worker=None if self.over else worker,
            over=self.over,
        )


def bind_all(
    targets: Iterable[Definable], *, durable: bool, alone: bool = False
) -> Mapping[str, BoundWorkflow]:
    """Build and bind workflows, by name, with those that they start unless `alone`.

    Raises:
        DefinitionError: A flow cannot be built, or a function not be called by its step.
        UsageError: Two of them have one name, or one is no workflow.
    """
    bound: dict[str, BoundWorkflow] = {}
    for target in targets:
        if isinstance(target, str):
            raise UsageError(what=f"{target!r} is no Flow or Workflow", fix="pass the object, not its name")
        _check_workflow(target)
        workflow = target.build(durable=durable) if isinstance(target, Flow) else target
        if workflow.name in bound:
            raise UsageError(what=f"two workflows are called {workflow.name!r}", fix="give one another name")
        missing = workflow.missing_tasks()
        if missing:
            raise UsageError(
                what=f"workflow {workflow.name!r} calls tasks that are not given: {', '.join(missing)}",
                fix="pass them with Workflow(..., tasks=[...])",
            )
        bound[workflow.name] = BoundWorkflow(workflow, origin=target)
    if not alone:
        _bind_children(bound, durable=durable)
    return bound


def _bind_children(bound: dict[str, BoundWorkflow], *, durable: bool) -> None:
    """Add the workflows that those which are given start, and theirs; each name is one workflow."""
    found = [child for parent in bound.values() for child in parent.workflow.children]
    for child in found:
        known = bound.get(child.name)
        if known is None:
            bound[child.name] = bind_all([child], durable=durable, alone=True)[child.name]
        elif known.workflow.fingerprint != child.fingerprint:
            raise UsageError(what=f"two workflows are called {child.name!r}", fix="give one another name")
        if known is None:
            found += child.children


async def resolve(store: Store, bound: Mapping[str, BoundWorkflow], target: Definable | str) -> Workflow:
    """The workflow to start: one that was given, or by name also one that some worker has stored.

    Raises:
        WorkflowNotFoundError: Neither.
        UsageError: It is no workflow, or another one than that of its name here.
    """
    _check_workflow(target)
    name = target if isinstance(target, str) else target.name
    known = bound.get(name)
    if known is not None:
        _check_same(known, target)
        return known.workflow
    if isinstance(target, str):
        stored = await store.find_definition(name)
        if stored is not None:
            return Workflow.from_structure(stored.structure)
    names = {*bound, *await store.definition_names()}
    raise WorkflowNotFoundError(workflow=name, known=sorted(names))


def _check_workflow(target: object) -> None:
    if not isinstance(target, Flow | Workflow | str):
        raise UsageError(what=f"{target!r} is no Flow or Workflow", fix="pass what you built, or its name")


def _check_same(known: BoundWorkflow, target: Definable | str) -> None:
    if isinstance(target, str) or target is known.origin:
        return
    given = target.build() if isinstance(target, Flow) else target
    if given.fingerprint != known.workflow.fingerprint:
        raise UsageError(
            what=f"another workflow is called {given.name!r} here",
            fix="start the one that is in workflows=[...], or give this one another name and add it there",
        )


def encode_input(workflow: Workflow, bound: BoundWorkflow | None, value: object) -> bytes:
    """Encode the input, and try it on every step that will get it, where their code is here.

    Raises:
        InputError: It cannot be encoded, or does not fit a step's annotation.
    """
    step = workflow.start_at
    try:
        payload = codec.encode(value)
        for each in () if bound is None else bound.first:
            step = each.name
            if each.decode is not None:
                each.decode(payload)
    except CodecError as error:
        reason = f"{error.reason} - at `{error.path}`"
        raise InputError(workflow=workflow.name, step=step, reason=reason, fix=error.fix) from error
    return payload


def answering(new: NewRun, record: RunRecord) -> NewRun:
    """The new run, which takes the place of another one, with the run that waits for that one's outcome."""
    return msgspec.structs.replace(
        new,
        parent_key=record.parent_key,
        parent_incarnation=record.parent_incarnation,
        parent_step=record.parent_step,
        queue=record.queue,
    )


def continued(run: Run, record: RunRecord, workflow: Workflow, payload: bytes) -> NewRun:
    """The run that follows one which begins anew: known by the same input, and paused if that was."""
    start = Start(record.id, workflow, payload)
    if run.pause is not None:
        start.entries.append(run.pause)
    new = answering(start.new_run(None), record)
    return msgspec.structs.replace(
        new, input_digest=record.input_digest, priority=record.priority, tags=record.tags
    )


def child_of(
    record: RunRecord,
    awaited: Awaited,
    position: int,
    workflow: Workflow,
    payload: bytes,
    *,
    detach: bool,
    queue: str | None,
) -> NewRun:
    """A run that another one starts, with an id made of that one's, the operation, and where its journal is."""
    parts = (record.key, record.id, record.incarnation, *msgspec.structs.astuple(awaited), position)
    digest = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:CHILD_DIGEST_CHARACTERS]
    room = NAME_MAX_BYTES - len(digest) - 1
    readable = f"{record.id}/{awaited.key}".encode()[:room].decode("utf-8", "ignore")
    new = Start(f"{readable}-{digest}", workflow, payload).new_run(None)
    new = msgspec.structs.replace(new, queue=record.queue if queue is None else queue)
    if detach:
        return new
    return msgspec.structs.replace(
        new,
        parent_key=record.key,
        parent_incarnation=record.incarnation,
        parent_step=encode_awaited(awaited),
    )


def failure_at_birth(new: NewRun) -> Failure | None:
    """Why a run is over before anybody drives it: a graph that can never go on; None for all others."""
    if new.over is None:
        return None
    last = decode_entry(new.entries[-1], run_id=new.id, position=len(new.entries))
    return last.failure if isinstance(last, RunFailed) else None


async def check_existing(store: Store, new: NewRun, on_conflict: OnConflict) -> bool:
    """Accept the run that has the id already, or raise; False if it has gone meanwhile.

    Raises:
        RunExistsError: `on_conflict` is "fail".
        RunConflictError: It has another workflow or another input.
    """
    record = await store.find_run(new.id)
    if record is None:
        return False
    if on_conflict == "fail":
        raise RunExistsError(run_id=new.id, workflow=record.workflow, status=record.status)
    if record.workflow != new.workflow:
        raise RunConflictError(run_id=new.id, difference="workflow")
    if record.input_digest != new.input_digest:
        raise RunConflictError(run_id=new.id, difference="input")
    return True


def held_record(new: NewRun, applied: Applied, worker: str, *, instead: RunRecord | None = None) -> RunRecord:
    """The row of a run that was just inserted as held, or put in the place of another one."""
    return RunRecord(
        key=applied.key,
        id=new.id,
        incarnation=1 if instead is None else instead.incarnation + 1,
        epoch=1 if instead is None else instead.epoch + 1,
        position=len(new.entries),
        status="running",
        workflow=new.workflow,
        fingerprint=new.fingerprint,
        queue=new.queue,
        priority=new.priority,
        tags=new.tags,
        worker=worker,
        due_at_ms=None,
        messages_sent=0,
        recoveries=0,
        input_digest=new.input_digest,
        parent_key=new.parent_key,
        parent_incarnation=new.parent_incarnation,
        parent_step=new.parent_step,
        created_at_ms=applied.at_ms,
        updated_at_ms=applied.at_ms,
    )
