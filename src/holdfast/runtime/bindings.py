"""A workflow bound to code: each task step's function with its decoders, ready to be called."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard, get_type_hints

from holdfast.codecs import json as codec
from holdfast.core.run import OPEN, Run, Value
from holdfast.definition.task import Task, innermost, is_coroutine_function, why_no_process
from holdfast.definition.workflow import Workflow
from holdfast.errors import CodecError, DefinitionError, FormatError, Problem
from holdfast.runtime.context import DURABLE, DurableContext

_POSITIONAL = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
_NEEDED = _POSITIONAL | {inspect.Parameter.KEYWORD_ONLY}
_FILLED = _POSITIONAL | {inspect.Parameter.VAR_POSITIONAL}


class Importable(NamedTuple):
    """Where another process finds a function."""

    module: str
    qualname: str

    def find(self) -> object:
        """Import the module and look the function up.

        Raises:
            ImportError, AttributeError: It is not there; and whatever the module raises.
        """
        found: object = importlib.import_module(self.module)
        for name in self.qualname.split("."):
            found = getattr(found, name)
        return found


class Callee(Protocol):
    """What an attempt calls: the task of a step, or what a durable function calls as one; see `BoundStep`."""

    @property
    def name(self) -> str:
        """Of the step."""
        ...

    @property
    def is_async(self) -> bool:
        """Whether `invoke` gives a coroutine."""
        ...

    @property
    def importable(self) -> Importable | None:
        """How a process finds the function, if it runs in one."""
        ...

    @property
    def timeout_ms(self) -> int | None:
        """Bound of an attempt."""
        ...

    @property
    def invoke(self) -> Callable[..., Any]:
        """Calls the function with the argument, a `Value`."""
        ...


class BoundStep:
    """A task step as it is called.

    Attributes:
        annotation: Of the argument, Any where there is none.
        invoke: Decodes the argument and calls the function; for a coroutine function gives its coroutine.
        decode: Payload to argument; None for a function without parameters.
        decode_output: Payload to what the function is annotated to return.
        is_async: Whether `fn` is a coroutine function.
        takes_context: Whether its first argument is a `Context`.
        importable: How a process finds the function, if it runs in one; else None.
        timeout_ms: Bound of an attempt, or None.
    """

    __slots__ = (
        "annotation",
        "decode",
        "decode_output",
        "importable",
        "invoke",
        "is_async",
        "name",
        "takes_context",
        "timeout_ms",
    )

    def __init__(self, name: str, task: Task[..., Any]) -> None:
        """Read the annotations.

        Raises:
            CodecError: An annotation is of no type that payloads decode into.
            TypeError: The function needs more than one argument, or a process would not find it.
            NameError: An annotation names something that is not there.
        """
        fn = innermost(task)
        self.name = name
        self.is_async = is_coroutine_function(fn)
        self.importable = importable(fn) if task.executor == "process" else None
        self.timeout_ms = task.timeout_ms
        hints = hints_of(fn)
        self.takes_context = task.takes_context or takes_context(fn, hints)
        if self.takes_context and not self.is_async:
            message = f"{fn!r} takes a Context, whose methods are awaited: write it with async def"
            raise TypeError(message)
        parameter = _parameter(fn, skip=int(self.takes_context))
        self.annotation: object = Any if parameter is None else hints.get(parameter, Any)
        self.decode = None if parameter is None else codec.decoder(self.annotation)
        invoker = _invoker_with_context if self.takes_context else _invoker
        self.invoke: Callable[..., Any] = invoker(fn, self.decode)
        self.decode_output = codec.decoder(hints.get("return", Any))


class BoundWorkflow:
    """A workflow whose tasks are all here.

    Attributes:
        workflow: The structure with the deployed policies.
        steps: Task steps by name.
        first: Those of them that get the run's input.
        origin: What it was built from: the flow or workflow that a user holds.
        decode_output: Payload to what its runs give, where one step ends them all; else to plain data.
    """

    __slots__ = ("decode_output", "first", "origin", "steps", "workflow")

    def __init__(self, workflow: Workflow, *, origin: object = None) -> None:
        """Bind every task step.

        Raises:
            DefinitionError: A function cannot be called by a step; `.problems` lists all of them.
        """
        steps: dict[str, BoundStep] = {}
        problems: list[Problem] = []
        for step in workflow.iter_nodes():
            task = workflow.task_of(step.name)
            if task is None:
                continue
            try:
                steps[step.name] = BoundStep(step.name, task)
            except (CodecError, TypeError, NameError, ValueError) as error:
                problems.append(Problem(step=step.name, path="task", code="signature", message=str(error)))
        if problems:
            raise DefinitionError(subject=f"workflow {workflow.name!r}", problems=problems)
        self.workflow = workflow
        self.origin = origin
        self.steps: Mapping[str, BoundStep] = steps
        self.first = [steps[step.name] for step in workflow.first_steps() if step.name in steps]
        ends = [each for each in workflow.steps.values() if not each.targets()]
        last = steps.get(ends[0].name) if len(ends) == 1 else None
        self.decode_output: Callable[[bytes], Any] = codec.decoder(Any) if last is None else last.decode_output

    def refuse_foreign(self, run: Run) -> None:
        """Raise `FormatError` if an open branch of `run` stands where this workflow has no such step."""
        for branch in run.branches.values():
            at = branch.at
            if branch.status in OPEN and (at is None or at.step not in self.workflow.steps):
                raise FormatError(
                    subject=f"run {run.id!r}",
                    reason=f"branch {branch.id!r} is at no step of workflow {self.workflow.name!r}: {at}",
                    fix="restore the journal and the table `definitions` from a backup",
                )

    def input_schema(self) -> bytes:
        """JSON Schema of the input: of the one step that gets it, or all of the several that a fork feeds."""
        return codec.schema([step.annotation for step in self.first])

    def output(self, run: Run) -> Any:  # noqa: ANN401 - typed by the annotation of the step that ended the run
        """The output of a completed run, decoded by what its last step is annotated to return."""
        if run.output is None or run.output_branch is None:
            return None
        at = run.branches[run.output_branch].at
        step = None if at is None else self.steps.get(at.step)
        decode = codec.decoder(Any) if step is None else step.decode_output
        return decode(codec.flatten(run.output))


def importable(fn: Callable[..., Any]) -> Importable:
    """How a process finds `fn`.

    Raises:
        TypeError: It does not: another function has that name, or none, or the module is no file.
    """
    reason = "it is async" if is_coroutine_function(fn) else why_no_process(fn)
    if not reason:
        found = Importable(fn.__module__, fn.__qualname__)
        reason = _why_not_found(fn, found)
        if not reason:
            return found
    message = (
        f'executor="process" imports the function by name, and for {fn!r} that fails: {reason}; '
        "define it with def at the top of a module, or leave executor out"
    )
    raise TypeError(message)


def _why_not_found(fn: Callable[..., Any], importable: Importable) -> str:
    try:
        found: Any = importable.find()
    except (ImportError, AttributeError) as error:
        return str(error)
    if innermost(found) is not fn:
        return f"{importable.qualname} of module {importable.module} is {found!r}"
    main = sys.modules["__main__"]
    if importable.module == "__main__" and not Path(getattr(main, "__file__", None) or "").is_file():
        return "its module was typed in, and is no file"
    return ""


def _invoker(fn: Callable[..., Any], decode: Callable[[bytes], Any] | None) -> Callable[[Value], Any]:
    if decode is None:
        return lambda _value: fn()
    return lambda value: fn(decode(value if type(value) is bytes else codec.flatten(value)))


def hints_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a function, of what a `partial` wraps, or of a callable object."""
    inner: Any = getattr(fn, "func", fn)
    if inspect.isclass(inner):
        return {"return": inner}
    if not inspect.isroutine(inner):
        inner = type(inner).__call__
    return get_type_hints(inner, include_extras=True)


