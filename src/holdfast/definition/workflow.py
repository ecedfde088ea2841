"""`Workflow`: the immutable definition that every way of writing one compiles to."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from holdfast.definition.fingerprint import workflow_fingerprint
from holdfast.definition.policies import Retry
from holdfast.definition.step import Step
from holdfast.definition.task import Task
from holdfast.definition.validate import check_workflow
from holdfast.errors import DefinitionError, FormatError

NO_SEQUEL = ""
"""In `Workflow.sequels`: no edge leaves the step, so its branch ends there."""


class Structure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a workflow is stored and fingerprinted: its graph, without code and policies.

    As JSON: `{"name": "order", "start_at": "validate", "steps": [{"name": "validate",
    "task": "validate", "edges": [{"step": "ship"}]}, ...]}`.
    """

    name: str
    start_at: str
    steps: tuple[Step, ...]


class Workflow:
    """A graph of steps with the tasks they call. Build it with `Flow`, or directly; then never change it.

    Attributes:
        name: Part of its identity, 1 to 255 bytes.
        steps: By name, in the order written.
        start_at: The first step.
        tasks: By name; what the task steps call. Empty for a structure that was read without its code.
        metadata: JSON-like facts for people and `get_task_context()`; not part of the fingerprint.
        sequels: Where a task step leads straight on to another one: its name to the next one's; and to
            `NO_SEQUEL` where no edge leaves it.
        fingerprint: 16 hexadecimal characters; equal structures have equal ones, in any process.
    """

    __slots__ = (
        "fingerprint",
        "metadata",
        "name",
        "sequels",
        "start_at",
        "steps",
        "tasks",
    )

    def __init__(
        self,
        name: str,
        steps: Iterable[Step],
        *,
        tasks: Iterable[Task[..., Any]] = (),
        start_at: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Check and freeze.

        Raises:
            DefinitionError: Something is wrong with the graph; `.problems` lists all of it.
        """
        listed = tuple(steps)
        problems = check_workflow(name, listed, start_at=start_at)
        if problems:
            raise DefinitionError(subject=f"workflow {name!r}", problems=problems)
        self.name = name
        self.steps: Mapping[str, Step] = MappingProxyType({step.name: step for step in listed})
        self.start_at = start_at or listed[0].name
        self.tasks: Mapping[str, Task[..., Any]] = MappingProxyType({t.name: t for t in tasks})
        self.metadata: Mapping[str, Any] = MappingProxyType(dict(metadata or {}))
        self.sequels = _sequels(self.steps)
        self.fingerprint = workflow_fingerprint(name, self.start_at, listed)

    @property
    def definition_hash(self) -> str:
        """The fingerprint, under the name that flows use for it."""
        return self.fingerprint

    def iter_nodes(self) -> Iterator[Step]:
        """The steps in the order written."""
        return iter(self.steps.values())

    def retry(self, step: str) -> tuple[Retry, ...]:
        """The policies deployed for a step: those of its task; () when the task is not here."""
        task = self.task_of(step)
        return () if task is None else task.retry

    def task_of(self, step: str) -> Task[..., Any] | None:
        """The task a step calls, or None: no task step, or the code is not here."""
        name = self.steps[step].task
        return None if name is None else self.tasks.get(name)

    def missing_tasks(self) -> list[str]:
        """Names of tasks that steps call and that are not here; a worker cannot drive such a workflow."""
        called = {step.task for step in self.steps.values() if step.task is not None}
        return sorted(called - self.tasks.keys())

    def first_steps(self) -> list[Step]:
        """The task steps that receive the run's input: the start, or all that a fork there leads to."""
        found: list[Step] = []
        waiting = [self.start_at]
        while waiting:
            step = self.steps[waiting.pop(0)]
            if step.kind == "task":
                found.append(step)
            elif step.kind == "fork":
                waiting.extend(edge.step for edge in step.edges)
        return found

    def structure(self) -> bytes:
        """The structure as JSON, to be stored under the fingerprint."""
        return msgspec.json.encode(Structure(self.name, self.start_at, tuple(self.steps.values())))

    @classmethod
    def from_structure(cls, data: bytes, *, tasks: Iterable[Task[..., Any]] = ()) -> "Workflow":
        """Rebuild from `structure()`, with those of `tasks` that its steps call.

        Raises:
            FormatError: Not a structure this version can read.
        """
        try:
            parsed = msgspec.json.decode(data, type=Structure)
            called = {step.task for step in parsed.steps}
            return cls(
                parsed.name,
                parsed.steps,
                tasks=[task for task in tasks if task.name in called],
                start_at=parsed.start_at,
            )
        except (msgspec.MsgspecError, ValueError, RecursionError, DefinitionError) as error:
            raise FormatError(
                subject="stored workflow definition",
                reason=str(error),
                fix="deploy a version that knows it, or the newer Holdfast that wrote it",
            ) from error

    def __repr__(self) -> str:
        """Show name and fingerprint."""
        return f"<workflow {self.name} {self.fingerprint}>"


def _sequels(steps: Mapping[str, Step]) -> dict[str, str]:
    sequels: dict[str, str] = {}
    for step in steps.values():
        if len(step.edges) == 1 and step.edges[0].branch is None:
            following = steps[step.edges[0].step]
            if step.kind == following.kind == "task":
                sequels[step.name] = following.name
        elif not step.edges and step.kind == "task":
            sequels[step.name] = NO_SEQUEL
    return sequels
