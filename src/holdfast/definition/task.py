"""`@task`: a function that a step may call, with its policies. The function stays callable as it was."""

import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, Generic, Literal, ParamSpec, TypeGuard, TypeVar, get_args, overload

from holdfast.definition.duration import Duration, to_ms
from holdfast.definition.policies import Retry
from holdfast.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")
Executor = Literal["thread", "process"]

NAME_MAX_BYTES = 255
TAGS_MAX = 20
TAG_MAX_CHARACTERS = 64
PRIORITIES = range(1, 6)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Task(Generic[P, R]):
    """A function and how to run it. Call it like the function; put it into flows and engines.

    Attributes:
        name: What the journal and retry patterns know it by; unique among an engine's tasks.
        fn: The function as written.
        retry: Policies, tried in order, for each failure.
        timeout_ms: Bound of every attempt, or None.
        executor: Where a sync function runs; None for a thread.
        takes_context: Whether it gets a `Context` before its argument, whatever its annotations say.
        tags, priority, description, effect, version: As given to `task()`.
    """

    def __init__(
        self,
        fn: Callable[P, R],
        *,
        name: str,
        retry: tuple[Retry, ...] = (),
        timeout_ms: int | None = None,
        tags: tuple[str, ...] = (),
        priority: int = 3,
        description: str = "",
        executor: Executor | None = None,
        takes_context: bool = False,
    ) -> None:
        """Use `task()` instead: it checks what is given and fills in what is not."""
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.name = name
        self.retry = retry
        self.timeout_ms = timeout_ms
        self.tags = tags
        self.priority = priority
        self.description = description
        self.executor = executor
        self.takes_context = takes_context

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function directly: no journal, no retries."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        """Show the name."""
        return f"<task {self.name}>"


@overload
def task(fn: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    name: str | None = None,
    /,
    *,
    retries: int | None = None,
    retry: Retry | Sequence[Retry] | None = None,
    timeout: Duration | None = None,
    tags: Sequence[str] = (),
    priority: int = 3,
    description: str | None = None,
    executor: Executor | None = None,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(
    target: Callable[..., Any] | str | None = None,
    /,
    *,
    retries: int | None = None,
    retry: Retry | Sequence[Retry] | None = None,
    timeout: Duration | None = None,
    tags: Sequence[str] = (),
    priority: int = 3,
    description: str | None = None,
    executor: Executor | None = None,
) -> Task[..., Any] | Callable[[Callable[..., Any]], Task[..., Any]]:
    """Make a function a task: bare, `@task("name")`, or with options (semantics row 36).

    Args:
        target: The function, or the task's name (default: the function's name).
        retries: Short for `Retry(max_retries=retries)`: attempts after the first, 1 s apart, doubling.
        retry: One policy or several, tried in order; not together with `retries`.
        timeout: Bound of every attempt, the first included.
        tags: At most 20, of 64 characters.
        priority: 1 (first) to 5.
        description: Default: the first line of the docstring.
        executor: Where a sync function runs. "thread", the default: in this process; it cannot be stopped, only
            abandoned. "process": in another process of this machine, which is killed when the time is up or the
            run is lost, and which has an interpreter lock of its own; the function must be importable by the
            name of its module and its own. An async function runs on the event loop.

    Returns:
        A `Task`, or a decorator that makes one.

    Raises:
        UsageError: An option is out of bounds, or the function cannot run there; nothing was made.
    """
    if retries is not None and retry is not None:
        raise UsageError(what="both retries and retry are given", fix="give one of them")
    policies = _policies(retries, retry)
    limit_ms = None if timeout is None else to_ms(timeout, what="timeout")
    _check_labels(tags, priority)
    if executor is not None and executor not in get_args(Executor):
        raise UsageError(what=f"executor {executor!r} is not known", fix='use "thread" or "process"')

    def decorate(fn: Callable[..., Any]) -> Task[..., Any]:
        if executor is not None:
            _check_executor(fn, executor)
        return Task(
            fn,
            name=check_name(target if isinstance(target, str) else default_name(fn), what="task name"),
            retry=policies,
            timeout_ms=limit_ms,
            tags=tuple(tags),
            priority=priority,
            description=first_line(fn) if description is None else description,
            executor=executor,
        )

    if target is None or isinstance(target, str):
        return decorate
    if not callable(target):
        raise UsageError(what=f"{target!r} is not a function", fix="decorate a function")
    return decorate(target)


def as_task(target: Callable[..., Any]) -> Task[..., Any]:
    """The task itself, that of a durable function, or any callable as a task without policies."""
    if _is_task(target):
        return target
    body: object = getattr(target, "body", None)
    if callable(body) and _is_task(body):
        return body  # a durable function as a step
    return Task[..., Any](target, name=default_name(target), description=first_line(target))


def innermost(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function as written, of a task or of a task of a task."""
    while _is_task(fn):
        fn = fn.fn
    return fn


