"""`Flow`: a pipeline written fluently, compiled to the one graph model (semantics rows 37, 38, 41, 44).

    flow = Flow("order").then(validate).fork().branch(reserve).branch(charge).join(bill).then(ship)

A fork becomes a `fork` step with one named edge for each branch and an unnamed one to a `join` step, where
the trunk waits; the function given to `join` is the task step after it.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from holdfast.definition.duration import Duration
from holdfast.definition.policies import Retention
from holdfast.definition.step import Edge, Join, Sleep, Step, WaitSignal
from holdfast.definition.task import NAME_MAX_BYTES, Task, as_task
from holdfast.definition.validate import check_workflow
from holdfast.definition.workflow import OnComplete, Workflow
from holdfast.errors import DefinitionError, Problem, UsageError

Target = Callable[..., Any]
LAMBDA = "<lambda>"
HOLE = "missing"
"""Stands where something reported is left out, so that the rest of the graph can be checked as well."""
CHILD_TASK = "workflow.child"
"""What the journal calls a step that starts a child, before the workflow's name."""
BRANCHES_MAX = 1_000
"""Branches of one fork; more is a map over data."""


class Flow:
    """Steps one after the other; the output of one is the argument of the next.

    Methods change the flow and return it (a fork returns its builder). Nothing raises before `build()`,
    which reports every problem at once; engines and `run()` build by themselves.
    """

    def __init__(
        self,
        name: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        timeout: Duration | None = None,
        retention: Retention | None = None,
        on_complete: OnComplete | None = None,
    ) -> None:
        """Args: name of the workflow, JSON-like facts about it, and the options that `Workflow` has."""
        self.name = name
        self._metadata = metadata
        self._timeout = timeout
        self._retention = retention
        self._on_complete = on_complete
        self._is_building = False
        self._draft = _Draft()

    def then(self, f: Target, *, name: str | None = None) -> "Flow":
        """Add a step that calls `f` (a task or any callable) with the output of the step before.

        Args:
            f: Sync or async; takes one argument, or none.
            name: Of the step; default the task's name, made distinct (`inc`, `inc_2`).
        """
        self._draft.end_fork()
        self._draft.append(self._draft.task_step(f, name))
        return self

    def then_child(self, workflow: "Flow | Workflow | str", *, name: str | None = None) -> "Flow":
        """Add a step that starts a run of another workflow with what it got, and passes on that run's output.

        The child is paused and cancelled with this run; if it fails, the step does, with a failure of its type.

        Args:
            workflow: What to run; engines that have this flow drive it, too. A name is for one they are given.
            name: Of the step; default the workflow's name.
        """
        self._draft.end_fork()
        if not isinstance(workflow, Flow | Workflow | str):
            self._draft.report(name or "", "not_a_workflow", f"{workflow!r} is no Flow or Workflow")
            return self
        target = workflow if isinstance(workflow, str) else workflow.name
        if not target:
            self._draft.report(name or "", "not_a_workflow", "a child needs the name of its workflow")
            return self
        if not isinstance(workflow, str):
            self._draft.add_child(workflow)
        call = Task[..., Any](_StartChild(target), name=_child_task(target), takes_context=True)
        self._draft.append(self._draft.task_step(call, name or self._draft.free(target)))
        return self

    def delay(self, name: str, duration: Duration | None = None, *, until: datetime | None = None) -> "Flow":
        """Add a step that waits and passes on what it got; a waiting run is a row and costs nothing else.

        Args:
            name: Of the step.
            duration: How long, such as "3d", counted from the commit of the step before.
            until: Instead of it a moment, with its time zone; a pause does not move it.
        """
        self._draft.end_fork()
        label = self._draft.claim_name(name)
        try:
            sleep = Sleep.of(duration, until=until)
        except UsageError as error:
            self._draft.report(label, "duration", str(error))
            sleep = Sleep(0)
        self._draft.append(Step(label, "sleep", sleep=sleep))
        return self

    def wait_for_signal(
        self,
        signal: str,
        name: str | None = None,
        *,
        timeout: Duration | None = None,
        on_timeout: Target | None = None,
    ) -> "Flow":
        """Add a step that waits for a signal; its payload is the argument of the next step.

        Args:
            signal: Its name, as in `handle.signal(name, payload)`.
            name: Of the step; default the signal's name.
            timeout: How long to wait; default for ever.
            on_timeout: Called when the time is up, with the output of the step before; its output takes the
                place of the payload. Without it the run fails with `timeout`.
        """
        draft = self._draft
        draft.end_fork()
        label = draft.claim_name(signal if name is None else name)
        instead = None if on_timeout is None else draft.task_step(on_timeout, None)
        try:
            wait = WaitSignal.of(signal, timeout=timeout, on_timeout=None if instead is None else instead.name)
        except UsageError as error:
            draft.report(label, "duration", str(error))
            wait = WaitSignal(signal)
        draft.append(Step(label, "wait_signal", wait_signal=wait))
        if instead is not None:
            draft.append_beside(instead)
        return self

    def fork(self) -> "Fork":
        """Begin parallel branches, which all get the output of the step before; end them with `join`."""
        self._draft.end_fork()
        branches: dict[str, list[Step]] = {}
        self._draft.open_fork = branches
        return Fork(self, self._draft, branches)

    def build(self, *, durable: bool = False) -> Workflow:
        """Compile to a `Workflow`; the same flow gives an equal one each time.

        Args:
            durable: Also refuse what only works in memory: lambdas without a name.

        Raises:
            DefinitionError: Something is wrong; `.problems` lists all of it.
        """
        self._draft.end_fork()
        problems = list(self._draft.problems)
        if self._is_building:
            problems.append(_problem("", "endless", "it is its own child; then_child takes a name for that"))
        if not self._draft.steps:
            problems.append(_problem("", "empty", "a flow needs at least one step"))
        if durable:
            problems += self._draft.nameless
        if problems:
            problems += check_workflow(self.name, self._draft.steps or [Step(HOLE, task=HOLE)], start_at=None)
            raise DefinitionError(subject=f"flow {self.name!r}", problems=problems)
        self._is_building = True
        try:
            given = self._draft.children.values()
            children = [each.build(durable=durable) if isinstance(each, Flow) else each for each in given]
        finally:
            self._is_building = False
        return Workflow(
            self.name,
            self._draft.steps,
            tasks=self._draft.tasks.values(),
            metadata=self._metadata,
            timeout=self._timeout,
            retention=self._retention,
            children=children,
            on_complete=self._on_complete,
        )


