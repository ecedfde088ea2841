"""Holds the pages to the code: snippets run, and what the pages name is there.

The Python snippets of a page are one script, as if a reader had typed along; `<!-- fresh -->` on the line above
a snippet begins another script in another directory. `<!-- prints -->` above a text block says that the
script prints it, after what the blocks before it say.
"""

import builtins
import functools
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from holdfast import errors
from holdfast.core.entries import Arrival, Child, Entry, Failure, Taken, Wait
from tests.postgres_server import migrated_schema, server_url, with_schema

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FORMAT = ROOT / "docs" / "format.md"
SEMANTICS = ROOT / "docs" / "semantics.md"
INVARIANTS = ROOT / "docs" / "invariants.md"
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
MIGRATIONS = ROOT / "src" / "holdfast" / "stores" / "sqlite" / "migrations"
SNIPPET_S = 60
POSTGRES = "postgresql://localhost/orders"

FENCE = re.compile(
    r"^(?:<!-- (?P<mark>\w+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
TEST_FILE = re.compile(r"`(tests/[\w/.]+?)(?:::(\w+))?`")
SOURCE_FILE = re.compile(r"`((?:\w+/)+\w+\.(?:py|sql))`")
ERROR_NAME = re.compile(r"`(?:errors\.)?([A-Z]\w+Error)`")
MAKE_TARGET = re.compile(r"(?:^|`)make (\w+)", re.MULTILINE)
NUMBERED_ROW = re.compile(r"^\| (\d+) \|(.*)\|$", re.MULTILINE)
FIELDS_ROW = re.compile(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """A fenced block: what stands in it, from which line of the page on, and the comment above it."""

    mark: str
    language: str
    text: str
    line: int


def snippets(text: str) -> Iterator[Snippet]:
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("text")) + 1
        yield Snippet(found["mark"] or "", found["language"], found["text"], line)


def scripts(text: str) -> list[list[Snippet]]:
    """The snippets of each script, with the text blocks that it prints."""
    found: list[list[Snippet]] = []
    for snippet in snippets(text):
        if snippet.language == "python" and (snippet.mark == "fresh" or not found):
            found.append([snippet])
        elif snippet.language == "python" or (snippet.mark == "prints" and found):
            found[-1].append(snippet)
    return found


def run_script(parts: Iterable[Snippet], folder: Path) -> str:
    """Run the Python of a script and return what it wrote, or what went wrong."""
    lines: list[str] = []
    for part in parts:
        if part.language == "python":
            # A line has the number that it has on the page: a traceback leads there.
            lines += [""] * (part.line - 1 - len(lines))
            lines += part.text.splitlines()
    script = folder / "snippets.py"
    text = "\n".join(lines) + "\n"
    if POSTGRES in text:
        text = text.replace(POSTGRES, with_schema(server_url(), migrated_schema()))
    script.write_text(text, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "HOLDFAST_URL"}
    ended = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=SNIPPET_S,
    )
    return ended.stdout if ended.returncode == 0 else f"{ended.stdout}{ended.stderr}"


def unprinted(parts: Iterable[Snippet], printed: str) -> list[str]:
    """The text blocks of a script that it did not print, in their order."""
    missing: list[str] = []
    position = 0
    for part in parts:
        if part.mark == "prints":
            found = printed.find(part.text, position)
            if found < 0:
                missing.append(f"{part.line}: {part.text}")
            else:
                position = found + len(part.text)
    return missing