def is_coroutine_function(fn: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine; also for objects with an async `__call__`."""
    method = getattr(fn, "__call__", None)  # noqa: B004 - asks for the method of a callable object
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(method)


def why_no_process(fn: Callable[..., Any]) -> str:
    """Why a process would not find `fn` by the name of its module and its own, as far as names tell; or ""."""
    name = getattr(fn, "__qualname__", None)
    if not isinstance(name, str) or not isinstance(getattr(fn, "__module__", None), str):
        return "it has no name in a module"
    if "<lambda>" in name:
        return "it is a lambda"
    return "it was made inside another function" if "<locals>" in name else ""


def _check_executor(fn: Callable[..., Any], executor: Executor) -> None:
    inner = innermost(fn)
    if is_coroutine_function(inner):
        raise UsageError(
            what=f"executor={executor!r} is for sync functions, and {default_name(inner)!r} is async",
            fix="leave executor out, or write it with def",
        )
    reason = why_no_process(inner) if executor == "process" else ""
    if reason:
        raise UsageError(
            what=f'executor="process" imports the function by name, and {default_name(inner)!r}: {reason}',
            fix="define it with def at the top of a module",
        )


def _is_task(target: object) -> TypeGuard[Task[..., Any]]:
    return isinstance(target, Task)


def default_name(fn: Callable[..., Any]) -> str:
    """The name of a function, of what a `partial` wraps, or of a callable object's class."""
    inner: Any = fn.func if isinstance(fn, functools.partial) else fn
    return str(getattr(inner, "__name__", type(inner).__name__))


def first_line(fn: Callable[..., Any]) -> str:
    """The first line of a docstring, or ""."""
    inner: Any = fn.func if isinstance(fn, functools.partial) else fn
    return (inspect.getdoc(inner) or "").partition("\n")[0]


def check_name(name: object, *, what: str) -> str:
    """Return `name`, if it is text of 1 to 255 bytes in UTF-8 without control characters.

    Raises:
        UsageError: It is not.
    """
    if isinstance(name, str) and not _CONTROLS.search(name):
        with contextlib.suppress(UnicodeEncodeError):
            if 1 <= len(name.encode()) <= NAME_MAX_BYTES:
                return name
    raise UsageError(
        what=f"{what} {name!r} is not 1 to {NAME_MAX_BYTES} bytes of text without control characters",
        fix="choose another",
    )


def _policies(retries: int | None, retry: Retry | Sequence[Retry] | None) -> tuple[Retry, ...]:
    if retries is not None:
        return (Retry(max_retries=retries),) if retries else ()
    if retry is None:
        return ()
    return (retry,) if isinstance(retry, Retry) else tuple(retry)


def _check_labels(tags: Sequence[str], priority: int) -> None:
    if isinstance(tags, str) or len(tags) > TAGS_MAX or not all(_is_tag(tag) for tag in tags):
        raise UsageError(
            what=f"tags {tags!r} are more than {TAGS_MAX} or not 1 to {TAG_MAX_CHARACTERS} long",
            fix="use fewer or shorter tags",
        )
    if type(priority) is not int or priority not in PRIORITIES:
        raise UsageError(what=f"priority {priority!r} is not from 1 to 5", fix="3 is normal")


def _is_tag(tag: object) -> bool:
    if not isinstance(tag, str) or not 1 <= len(tag) <= TAG_MAX_CHARACTERS:
        return False
    with contextlib.suppress(UsageError):
        return check_name(tag, what="tag") == tag
    return False
