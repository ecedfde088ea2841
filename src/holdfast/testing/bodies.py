"""`Bodies`: stands between workflows and the functions of their tasks, records calls and replaces functions."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from holdfast.definition.flow import Flow
from holdfast.definition.task import Task, innermost, is_coroutine_function
from holdfast.definition.workflow import Workflow
from holdfast.errors import UsageError
from holdfast.runtime.bindings import hints_of, takes_context
from holdfast.runtime.calls import Invocation
from holdfast.runtime.context import DurableContext, get_task_context

Body = Callable[..., Any]
SEVERAL = 2


class Called(NamedTuple):
    """One call of a body.

    Attributes:
        task: Name of the task.
        branch, step, visit, attempt: Which attempt of which step it is.
        argument: A copy of what the body was given; None where it takes nothing, a tuple of several.
        operation: Its key, where a durable function has called it; the attempt is of that then.
    """

    task: str
    branch: str
    step: str
    visit: int
    attempt: int
    argument: Any
    operation: str = ""


class Bodies:
    """The bodies of all tasks of an engine.

    Attributes:
        called: Every call so far, in the order in which they began; retries are calls of their own.
    """

    def __init__(self, replace: Mapping[str, Body]) -> None:
        """Args: functions to call instead, by the name of the task."""
        self.called: list[Called] = []
        self._tasks: dict[str, Task[..., Any]] = {}
        self._wanted = dict(replace)
        self._instead: dict[str, Body] = {}
        self._has_functions = False

    def take_over(self, targets: Iterable[Flow | Workflow], *, durable: bool) -> list[Workflow]:
        """The same workflows, same fingerprints and policies, with bodies that go through here.

        Their retention is left out: in a test runs are swept by hand, not by a clock that ticks for ever.

        Raises:
            DefinitionError: A flow cannot be built.
            UsageError: A task that is to be replaced is not there.
        """
        taken: list[Workflow] = []
        given_all = [each.build(durable=durable) if isinstance(each, Flow) else each for each in targets]
        for given in given_all:
            known = {each.name for each in given_all}
            given_all += [child for child in given.children if child.name not in known]
            timeout = None if given.timeout_ms is None else timedelta(milliseconds=given.timeout_ms)
            tasks = [self._watched(task) for task in given.tasks.values()]
            taken.append(
                Workflow(
                    given.name,
                    given.iter_nodes(),
                    tasks=tasks,
                    start_at=given.start_at,
                    metadata=given.metadata,
                    timeout=timeout,
                    on_complete=given.on_complete,
                )
            )
        for name, body in self._wanted.items():
            self.replace(name, body)
        return taken

    def replace(self, name: str, body: Body) -> None:
        """Call `body` instead of the function of a task, from its next attempt on.

        Raises:
            UsageError: No such task, or nothing that a step can call.
        """
        self._check(name)
        if not callable(body):
            raise UsageError(
                what=f"task {name!r} cannot be replaced by {body!r}, which is no function",
                fix=f'pass a function, such as replace={{"{name}": lambda value: {body!r}}}',
            )
        task = self._tasks.get(name)
        counts = (2, 1, 0) if task is not None and task.takes_context else (1, 0)
        # What only durable functions call may take any number of arguments.
        if task is not None and not any(_takes(body, count) for count in counts):
            raise UsageError(
                what=f"task {name!r} cannot be replaced by {body!r}: a step passes one argument",
                fix="let it take one, or none",
            )
        self._instead[name] = body

    def calls(self, name: str) -> list[Any]:
        """What the body of a task was given in each of its calls, in the order in which they began.

        Raises:
            UsageError: No such task.
        """
        self._check(name)
        return [each.argument for each in self.called if each.task == name]

    def _check(self, name: str) -> None:
        if name not in self._tasks and not self._has_functions:
            known = ", ".join(sorted(self._tasks)) or "none"
            raise UsageError(what=f"there is no task {name!r} here", fix=f"these are there: {known}")

    def stand_in(self, invocation: Invocation) -> Invocation:
        """What a durable function calls as a step, the same way."""
        watched = copy.copy(invocation)
        watched.importable = None
        watched.fn = self._between(invocation.name, invocation.fn, is_async=invocation.is_async)
        return watched

    def _watched(self, task: Task[..., Any]) -> Task[..., Any]:
        """The task with a body that goes through here; one for a process runs in a thread, where it is seen."""
        self._tasks[task.name] = task
        fn = innermost(task)
        self._has_functions |= task.takes_context or takes_context(fn, hints_of(fn))
        return Task(
            _disguised(self._between(task.name, fn, is_async=is_coroutine_function(fn)), fn),
            name=task.name,
            retry=task.retry,
            timeout_ms=task.timeout_ms,
            tags=task.tags,
            priority=task.priority,
            description=task.description,
            takes_context=task.takes_context,
        )

    def _between(self, name: str, fn: Body, *, is_async: bool) -> Body:
        async def call_async(*args: object) -> Any:  # noqa: ANN401 - what a task returns
            result = self._call(name, fn, args)
            return await result if inspect.isawaitable(result) else result

        def call(*args: object) -> Any:  # noqa: ANN401 - what a task returns
            return self._call(name, fn, args)

        return call_async if is_async else call

    def _call(self, name: str, fn: Body, args: tuple[object, ...]) -> Any:  # noqa: ANN401 - what a task returns
        context = get_task_context()
        if context is None:
            raise RuntimeError("a body is called by the engine, inside an attempt")
        given = tuple(each for each in args if not isinstance(each, DurableContext))
        argument = (given or (None,))[0] if len(given) < SEVERAL else given
        at = context.branch, context.step, context.visit, context.attempt
        # A body may change what it was given; what it was given is on record.
        self.called.append(Called(name, *at, copy.deepcopy(argument), context.operation))
        instead = self._instead.get(name)
        if instead is None:
            return fn(*args)
        # One for a durable function may leave the context out, and any its arguments.
        for passed in (args, given):
            if _takes(instead, len(passed)):
                return instead(*passed)
        return instead()


def _disguised(call: Body, fn: Body) -> Body:
    """`call` with the parameter and the annotations of `fn`, whatever kind of callable that is.

    The engine reads a signature through `__wrapped__`, and annotations through `func`, as of a partial.
    """
    functools.update_wrapper(call, fn, updated=())
    call.__dict__["func"] = getattr(fn, "func", fn)
    return call


def _takes(fn: Body, count: int) -> bool:
    """Whether `fn` can be called with so many arguments, as far as it tells."""
    try:
        inspect.signature(fn).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        return True  # a builtin that does not tell
    return True