def anchor(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def dead_links(text: str, page: Path) -> Iterator[str]:
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, part = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            yield target
        elif part:
            there = text if file == page else file.read_text(encoding="utf-8")
            if part not in map(anchor, HEADING.findall(there)):
                yield target


def missing_tests(text: str, _page: Path) -> Iterator[str]:
    for name, test in TEST_FILE.findall(text):
        path = ROOT / name
        if not path.exists():
            yield name
        elif test and f"def {test}(" not in path.read_text(encoding="utf-8"):
            yield f"{name}::{test}"


def missing_sources(text: str, _page: Path) -> Iterator[str]:
    for name in SOURCE_FILE.findall(text):
        if not (ROOT / name).is_file() and not (ROOT / "src" / "holdfast" / name).is_file():
            yield name


def unknown_errors(text: str, _page: Path) -> Iterator[str]:
    for name in ERROR_NAME.findall(text):
        if not hasattr(errors, name) and not hasattr(builtins, name):
            yield name


def unknown_targets(text: str, _page: Path) -> Iterator[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = re.findall(r"^(\w+):", makefile, re.MULTILINE)
    yield from (name for name in MAKE_TARGET.findall(text) if name not in known)


@functools.cache
def help_of(*subcommand: str) -> str | None:
    """What `holdfast SUBCOMMAND --help` says; None if there is no such subcommand."""
    ended = subprocess.run(
        [sys.executable, "-m", "holdfast.cli", *subcommand, "--help"],
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"},
        check=False,
        capture_output=True,
        text=True,
        timeout=SNIPPET_S,
    )
    return ended.stdout if ended.returncode == 0 else None


def unknown_commands(text: str, _page: Path) -> Iterator[str]:
    """Lines of console snippets with a subcommand or an option that does not exist."""
    for snippet in snippets(text):
        if snippet.language not in {"console", "bash"}:
            continue
        for line in snippet.text.splitlines():
            words = line.removeprefix("$ ").split()
            depth = 3 if words[1:2] == ["db"] else 2
            if words[:1] == ["holdfast"] and not is_understood(words[1:depth], words[depth:]):
                yield line


def is_understood(subcommand: Iterable[str], words: Iterable[str]) -> bool:
    told = help_of(*subcommand)
    return told is not None and all(word in told.split() for word in words if word.startswith("--"))


Checker = Callable[[str, Path], Iterable[str]]
CHECKERS: list[Checker] = [
    dead_links,
    missing_sources,
    missing_tests,
    unknown_commands,
    unknown_errors,
    unknown_targets,
]


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def checker_name(checker: Checker) -> str:
    return checker.__name__


ALL_SCRIPTS = [
    pytest.param(parts, id=f"{page_name(page)}:{parts[0].line}")
    for page in PAGES
    for parts in scripts(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("parts", ALL_SCRIPTS)
def test_the_snippets_of_a_page_run_and_print_what_it_says(parts: list[Snippet], tmp_path: Path) -> None:
    printed = run_script(parts, tmp_path)
    assert "Traceback" not in printed, printed
    assert unprinted(parts, printed) == [], printed


@pytest.mark.parametrize("checker", CHECKERS, ids=checker_name)
@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_a_page_names_is_there(page: Path, checker: Checker) -> None:
    assert list(checker(page.read_text(encoding="utf-8"), page)) == []


def test_every_page_is_led_to_from_the_first() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    reached = {(ROOT / target.partition("#")[0]).resolve() for target in LINK.findall(readme)}
    assert [page_name(page) for page in PAGES[1:] if not {page, page.parent} & reached] == []


@pytest.mark.parametrize("page", [SEMANTICS, INVARIANTS], ids=page_name)
def test_no_number_stands_for_two_rows(page: Path) -> None:
    numbers = [number for number, _ in NUMBERED_ROW.findall(page.read_text(encoding="utf-8"))]
    assert numbers
    assert [number for number in set(numbers) if numbers.count(number) > 1] == []


@pytest.mark.parametrize("page", [SEMANTICS, INVARIANTS], ids=page_name)
def test_every_row_names_what_shows_it(page: Path) -> None:
    rows = NUMBERED_ROW.findall(page.read_text(encoding="utf-8"))
    last_cells = [(number, row.rpartition("|")[2].strip()) for number, row in rows]
    assert [cell for cell in last_cells if cell[1] != "-" and not TEST_FILE.match(cell[1])] == []


def test_a_row_is_built_or_not() -> None:
    built, _, rest = SEMANTICS.read_text(encoding="utf-8").partition("## Not built yet")
    missing = re.findall(r"\b\d+\b", rest.partition("\n\nPartly")[0])
    assert missing
    assert {number for number, _ in NUMBERED_ROW.findall(built)} & set(missing) == set()


def test_the_format_tells_the_fields_of_every_entry_in_their_order() -> None:
    told = {
        name: re.findall(r"\w+", fields)
        for name, fields in FIELDS_ROW.findall(FORMAT.read_text(encoding="utf-8"))
    }
    structures = [*get_args(Entry), Arrival, Child, Failure, Taken, Wait]
    assert told == {each.__name__: list(each.__struct_fields__) for each in structures}


def test_the_format_tells_every_table_with_its_columns() -> None:
    parts = re.split(r"^### Table `(\w+)`$", FORMAT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    told = {
        name: re.findall(r"^\| `(\w+)` \| (\w+) \|", text.partition("\n#")[0], re.MULTILINE)
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    files = sorted(MIGRATIONS.glob("*.sql"))
    assert told == tables_of("".join(file.read_text(encoding="utf-8") for file in files))


def tables_of(schema: str) -> dict[str, list[tuple[str, str]]]:
    """Columns with their types, by table, as SQLite understands them."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(schema)
    names = [
        row[0]
        for row in connection.execute(
            "select name from sqlite_schema where type = 'table' and name not like 'sqlite_%'"
        )
    ]
    tables = {
        name: [
            (row[1], row[2].lower())
            for row in connection.execute("select * from pragma_table_info(?)", (name,))
        ]
        for name in names
    }
    connection.close()
    return tables


@pytest.mark.parametrize("page", DECISIONS, ids=page_name)
def test_a_decision_says_why_what_at_which_cost_and_how_to_see_that_it_was_wrong(page: Path) -> None:
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    assert headings[0].startswith(f"{int(page.name[:4])}. ")
    assert headings[1:] == ["Context", "Decision", "Cost", "How we would notice that it was wrong"]


PLANTED: list[tuple[Checker, str]] = [
    (dead_links, "see [the page](nowhere.md)"),
    (dead_links, "# Here\n\nsee [the part](#there)"),
    (dead_links, "see [the part](docs/format.md#nowhere)"),
    (missing_tests, "shown by `tests/unit/test_nothing.py`"),
    (missing_tests, "shown by `tests/e2e/test_docs.py::test_nothing`"),
    (missing_sources, "see `core/nothing.py`"),
    (unknown_errors, "raises `NothingError`"),
    (unknown_targets, "```console\nmake nothing\n```\n"),
    (unknown_targets, "run `make nothing`"),
    (unknown_commands, "```console\nholdfast nothing\n```\n"),
    (unknown_commands, "```bash\n$ holdfast list --nothing\n```\n"),
]
SOUND: list[tuple[Checker, str]] = [
    (
        dead_links,
        "# The part\n\nsee [it](#the-part), [that](docs/format.md#payloads), [others](https://sqlite.org)",
    ),
    (missing_tests, "`tests/unit` and `tests/e2e/test_docs.py::test_a_planted_problem_is_found`"),
    (missing_sources, "`core/decide.py`, `bench/bench_steps.py` and `shop.py`"),
    (unknown_errors, "`TaskError`, `errors.TaskError` and `ValueError`"),
    (unknown_targets, "`make run`"),
    (unknown_commands, "```console\nholdfast list --status failed\nls --nothing\n```\n"),
]


@pytest.mark.parametrize(("checker", "text"), PLANTED, ids=lambda case: getattr(case, "__name__", None))
def test_a_planted_problem_is_found(checker: Checker, text: str) -> None:
    assert len(list(checker(text, PAGES[0]))) == 1


@pytest.mark.parametrize(("checker", "text"), SOUND, ids=lambda case: getattr(case, "__name__", None))
def test_a_sound_page_is_left_alone(checker: Checker, text: str) -> None:
    assert list(checker(text, PAGES[0])) == []


BROKEN_PAGE = """
```python
x = 1
```

<!-- prints -->
```text
2
```

```python
print(x)
```
"""


def test_a_snippet_that_does_not_print_what_the_page_says_is_found(tmp_path: Path) -> None:
    (parts,) = scripts(BROKEN_PAGE)
    printed = run_script(parts, tmp_path)
    assert printed == "1\n"
    assert unprinted(parts, printed) == ["8: 2\n"]


def test_a_snippet_that_raises_is_told_with_its_line_on_the_page(tmp_path: Path) -> None:
    (parts,) = scripts("A page\n\n```python\nx = 1\nraise ValueError(x)\n```\n")
    assert "line 5" in run_script(parts, tmp_path)


def test_a_fresh_snippet_knows_nothing_of_those_before() -> None:
    first, second = scripts("```python\nx = 1\n```\n\n<!-- fresh -->\n```python\nprint(x)\n```\n")
    assert [part.line for part in first] == [2]
    assert [part.line for part in second] == [7]
