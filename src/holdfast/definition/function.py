"""`@workflow`: a durable function, which is a workflow of one step whose body asks for what is recorded."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, overload

from holdfast.definition.duration import Duration
from holdfast.definition.policies import Retention, Retry
from holdfast.definition.step import Step
from holdfast.definition.task import Task, default_name, first_line, innermost, is_coroutine_function, task
from holdfast.definition.workflow import OnComplete, Workflow
from holdfast.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


class Function(Workflow, Generic[P, R]):
    """A workflow written as one async function; made by `@workflow`, and started like any other.

    Attributes:
        fn: The function as written.
        body: It as a task, for a flow of which it is a step.
    """

    __slots__ = ("__name__", "body", "fn")

    def __init__(
        self,
        fn: Callable[P, Coroutine[Any, Any, R]],
        body: Task[..., Any],
        *,
        metadata: Mapping[str, Any] | None,
        timeout: Duration | None,
        retention: Retention | None,
        children: Iterable[Workflow],
        on_complete: OnComplete | None,
    ) -> None:
        """Use `workflow()` instead: it checks what is given."""
        super().__init__(
            body.name,
            [Step(body.name, task=body.name)],
            tasks=[body],
            metadata=metadata,
            timeout=timeout,
            retention=retention,
            children=children,
            on_complete=on_complete,
        )
        self.fn = fn
        self.body = body
        self.__name__ = body.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function directly, with a context that one has: another function's, as a part of that."""
        return self.fn(*args, **kwargs)


@overload
def workflow(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
@overload
def workflow(
    name: str | None = None,
    /,
    *,
    retries: int | None = None,
    retry: Retry | Sequence[Retry] | None = None,
    timeout: Duration | None = None,
    retention: Retention | None = None,
    metadata: Mapping[str, Any] | None = None,
    children: Iterable[Workflow] = (),
    on_complete: OnComplete | None = None,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Function[P, R]]: ...
def workflow(
    target: Callable[..., Any] | str | None = None,
    /,
    *,
    retries: int | None = None,
    retry: Retry | Sequence[Retry] | None = None,
    timeout: Duration | None = None,
    retention: Retention | None = None,
    metadata: Mapping[str, Any] | None = None,
    children: Iterable[Workflow] = (),
    on_complete: OnComplete | None = None,
) -> Any:
    """Make an async function a workflow: bare, `@workflow("name")`, or with options (semantics section 6).

    The function gets a `Context`, and the run's input if it takes a second argument. Whatever it does with
    effects, chance or time it asks the context for: that is recorded, and given again whenever the function is
    run again after a crash or a wait.

    Args:
        target: The function, or the workflow's name (default: the function's name).
        retries: Short for `Retry(max_retries=retries)`: the function runs again after it failed. What is
            recorded stays, but for the operation whose failure it was.
        retry: One policy or several, tried in order; not together with `retries`.
        timeout: A run that is not over by then fails with `timeout`; the time of a pause does not count.
        retention: How long runs are kept after their end; default the engine's.
        metadata: JSON-like facts for people, which the context has too.
        children: Workflows that it starts with `ctx.child`, so that engines need not be told of them.
        on_complete: As of `Workflow`: gives the runs that follow a run of it.

    Raises:
        UsageError: It is no async function, or an option is out of bounds.
    """

    def decorate(fn: Callable[..., Any]) -> Function[..., Any]:
        inner = innermost(fn)
        if not callable(fn) or not is_coroutine_function(inner):
            raise UsageError(what=f"{fn!r} is no async function", fix="write it with async def")
        policies = task(retries=retries, retry=retry)(inner).retry
        body = Task[..., Any](
            inner,
            name=target if isinstance(target, str) else default_name(inner),
            retry=policies,
            description=first_line(inner),
            takes_context=True,
        )
        return Function(
            inner,
            body,
            metadata=metadata,
            timeout=timeout,
            retention=retention,
            children=children,
            on_complete=on_complete,
        )

    return decorate if target is None or isinstance(target, str) else decorate(target)
