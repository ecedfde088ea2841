"""Everything wrong with a graph, at once (semantics row 21, as far as the graph has parts)."""

from collections.abc import Iterator, Sequence
from typing import get_args

from holdfast.definition.duration import DURATION_MAX_MS
from holdfast.definition.step import Step, StepKind
from holdfast.definition.task import check_name
from holdfast.errors import Problem, UsageError

MAIN = "main"
INSTANT_MAX_MS = 253_402_300_799_999
"""The last ms of the year 9999."""
STEPS_MAX = 50_000
"""As many as a journal has entries: a longer one can never end."""


def check_workflow(name: str, steps: Sequence[Step], *, start_at: str | None) -> list[Problem]:
    """List the problems of a graph; none means a `Workflow` can be made of it."""
    known = {step.name for step in steps}
    forks = _splitting(steps)
    problems = [*_names(name, steps)]
    if not steps or len(steps) > STEPS_MAX:
        problems.append(_problem("", "steps", "steps_count", f"{len(steps)} steps, not 1 to {STEPS_MAX}"))
    if start_at is not None and start_at not in known:
        problems.append(_problem("", "start_at", "unknown_step", f"start_at names no step: {start_at!r}"))
    for step in steps:
        problems += _kind(step)
        problems += _waits(step, known)
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
        yield _problem(step, what if what in {"task", "signal"} else "name", "name", str(error))


def _kind(step: Step) -> Iterator[Problem]:
    if step.kind not in get_args(StepKind):
        kinds = ", ".join(get_args(StepKind))
        yield _problem(step.name, "kind", "kind", f"there is no kind {step.kind!r}, only {kinds}")
    if (step.kind == "task") != (step.task is not None):
        yield _problem(step.name, "task", "kind", "a task step, and only that, names a task")
    for kind in ("join", "sleep", "wait_signal", "pause"):
        if (step.kind == kind) != (getattr(step, kind) is not None):
            yield _problem(step.name, kind, "kind", f"a {kind} step, and only that, has `{kind}`")
    if step.kind in {"fork", "pause"} and not step.edges:
        yield _problem(step.name, "edges", "kind", f"a {step.kind} step has at least one edge")


def _waits(step: Step, known: set[str]) -> Iterator[Problem]:
    sleep, wait = step.sleep, step.wait_signal
    if sleep is not None:
        if (sleep.duration_ms is None) == (sleep.until_ms is None):
            yield _problem(step.name, "sleep", "sleep", "a sleep has a duration or a moment, one of them")
        yield from _bounded(step.name, "sleep.duration_ms", sleep.duration_ms, DURATION_MAX_MS)
        yield from _bounded(step.name, "sleep.until_ms", sleep.until_ms, INSTANT_MAX_MS)
    if wait is not None:
        yield from _name(step.name, "signal", wait.signal)
        yield from _bounded(step.name, "wait_signal.timeout_ms", wait.timeout_ms, DURATION_MAX_MS)
        target = wait.on_timeout
        if target is not None and wait.timeout_ms is None:
            message = "on_timeout needs a timeout: without one it is never taken"
            yield _problem(step.name, "wait_signal.on_timeout", "wait", message)
        if target is not None and target not in known:
            message = f"on_timeout leads to no step: {target!r}"
            yield _problem(step.name, "wait_signal.on_timeout", "unknown_step", message)


def _bounded(step: str, path: str, value: object, most: int) -> Iterator[Problem]:
    if value is not None and (type(value) is not int or not 0 <= value <= most):
        yield _problem(step, path, "bounds", f"{value!r} is not a whole number from 0 to {most}")


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


def _splitting(steps: Sequence[Step]) -> set[str]:
    """Forks, and pauses that lead to several branches or to one of these: none can be where a branch starts."""
    splitting = {step.name for step in steps if step.kind == "fork"}
    known = -1
    while len(splitting) > known:
        known = len(splitting)
        for step in steps:
            edges = step.edges if step.kind == "pause" else ()
            if len(edges) > 1 or any(edge.branch or edge.step in splitting for edge in edges):
                splitting.add(step.name)
    return splitting


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
    """Circles in which a branch would go round for ever without doing anything or waiting for anything."""
    onwards = {s.name: [e.step for e in s.edges] for s in steps if s.kind in {"fork", "join", "pause"}}
    left = dict.fromkeys(onwards)
    changed = True
    while changed:
        free = [name for name in left if not any(target in left for target in onwards[name])]
        changed = bool(free)
        for name in free:
            del left[name]
    for name in left:
        if _leads_to(name, name, onwards):
            yield _problem(name, "edges", "endless", "a circle of forks, joins and pauses without any task")


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
        for target in by_name[waiting.pop()].targets():
            if target not in reached:
                reached.add(target)
                waiting.append(target)
    for step in steps:
        if step.name not in reached:
            yield _problem(step.name, "", "unreachable", "no path leads here from the start")
