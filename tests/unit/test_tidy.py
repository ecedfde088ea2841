"""Holds the source to the rules of the house that no linter knows.

Each checker takes the text of one file and returns its problems, one line each, so that it can be
shown a planted problem as well as the package.
"""

import ast
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "holdfast"

BODY_LINES_MAX = 50
FILE_LINES_MAX = 400
FACADE_STATEMENTS_MAX = 3

# Each word in the forms in which it turns up, with the one path where it is the right word.
BANNED_WORDS = {
    "activities": "definition/document.py",
    "activity": "definition/document.py",
    "backend": None,
    "backends": None,
    "checkpoint": None,
    "checkpoints": None,
    "command": "cli/",
    "commands": "cli/",
    "execution": None,
    "executions": None,
    "helper": None,
    "helpers": None,
    "history": None,
    "instance": None,
    "instances": None,
    "job": None,
    "jobs": None,
    "manager": None,
    "managers": None,
    "misc": None,
    "util": None,
    "utils": None,
}
# Modules that a function may import because not everyone installs what they need.
OPTIONAL_DRIVERS = ("holdfast.stores.postgres",)
# A command is imported when it is called, so that `holdfast --help` stays quick.
LAZY_IMPORTERS = ("cli/",)
# The front doors: what users import from, and the table of subcommands.
FULL_INITS = frozenset({"__init__.py", "cli/__init__.py", "errors/__init__.py", "testing/__init__.py"})
FACADES = frozenset({"AsyncEngine", "AsyncHandle", "Engine", "Handle"})
FACADE_FILES = frozenset({"engine.py", "sync.py"})
LONG_FACADE_METHODS = frozenset({"__aenter__", "__aexit__", "__enter__", "__exit__", "__init__"})
# Around a task body and at the top of a worker's service.
CATCH_ALL_FILES = frozenset(
    {
        "runtime/attempts.py",  # around a task body: its failure is data
        "runtime/scopes.py",  # around a part of a task body: raised again in whoever waits for it
        "runtime/node.py",  # around the caller's block: goes out as it came, past the task group
        "runtime/failures.py",  # around the text of an error that may itself be broken
        "runtime/executors.py",  # out of a thread: carried to the caller as it is
        "sync.py",  # out of the portal's thread: raised again in the caller's
    }
)
# Built here from parts, or this very file would be the first offender.
MACHINE_PATHS = tuple("/".join(parts) for parts in [("", "work", ""), ("..", "shared")])

Function = ast.FunctionDef | ast.AsyncFunctionDef


def body_without_docstring(node: Function) -> list[ast.stmt]:
    return node.body[1:] if ast.get_docstring(node) is not None else node.body


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def long_functions(source: str, _path: str) -> Iterator[str]:
    for node in functions(ast.parse(source)):
        body = body_without_docstring(node)
        if not body:
            continue
        decorators = getattr(body[0], "decorator_list", [])
        first = min([body[0].lineno, *(decorator.lineno for decorator in decorators)])
        lines = (body[-1].end_lineno or first) - first + 1
        if lines > BODY_LINES_MAX:
            yield f"{node.lineno}: {node.name} has a body of {lines} lines"


def long_file(source: str, _path: str) -> Iterator[str]:
    lines = len(source.splitlines())
    if lines > FILE_LINES_MAX:
        yield f"1: {lines} lines, look for the second subject"


def words(identifier: str) -> Iterator[str]:
    found: list[str] = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)
    return (word.lower() for word in found)