class _StartChild:
    """The body of a step that is a run of another workflow."""

    def __init__(self, target: str) -> None:
        self._target = target

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StartChild) and self._target == other._target

    def __hash__(self) -> int:
        return hash(self._target)

    async def __call__(self, ctx: Any, value: Any) -> Any:  # noqa: ANN401 - a Context, and what the child takes and gives
        return await ctx.child(self._target, value)


class Fork:
    """The open branches of a fork; made by `Flow.fork()`."""

    def __init__(self, flow: Flow, draft: "_Draft", branches: dict[str, list[Step]]) -> None:
        """Args: the flow to return to, what it has collected, and where to collect the fork's branches."""
        self._flow = flow
        self._draft = draft
        self._branches = branches

    def branch(self, *fs: Target, name: str | None = None) -> "Fork":
        """Add a branch that calls `fs` one after the other.

        Args:
            fs: At least one.
            name: Its key in the dict that `join` passes on, distinct in the flow; default the name of
                its first step.
        """
        steps: list[Step] = []
        for f in fs:
            step = self._draft.task_step(f, None)
            if steps:
                steps[-1] = msgspec.structs.replace(steps[-1], edges=(Edge(step.name),))
            steps.append(step)
        if not steps:
            self._draft.report(name or "", "empty_branch", "a branch needs at least one function")
            steps.append(self._draft.hole())
        label = name or steps[0].name
        if label in self._draft.branches:
            self._draft.report(label, "duplicate_branch", f"two branches are called {label!r}")
        self._draft.branches.add(label)
        self._branches[label] = steps
        return self

    def join(self, f: Target, *, name: str | None = None) -> Flow:
        """End the fork: call `f` with `{branch name: its output}` once all branches have completed."""
        draft = self._draft
        if draft.open_fork is not self._branches:
            draft.report("", "open_fork", "a fork is joined once, before anything else is added")
            draft.append(draft.task_step(f, name))
            return self._flow
        if not 1 <= len(self._branches) <= BRANCHES_MAX:
            draft.report("", "empty_fork", f"a fork needs 1 to {BRANCHES_MAX} branches")
        fork_name, join_name = draft.distinct("fork"), draft.distinct("join")
        draft.append_fork(self._branches, fork_name, join_name, draft.task_step(f, name))
        return self._flow


