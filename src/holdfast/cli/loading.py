"""User modules, by name or as a file, and the workflows in them."""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

import holdfast
from holdfast.definition.flow import Flow
from holdfast.definition.workflow import Workflow
from holdfast.errors import DefinitionError, UsageError
from holdfast.runtime.starts import Definable

_OURS = str(Path(holdfast.__file__).parent) + os.sep


def load_workflow(target: str) -> Definable:
    """The flow or workflow that `MODULE:WORKFLOW` names.

    Raises:
        UsageError: No such module or attribute, or one that is no workflow; it names those that
            are there. Or the module raised while it was imported.
    """
    source, colon, name = target.rpartition(":")
    if not colon:
        source, name = target, ""
    module = _load(source)
    found = _workflows(module)
    value = getattr(module, name, None) if name else None
    if isinstance(value, Flow | Workflow):
        return value
    if not name:
        what = f"{target!r} does not say which workflow of the module to run"
    elif value is None:
        what = f"module {source!r} has no {name!r}"
    else:
        what = f"{target!r} is a {type(value).__name__}, not a Flow or Workflow"
    raise UsageError(what=what, fix=_choice(source, found))


def load_with_children(target: str) -> list[Definable]:
    """What `load_workflow` gives, first; and where its code may start child runs, what else the module has.

    Of that, what cannot be driven here is left out: it says so when it is asked for.
    """
    wanted = load_workflow(target)
    built = _built(wanted)
    # Without a context no code of it runs that could.
    if built is None or not any(task.takes_context for task in built.tasks.values()):
        return [wanted]
    known = {built.name}
    family = [wanted]
    for other in _workflows(_load(target.rpartition(":")[0])).values():
        child = _built(other)
        if child is not None and child.name not in known and not child.missing_tasks():
            known.add(child.name)
            family.append(other)
    return family


def _built(target: Definable) -> Workflow | None:
    try:
        return target.build(durable=True) if isinstance(target, Flow) else target
    except DefinitionError:
        return None


def load_workflows(sources: Iterable[str]) -> list[Definable]:
    """All flows and workflows that are attributes of the modules, each once.

    Raises:
        UsageError: No such module, or one without any workflow, or it raised while it was imported.
    """
    loaded: dict[int, Definable] = {}
    for source in sources:
        found = _workflows(_load(source))
        if not found:
            raise UsageError(
                what=f"module {source!r} has no Flow or Workflow among its attributes",
                fix="name the module that does",
            )
        loaded.update((id(value), value) for value in found.values())
    return list(loaded.values())


def _workflows(module: ModuleType) -> dict[str, Definable]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Flow | Workflow)}


def _choice(source: str, found: dict[str, Definable]) -> str:
    if not found:
        return "it has no Flow or Workflow at all"
    return "its workflows are: " + ", ".join(f"{source}:{name}" for name in found)


def _load(source: str) -> ModuleType:
    here = str(Path.cwd())
    if sys.path[0] != here:
        sys.path.insert(0, here)
    if source.endswith(".py") or os.sep in source:
        return _load_file(source)
    if not all(part.isidentifier() for part in source.split(".")):
        raise UsageError(
            what=f"{source!r} is no name of a module",
            fix="write MODULE:WORKFLOW or path/to/file.py:WORKFLOW",
        )
    with _Importing(source):
        return importlib.import_module(source)


def _load_file(source: str) -> ModuleType:
    path = Path(source).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(
            what=f"there is no Python file {source}", fix="name a .py file or an importable module"
        )
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and _file_of(known) == path:
        return known
    if known is not None:
        # A file called like a module that is loaded already must not take its place.
        name = f"holdfast_file_{name}"
    if str(path.parent) not in sys.path:
        sys.path.insert(1, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(what=f"{source} cannot be loaded", fix="name a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _Importing(source):
        spec.loader.exec_module(module)
    return module


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).resolve()


class _Importing:
    """Turns what a user's module raises at import into a line that says where; only Ctrl-C passes.

    Not an `except Exception`: that would also stand around code of ours.
    """

    def __init__(self, source: str) -> None:
        self._source = source

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, ModuleNotFoundError) and self._is_asked_for(error.name):
            raise UsageError(
                what=f"there is no module {self._source!r}",
                fix=f"it is looked for in {Path.cwd()} and in what is installed for this Python",
            ) from error
        if isinstance(error, Exception | SystemExit):
            raise UsageError(
                what=f"module {self._source!r} cannot be imported: {_last_line(error)}",
                fix=_place(error),
            ) from error

    def _is_asked_for(self, missing: str | None) -> bool:
        return missing is not None and f"{self._source}.".startswith(f"{missing}.")


def _last_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _place(error: BaseException) -> str:
    """Where the user's code stood: the deepest frame that is neither ours nor of importlib."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"see {error.filename}, line {error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_OURS, "<frozen "))
    ]
    return f"see {frames[-1].filename}, line {frames[-1].lineno}" if frames else "see that module"