def takes_context(fn: Callable[..., Any], hints: Mapping[str, Any]) -> bool:
    """Whether the first parameter of a function is annotated to be a `Context`."""
    try:
        first = next(iter(inspect.signature(fn).parameters), None)
    except ValueError:
        return False
    return first is not None and _is_context(hints.get(first))


def _is_context(hint: object) -> TypeGuard[type[DurableContext]]:
    return isinstance(hint, type) and issubclass(hint, DurableContext)


def _invoker_with_context(
    fn: Callable[..., Any], decode: Callable[[bytes], Any] | None
) -> Callable[[Value], Any]:
    """Calls `fn` with the context that is current, and the argument if it takes one."""
    if decode is None:
        return lambda _value: fn(DURABLE.get())
    return lambda value: fn(DURABLE.get(), decode(value if type(value) is bytes else codec.flatten(value)))


def _parameter(fn: Callable[..., Any], *, skip: int) -> str | None:
    """The name of the one parameter a step fills, None for a function without any; `skip` are filled otherwise.

    Raises:
        TypeError: It needs two or more, or keyword arguments.
    """
    try:
        parameters = list(inspect.signature(fn).parameters.values())[skip:]
    except ValueError:
        return "value"  # a builtin without a signature, such as str: it gets the argument
    needed = [p for p in parameters if p.default is p.empty and p.kind in _NEEDED]
    if len(needed) > 1 or any(p.kind == p.KEYWORD_ONLY for p in needed):
        names = ", ".join(p.name for p in needed)
        message = f"a step passes one argument, and {fn!r} needs: {names}"
        raise TypeError(message)
    filled = [p.name for p in parameters if p.kind in _FILLED]
    return filled[0] if filled else None
