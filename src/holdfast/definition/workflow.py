"""`Workflow`: the immutable definition that every way of writing one compiles to."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import msgspec

from holdfast.definition.duration import Duration, to_ms
from holdfast.definition.fingerprint import workflow_fingerprint
from holdfast.definition.policies import Retention, Retry, retention_ms
from holdfast.definition.step import Step
from holdfast.definition.task import Task
from holdfast.definition.validate import check_workflow
from holdfast.errors import DefinitionError, FormatError, UsageError

NO_SEQUEL = ""
"""In `Workflow.sequels`: no edge leaves the step, so its branch ends there."""


OnComplete = Callable[[Any], Any]
"""Takes a `Completion`; gives a list of `FollowUp`, or None, or a coroutine of it."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A run that is about to complete, as its `on_complete` sees it.

    Attributes:
        output: Decoded, as `handle.result()` gives it.
        metadata: Of the workflow.
    """

    run_id: str
    workflow: str
    output: Any
    metadata: Mapping[str, Any]


class FollowUp(msgspec.Struct, frozen=True):
    """A run that starts when another one completes.

    Attributes:
        workflow: One that some worker knows, or its name.
        input: Its input.
        id: Default one that is made of the completed run's; an id that is taken starts nothing.
    """

    workflow: Any
    input: Any = None
    id: str | None = None


class Structure(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What of a workflow is stored: its graph without code, and the time-out, which is in no fingerprint.

    As JSON: `{"name": "order", "start_at": "validate", "steps": [{"name": "validate",
    "task": "validate", "edges": [{"step": "ship"}]}, ...]}`.
    """

    name: str
    start_at: str
    steps: tuple[Step, ...]
    timeout_ms: int | None = None


class Workflow:
    """A graph of steps with the tasks they call. Build it with `Flow`, or directly; then never change it.

    Attributes:
        name: Part of its identity, 1 to 255 bytes.
        steps: By name, in the order written.
        start_at: The first step.
        tasks: By name; what the task steps call. Empty for a structure that was read without its code.
        metadata: JSON-like facts for people and `get_task_context()`; not part of the fingerprint.
        timeout_ms: Bound of a whole run, pauses left out, or None.
        retention_ms: How long its runs are kept after their end, by status; empty leaves it to the engine.
        children: Workflows whose runs it starts: who drives it drives them, too.
        on_complete: Called with a `Completion` before a run completes; gives the runs that follow it.
        sequels: Where a task step leads straight on to another one: its name to the next one's; and to
            `NO_SEQUEL` where no edge leaves it.
        fingerprint: 16 hexadecimal characters; equal structures have equal ones, in any process.
    """

    __slots__ = (
        "children",
        "fingerprint",
        "metadata",
        "name",
        "on_complete",
        "retention_ms",
        "sequels",
        "start_at",
        "steps",
        "tasks",
        "timeout_ms",
    )

    def __init__(
        self,
        name: str,
        steps: Iterable[Step],
        *,
        tasks: Iterable[Task[..., Any]] = (),
        start_at: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        timeout: Duration | None = None,
        retention: Retention | None = None,
        children: Iterable["Workflow"] = (),
        on_complete: OnComplete | None = None,
    ) -> None:
        """Check and freeze.

        Args:
            name: 1 to 255 bytes.
            steps: At least one.
            tasks: What the task steps call.
            start_at: Name of the first step; default the first given.
            metadata: JSON-like facts.
            timeout: A run that is not over by then fails with `timeout`; the time of a pause does not count.
            retention: How long runs are kept after their end: a duration for completed and cancelled ones, or
                one for each status; default the engine's.
            children: Workflows whose runs it starts, so that engines need not be told of them.
            on_complete: Called, sync or async, with a `Completion` when a run is about to complete; the runs it
                returns start in the very commit that completes this one. If it raises, the run fails.

        Raises:
            DefinitionError: Something is wrong with the graph; `.problems` lists all of it.
            UsageError: A duration is none.
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
        self.timeout_ms = None if timeout is None else to_ms(timeout, what="timeout")
        self.retention_ms = retention_ms(retention)
        self.children = tuple(children)
        self.on_complete = on_complete
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
        """The task steps that receive the run's input: the start, or what waits and forks there lead to."""
        found: list[Step] = []
        reached = [self.start_at]
        for name in reached:
            step = self.steps[name]
            if step.kind == "task":
                found.append(step)
            elif step.wait_signal is not None:
                # The payload takes the place of the input, but not where none has come.
                instead = step.wait_signal.on_timeout
                reached += [] if instead is None or instead in reached else [instead]
            elif step.kind != "join":
                reached += [edge.step for edge in step.edges if edge.step not in reached]
        return found

    def structure(self) -> bytes:
        """The structure as JSON, to be stored under the fingerprint."""
        steps = tuple(self.steps.values())
        return msgspec.json.encode(Structure(self.name, self.start_at, steps, self.timeout_ms))

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
                timeout=None if parsed.timeout_ms is None else timedelta(milliseconds=parsed.timeout_ms),
            )
        except (msgspec.MsgspecError, ValueError, RecursionError, DefinitionError, UsageError) as error:
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
