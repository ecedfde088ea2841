"""Everything wrong with a graph, at once (semantics row 21, as far as the graph has parts)."""

from collections.abc import Iterator, Sequence
from typing import get_args

from holdfast.definition.step import Step, StepKind
from holdfast.definition.task import check_name
from holdfast.errors import Problem, UsageError

MAIN = "main"
STEPS_MAX = 50_000
"""As many as a journal has entries: a longer one can never end."""


def check_workflow(name: str, steps: Sequence[Step], *, start_at: str | None) -> list[Problem]:
    """List the problems of a graph; none means a `Workflow` can be made of it."""
    known = {step.name for step in steps}
    forks = {step.name for step in steps if step.kind == "fork"}
    problems = [*_names(name, steps)]
    if not steps or len(steps) > STEPS_MAX:
        problems.append(_problem("", "steps", "steps_count", f"{len(steps)} steps, not 1 to {STEPS_MAX}"))
    if start_at is not None and start_at not in known:
        problems.append(_problem("", "start_at", "unknown_step", f"start_at names no step: {start_at!r}"))
    for step in steps:
        problems += _kind(step)
        problems += _edges(step, known)
        problems += _forks(step, forks)
    problems += _branches(steps)
    if not problems:
        problems += _endless(steps)
        problems += _unreachable(steps, start_at or steps[0].name)
    return problems


def _problem(step: str, path: str, code: str, message: str) -> Problem:
    return Problem(step=step, path=path, code=code, message=message)


def _names(name: str, steps: Sequence[Step]) -> Iterator[Problem]:
    yield from _name("", "workflow", name)
    for step in steps:
        yield from _name(step.name, "step", step.name)
        if step.task is not None:
            yield from _name(step.name, "task", step.task)
    seen: set[str] = set()
    for step in steps:
        if step.name in seen:
            yield _problem(step.name, "name", "duplicate_step", "another step has the same name")
        seen.add(step.name)


def _name(step: str, what: str, name: str) -> Iterator[Problem]:
    try:
        check_name(name, what=f"{what} name")
    except UsageError as error:
        yield _problem(step, "task" if what == "task" else "name", "name", str(error))


def _kind(step: Step) -> Iterator[Problem]:
    if step.kind not in get_args(StepKind):
        kinds = ", ".join(get_args(StepKind))
        yield _problem(step.name, "kind", "kind", f"there is no kind {step.kind!r}, only {kinds}")
    if (step.kind == "task") != (step.task is not None):
        yield _problem(step.name, "task", "kind", "a task step, and only that, names a task")
    if (step.kind == "join") != (step.join is not None):
        yield _problem(step.name, "join", "kind", "a join step, and only that, says what it joins")
    if step.kind == "fork" and not step.edges:
        yield _problem(step.name, "edges", "kind", "a fork has at least one edge")


def _edges(step: Step, known: set[str]) -> Iterator[Problem]:
    for index, edge in enumerate(step.edges):
        path = f"edges[{index}]"
        if edge.step not in known:
            yield _problem(step.name, path, "unknown_step", f"the edge leads to no step: {edge.step!r}")
        if edge.branch is not None:
            yield from _branch_name(step.name, path, edge.branch)
            if any(edge.branch == other.branch for other in step.edges[:index]):
                message = f"another edge of the step starts branch {edge.branch!r} too"
                yield _problem(step.name, path, "branch_name", message)


def _forks(step: Step, forks: set[str]) -> Iterator[Problem]:
    starts_branches = step.kind == "fork" or len(step.edges) > 1 or any(e.branch for e in step.edges)
    for index, edge in enumerate(step.edges):
        if edge.step in forks and starts_branches:
            message = f"a branch cannot start at the fork {edge.step!r}; put the fork's edges here"
            yield _problem(step.name, f"edges[{index}]", "fork_in_fork", message)


def _branch_name(step: str, path: str, branch: str) -> Iterator[Problem]:
    try:
        check_name(branch, what="branch name")
    except UsageError as error:
        yield _problem(step, path, "branch_name", str(error))
    if branch == MAIN:
        yield _problem(step, path, "branch_name", "the branch name 'main' is reserved")
    stem, dash, number = branch.rpartition("-")
    if not branch or (stem and dash and number.isdigit()):
        yield _problem(
            step,
            path,
            "branch_name",
            f"the branch name {branch!r} is empty or looks like a generated one",
        )


def _branches(steps: Sequence[Step]) -> Iterator[Problem]:
    declared = {edge.branch for step in steps for edge in step.edges if edge.branch is not None}
    for step in steps:
        for branch in step.join.branches if step.join else ():
            if branch not in declared:
                yield _problem(step.name, "join", "unknown_branch", f"no edge starts branch {branch!r}")
        if step.join and not step.join.branches:
            yield _problem(step.name, "join", "unknown_branch", "a join names the branches it waits for")


def _endless(steps: Sequence[Step]) -> Iterator[Problem]:
    """Circles without a task step: a branch in one would go round for ever without anything being done."""
    onwards = {s.name: [e.step for e in s.edges] for s in steps if s.kind != "task"}
    left = dict.fromkeys(onwards)
    changed = True
    while changed:
        free = [name for name in left if not any(target in left for target in onwards[name])]
        changed = bool(free)
        for name in free:
            del left[name]
    for name in left:
        if _leads_to(name, name, onwards):
            yield _problem(name, "edges", "endless", "a circle of forks and joins without any task")


def _leads_to(start: str, goal: str, onwards: dict[str, list[str]]) -> bool:
    waiting, seen = list(onwards[start]), set[str]()
    while waiting:
        name = waiting.pop()
        if name == goal:
            return True
        if name in onwards and name not in seen:
            seen.add(name)
            waiting += onwards[name]
    return False


def _unreachable(steps: Sequence[Step], start: str) -> Iterator[Problem]:
    by_name = {step.name: step for step in steps}
    reached = {start}
    waiting = [start]
    while waiting:
        for edge in by_name[waiting.pop()].edges:
            if edge.step not in reached:
                reached.add(edge.step)
                waiting.append(edge.step)
    for step in steps:
        if step.name not in reached:
            yield _problem(step.name, "", "unreachable", "no path leads here from the start")