def defined_names(node: ast.AST) -> Iterator[str | None]:
    """Names that this very node brings into being, wherever they are bound."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.ExceptHandler() | ast.MatchAs() | ast.MatchStar():
            yield node.name
        case ast.Name(ctx=ast.Store()):
            yield node.id
        case ast.Attribute(ctx=ast.Store()):
            yield node.attr
        case ast.arg():
            yield node.arg
        case ast.alias():
            yield node.asname
        case ast.MatchMapping():
            yield node.rest
        case _:
            pass


def banned_words(source: str, path: str) -> Iterator[str]:
    nodes = list(ast.walk(ast.parse(source)))
    names = [(getattr(node, "lineno", 1), name) for node in nodes for name in defined_names(node)]
    names += [(1, part) for part in Path(path).with_suffix("").parts]
    for line, name in names:
        if name is None or name.startswith("__"):
            continue
        for word in words(name):
            home = BANNED_WORDS.get(word, "")
            if home is None or (home and not path.startswith(home)):
                yield f"{line}: {name} uses the banned word '{word}'"


def type_checking_imports(source: str, _path: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case (
                ast.Name(id="TYPE_CHECKING")
                | ast.Attribute(attr="TYPE_CHECKING")
                | ast.alias(name="TYPE_CHECKING")
            ):
                yield f"{node.lineno}: TYPE_CHECKING hides a cycle"
            case _:
                pass


def imported_modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or "."]
    return [alias.name for alias in node.names]


def buried_imports(source: str, path: str) -> Iterator[str]:
    if path.startswith(LAZY_IMPORTERS):
        return
    for function in functions(ast.parse(source)):
        for node in ast.walk(function):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            for module in imported_modules(node):
                if not module.startswith(OPTIONAL_DRIVERS):
                    yield f"{node.lineno}: {function.name} imports {module}"


def missing_docstring(source: str, _path: str) -> Iterator[str]:
    if ast.get_docstring(ast.parse(source)) is None:
        yield "1: the module has no docstring"


def full_init(source: str, path: str) -> Iterator[str]:
    tree = ast.parse(source)
    inner = path.endswith("__init__.py") and path not in FULL_INITS
    if inner and (len(tree.body) != 1 or ast.get_docstring(tree) is None):
        yield "1: the __init__.py of an inner package is a docstring and nothing else"


def long_facade_methods(source: str, path: str) -> Iterator[str]:
    if path not in FACADE_FILES:
        return
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    for facade in (node for node in classes if node.name in FACADES):
        for method in (node for node in facade.body if isinstance(node, Function)):
            inner = [node for part in body_without_docstring(method) for node in ast.walk(part)]
            statements = sum(isinstance(node, ast.stmt) for node in inner)
            if statements > FACADE_STATEMENTS_MAX and method.name not in LONG_FACADE_METHODS:
                yield f"{method.lineno}: {facade.name}.{method.name} has {statements} statements"


def names_in(node: ast.expr | None) -> set[str]:
    """Names of the errors in an `except` clause; of `except:` that of what it catches."""
    if node is None:
        return {"BaseException"}
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return {ast.unparse(part).rpartition(".")[2] for part in parts}


def is_rollback(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return handler.type is not None and isinstance(last, ast.Raise) and last.exc is None


def catch_alls(source: str, path: str) -> Iterator[str]:
    """Find what swallows errors; `except BaseException: ...; raise` undoes, but swallows none."""
    if path in CATCH_ALL_FILES:
        return
    for node in ast.walk(ast.parse(source)):
        caught: set[str] = set()
        match node:
            case ast.ExceptHandler():
                caught = names_in(node.type)
                caught -= {"BaseException"} if is_rollback(node) else set()
            case ast.Call(func=ast.Name(id="suppress") | ast.Attribute(attr="suppress")):
                caught = {name for argument in node.args for name in names_in(argument)}
            case _:
                continue
        if caught & {"BaseException", "Exception"}:
            yield f"{node.lineno}: catches {', '.join(sorted(caught))}"


def machine_paths(source: str, _path: str) -> Iterator[str]:
    for number, line in enumerate(source.splitlines(), start=1):
        for needle in MACHINE_PATHS:
            if needle in line:
                yield f"{number}: names {needle}, a path of one machine"


Checker = Callable[[str, str], Iterable[str]]


def problems(checker: Checker, files: Iterable[Path], base: Path) -> list[str]:
    return [
        f"{path}:{problem}"
        for file in sorted(files)
        for path in [file.relative_to(base).as_posix()]
        for problem in checker(file.read_text(encoding="utf-8", errors="replace"), path)
    ]


def problems_in_package(checker: Checker) -> list[str]:
    files = list(PACKAGE.rglob("*.py"))
    assert files, f"no module under {PACKAGE}"
    return problems(checker, files, PACKAGE)


def test_a_function_fits_on_a_screen() -> None:
    assert problems_in_package(long_functions) == []


def test_a_file_has_one_subject() -> None:
    assert problems_in_package(long_file) == []


def test_one_word_has_one_meaning() -> None:
    assert problems_in_package(banned_words) == []


def test_no_import_is_for_type_checkers_only() -> None:
    assert problems_in_package(type_checking_imports) == []


def test_imports_stand_at_the_top() -> None:
    assert problems_in_package(buried_imports) == []


def test_every_module_has_a_docstring() -> None:
    assert problems_in_package(missing_docstring) == []


def test_an_inner_package_exports_nothing() -> None:
    assert problems_in_package(full_init) == []


def test_a_facade_method_is_three_lines() -> None:
    assert problems_in_package(long_facade_methods) == []


def test_only_attempts_and_the_worker_catch_everything() -> None:
    assert problems_in_package(catch_alls) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [ROOT / name for name in out.split("\0") if name and (ROOT / name).is_file()]
    assert files
    assert problems(machine_paths, files, ROOT) == []


INDENTED_LINES = "    x = 1\n" * (BODY_LINES_MAX + 1)
FOUR_LINES = "        a()\n        if b:\n            c()\n        d()\n"


PLANTED: list[tuple[Checker, str, str]] = [
    (long_functions, "a.py", f"def f():\n{INDENTED_LINES}"),
    (long_functions, "a.py", f"async def f():\n    'Doc.'\n{INDENTED_LINES}"),
    (long_file, "a.py", "x = 1\n" * (FILE_LINES_MAX + 1)),
    (banned_words, "a.py", "class RunHistory: ..."),
    (banned_words, "a.py", "def list_jobs(): ..."),
    (banned_words, "a.py", "def f(*, HTTPBackend): ..."),
    (banned_words, "a.py", "class A:\n    def f(self):\n        self.last_checkpoint = 1"),
    (banned_words, "a.py", "import json as json_helper"),
    (banned_words, "a.py", "EXECUTION_MAX: int = 1"),
    (banned_words, "a.py", "match x:\n    case {'a': 1, **misc}: ..."),
    (banned_words, "core/utils.py", ""),
    (banned_words, "managers/__init__.py", ""),
    (banned_words, "core/a.py", "command = 1"),
    (banned_words, "core/a.py", "activity = 1"),
    (type_checking_imports, "a.py", "from typing import TYPE_CHECKING"),
    (type_checking_imports, "a.py", "import typing\nif typing.TYPE_CHECKING: ..."),
    (buried_imports, "a.py", "def f():\n    import json"),
    (buried_imports, "a.py", "async def f():\n    if x:\n        from json import loads"),
    (missing_docstring, "a.py", "x = 1"),
    (full_init, "core/__init__.py", "'Doc.'\nfrom holdfast.core.run import Run"),
    (full_init, "core/__init__.py", ""),
    (long_facade_methods, "engine.py", f"class Engine:\n    def start(self):\n{FOUR_LINES}"),
    (long_facade_methods, "sync.py", f"class Handle:\n    async def get(self):\n{FOUR_LINES}"),
    (catch_alls, "a.py", "try: ...\nexcept: ..."),
    (catch_alls, "a.py", "try: ...\nexcept:\n    raise"),
    (catch_alls, "a.py", "try: ...\nexcept Exception:\n    raise"),
    (catch_alls, "a.py", "try: ...\nexcept (OSError, builtins.Exception) as e: ..."),
    (catch_alls, "a.py", "try: ...\nexcept BaseException: ..."),
    (catch_alls, "a.py", "with contextlib.suppress(Exception): ..."),
    (machine_paths, "a.md", f"see {MACHINE_PATHS[0]}notes.md"),
    (machine_paths, "a.md", f"see {MACHINE_PATHS[1]}/notes.md"),
]
TIDY: list[tuple[Checker, str, str]] = [
    (long_functions, "a.py", 'def f():\n    """Doc.\n' + "\n" * 60 + '    """\n    return 1'),
    (banned_words, "a.py", "def jobless(instanced): return isinstance(wal_checkpoint, misc)"),
    (banned_words, "a.py", "class A:\n    def __history__(self): ..."),
    (banned_words, "cli/commands.py", "command = 1"),
    (banned_words, "definition/document.py", "activity = 1"),
    (buried_imports, "cli/show.py", "def f():\n    import rich"),
    (full_init, "core/__init__.py", "'Doc.'"),
    (full_init, "__init__.py", "'Doc.'\nfrom holdfast.engine import Engine"),
    (long_facade_methods, "engine.py", f"class Engine:\n    def __init__(self):\n{FOUR_LINES}"),
    (long_facade_methods, "engine.py", f"class Other:\n    def start(self):\n{FOUR_LINES}"),
    (catch_alls, "a.py", "try: ...\nexcept BaseException:\n    undo()\n    raise"),
    (catch_alls, "a.py", "try: ...\nexcept OSError: ..."),
    (catch_alls, "runtime/attempts.py", "try: ...\nexcept Exception: ..."),
]


def label(case: tuple[Checker, str, str]) -> str:
    return f"{case[0].__name__}-{case[1]}"


@pytest.mark.parametrize(("checker", "path", "source"), PLANTED, ids=map(label, PLANTED))
def test_a_planted_problem_is_found(checker: Checker, path: str, source: str) -> None:
    assert len(list(checker(source, path))) == 1


@pytest.mark.parametrize(("checker", "path", "source"), TIDY, ids=map(label, TIDY))
def test_a_tidy_source_is_left_alone(checker: Checker, path: str, source: str) -> None:
    assert list(checker(source, path)) == []