class _Draft:
    """What a flow and its fork collect together."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._ends: list[int] = []
        self.tasks: dict[str, Task[..., Any]] = {}
        self.problems: list[Problem] = []
        self.branches: set[str] = set()
        self.open_fork: dict[str, list[Step]] | None = None
        self.nameless: list[Problem] = []
        self.children: dict[str, Flow | Workflow] = {}
        self._names: set[str] = set()

    def report(self, step: str, code: str, message: str) -> None:
        problem = _problem(step, code, message)
        if problem not in self.problems:
            self.problems.append(problem)

    def end_fork(self) -> None:
        """Report a fork that nothing has joined; what it has is checked with the rest."""
        if self.open_fork is not None:
            self.report("", "open_fork", "a fork is not ended; call .join(f) on it")
            self.append_fork(self.open_fork, self.distinct("fork"), self.distinct("join"), self.hole())

    def append_fork(self, branches: dict[str, list[Step]], fork_name: str, join_name: str, after: Step) -> None:
        self.open_fork = None
        if not branches:
            hole = self.hole()
            branches = {hole.name: [hole]}
        edges = [Edge(steps[0].name, label) for label, steps in branches.items()]
        self.append(Step(fork_name, "fork", edges=(*edges, Edge(join_name))))
        self.steps += [step for steps in branches.values() for step in steps]
        join = Join(tuple(branches))
        self.steps.append(Step(join_name, "join", join=join, edges=(Edge(after.name),)))
        self._ends = []
        self.append(after)

    def append(self, step: Step) -> None:
        """Add a step that the end of the trunk leads to; now it is the end."""
        for index in self._ends:
            last = self.steps[index]
            self.steps[index] = msgspec.structs.replace(last, edges=(*last.edges, Edge(step.name)))
        self.steps.append(step)
        self._ends = [len(self.steps) - 1]

    def append_beside(self, step: Step) -> None:
        """Add a step that is another end of the trunk, and that no edge leads to."""
        self.steps.append(step)
        self._ends.append(len(self.steps) - 1)

    def task_step(self, f: Target, name: str | None) -> Step:
        if not callable(f):
            self.report(name or "", "not_callable", f"{f!r} is not a function or task")
            return Step(self.distinct(name or "step"), task=HOLE)
        task = as_task(f)
        if isinstance(f, Workflow):
            for child in f.children:
                self.add_child(child)
        if name is not None and name in self._names:
            self.report(name, "duplicate_step", "another step has the same name")
        if task.name == LAMBDA:
            # A lambda's own name says nothing: the step's name is what the journal knows it by.
            label = self.distinct(name or "lambda")
            lambda_task = Task(task.fn, name=label)
            if self.tasks.setdefault(label, lambda_task) is not lambda_task:
                self.report(
                    label, "task_name", f"a function is called {label!r} too; name the lambda otherwise"
                )
            if name is None:
                message = "a lambda in a durable flow needs a name: .then(f, name=...)"
                self.nameless.append(_problem(label, "nameless", message))
            return Step(label, task=label)
        if self.tasks.setdefault(task.name, task).fn != task.fn:
            self.report(task.name, "task_name", f"two functions are called {task.name!r}; name one")
        return Step(self.distinct(name or task.name), task=task.name)

    def add_child(self, workflow: "Flow | Workflow") -> None:
        known = self.children.setdefault(workflow.name, workflow)
        if known is not workflow and _fingerprint(known) != _fingerprint(workflow):
            self.report("", "duplicate_child", f"two workflows are called {workflow.name!r}")

    def claim_name(self, name: object) -> str:
        """The name that was asked for; reported where another step has it."""
        if not isinstance(name, str):
            self.report("", "name", f"{name!r} is not the name of a step")
            return self.distinct(HOLE)
        if name in self._names:
            self.report(name, "duplicate_step", "another step has the same name")
        return self.distinct(name)

    def hole(self) -> Step:
        return Step(self.distinct(HOLE), task=HOLE)

    def distinct(self, wanted: str) -> str:
        name = self.free(wanted)
        self._names.add(name)
        return name

    def free(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        return name


def _fingerprint(workflow: Flow | Workflow) -> str:
    return (workflow.build() if isinstance(workflow, Flow) else workflow).fingerprint


def _child_task(target: str) -> str:
    """The name of the task that starts children of a workflow; a digest stands for one that is too long."""
    name = f"{CHILD_TASK}({target})"
    if len(name.encode()) <= NAME_MAX_BYTES:
        return name
    return f"{CHILD_TASK}({hashlib.sha256(target.encode()).hexdigest()})"


def _problem(step: str, code: str, message: str) -> Problem:
    return Problem(step=step, path="", code=code, message=message)
