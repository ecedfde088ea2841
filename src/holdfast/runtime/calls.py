"""What a durable function may call as a step: any callable, with what its code and its options say about it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypedDict

from holdfast.codecs import json as codec
from holdfast.core.run import Value
from holdfast.definition.duration import Duration
from holdfast.definition.policies import Retry
from holdfast.definition.task import (
    Executor,
    Task,
    as_task,
    default_name,
    innermost,
    is_coroutine_function,
    task,
)
from holdfast.errors import UsageError
from holdfast.runtime.bindings import Importable, hints_of, importable, takes_context

CALLS_MAX = 1_024
"""Callables whose facts are kept: reading annotations costs more than most steps' bookkeeping."""


Given = tuple[tuple[str, Any], ...]
"""Options with their names, so that they can be compared."""


class Options(TypedDict, total=False):
    """Options of one call, in place of those of the task; as of `task()`."""

    retries: int | None
    retry: Retry | Sequence[Retry] | None
    timeout: Duration | None
    executor: Executor | None


class Call(NamedTuple):
    """A callable as a step.

    Attributes:
        takes_context: Whether its first argument is a `Context`.
        decode_output: Payload to what it is annotated to return.
        origin: What was given: a task, or the callable itself.
    """

    name: str
    origin: object
    fn: Callable[..., Any]
    is_async: bool
    takes_context: bool
    importable: Importable | None
    timeout_ms: int | None
    retry: tuple[Retry, ...]
    decode_output: Callable[[bytes], Any]

    def __call__(self, args: tuple[Any, ...]) -> "Invocation":
        """It with its arguments.

        Raises:
            UsageError: A process takes one argument.
        """
        if self.importable is not None and len(args) > 1:
            raise UsageError(
                what=f"{self.name} runs in a process, which takes one argument, and gets {len(args)}",
                fix="put them into one",
            )
        return Invocation(self, args)


class Invocation:
    """A call with its arguments, as `Attempts` makes it.

    Attributes:
        fn: What is called.
        argument: The one argument for a process, encoded.
    """

    __slots__ = ("_args", "argument", "fn", "importable", "is_async", "name", "timeout_ms")

    def __init__(self, call: Call, args: tuple[Any, ...]) -> None:
        """Args: what is called, and with what; raises `CodecError` for what does not get into a process."""
        self.name = call.name
        self.is_async = call.is_async
        self.importable = call.importable
        self.timeout_ms = call.timeout_ms
        self.fn = call.fn
        self._args = args
        self.argument = b"" if call.importable is None else codec.encode(args[0] if args else None)

    def invoke(self, _value: Value) -> Any:  # noqa: ANN401 - what the function returns
        """Call the function; for a coroutine function gives its coroutine."""
        return self.fn(*self._args)


class Calls:
    """What a body has called: in a loop it is the same function over and over."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[tuple[int, Given], Call] = {}

    def of(self, fn: Callable[..., Any], options: Options) -> Call:
        """See `call_of`."""
        given = tuple(options.items())
        try:
            known = self._known.get((id(fn), given))
        except TypeError:  # an option has no hash, as a list of policies
            return call_of(fn, options)
        if known is not None and known.origin is fn:
            return known
        call = call_of(fn, options)
        if getattr(fn, "__closure__", None) is None and len(self._known) < CALLS_MAX:
            # One that was made for this call is not met again.
            self._known[id(fn), given] = call
        return call


def call_of(fn: Callable[..., Any], options: Options) -> Call:
    """What is known of a callable, with options of this call in place of its own.

    Raises:
        UsageError: It is no callable, or an option is out of bounds.
        CodecError: It is annotated to return what no payload decodes into.
    """
    if not callable(fn):
        raise UsageError(what=f"{fn!r} cannot be called", fix="pass the function, and its arguments after it")
    given = _given(options)
    like = _Like(fn)
    if not like.is_function:
        return _read(fn, given)  # a task, or an object: kept by who calls it, and not here
    try:
        call = _known(like, given)
    except TypeError:  # an option has no hash
        return _read(fn, given)
    # What is kept is about all such functions: none of them is held on to, with whatever it holds.
    like.fn = _nobody
    return call._replace(fn=fn, origin=fn)


def _nobody() -> None:
    """Stands for a function that is not kept."""


def _given(options: Options) -> Given:
    return tuple(_hashable(option) for option in options.items()) if options else ()


def _hashable(option: tuple[str, Any]) -> tuple[str, Any]:
    name, value = option
    if name != "retry" or value is None or isinstance(value, Retry):
        return option
    return name, tuple(value)


class _Like:
    """A callable that equals others of its code and annotations: a function may be made anew for each call."""

    __slots__ = ("_annotations", "_key", "_kind", "fn", "is_function")

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self._kind = type(fn)
        inner: Any = fn.func if isinstance(fn, functools.partial) else fn
        code = None if hasattr(inner, "__wrapped__") else getattr(inner, "__code__", None)
        self.is_function = code is not None
        self._key = (code, default_name(inner))
        self._annotations: Any = getattr(inner, "__annotations__", None)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Like) or self._kind is not other._kind:
            return False
        return bool(self._key == other._key and self._annotations == other._annotations)


def _options(own: Task[..., Any]) -> dict[str, Any]:
    timeout_s = None if own.timeout_ms is None else own.timeout_ms / 1_000
    return {"retry": own.retry or None, "timeout": timeout_s, "executor": own.executor}


@functools.lru_cache(maxsize=CALLS_MAX)
def _known(like: _Like, options: Given) -> Call:
    return _read(like.fn, options)._replace(fn=_nobody, origin=_nobody)


def _read(target: Callable[..., Any], options: Given) -> Call:
    own = as_task(target)
    fn = innermost(own)
    if options:
        merged: dict[str, Any] = {**_options(own), **dict(options)}
        if "retries" in merged:
            merged["retry"] = dict(options).get("retry")
        decorate: Callable[[Callable[..., Any]], Task[..., Any]] = task(own.name, **merged)
        own = decorate(fn)
    try:
        hints = hints_of(fn)
    except (NameError, TypeError):
        hints = {}  # annotations that name what is not there say nothing
    return Call(
        own.name,
        target,
        fn,
        is_coroutine_function(fn),
        own.takes_context or takes_context(fn, hints),
        importable(fn) if own.executor == "process" else None,
        own.timeout_ms,
        own.retry,
        codec.decoder(hints.get("return", Any)),
    )
