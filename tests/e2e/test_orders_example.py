"""The orders example as a user meets it: `python -m examples.orders`."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from examples.orders.control import REPOSITORY, engine_file
from holdfast import Engine

TIMEOUT_S = 60


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="module")
def example(directory: Path) -> subprocess.CompletedProcess[str]:
    return start_example(str(directory))


def start_example(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.orders", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def counted(example: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """The lines that begin with a number."""
    lines = [line.split(maxsplit=1) for line in example.stdout.splitlines() if line.startswith("  ")]
    return {text: int(number) for number, text in lines if number.isdecimal()}


def test_the_example_finds_that_all_is_well(example: subprocess.CompletedProcess[str]) -> None:
    assert (example.returncode, example.stderr) == (0, "")


def test_all_two_hundred_orders_end(example: subprocess.CompletedProcess[str]) -> None:
    counts = counted(example)
    assert counts["shipped"] == 183
    assert counts["refused as invalid"] == 12
    assert counts["failed: the card was declined"] == 5


def test_the_kill_strikes_in_the_middle(example: subprocess.CompletedProcess[str]) -> None:
    counts = counted(example)
    before, after = counts["steps were recorded before it"], counts["steps are recorded in the end"]
    assert 0.3 < before / after < 0.9
    assert counts["bodies ran twice for that reason"] > 0


def test_nothing_recorded_is_lost_or_done_again(example: subprocess.CompletedProcess[str]) -> None:
    counts = counted(example)
    assert counts["steps that were recorded and ran again"] == 0
    assert counts["steps that were recorded and have no effect"] == 0
    assert counts["steps that have two effects"] == 0
    assert counts["problems of any kind"] == 0


def test_the_database_is_where_the_example_says(
    example: subprocess.CompletedProcess[str], directory: Path
) -> None:
    url = f"sqlite:///{engine_file(directory)}"
    assert f"export HOLDFAST_URL={url}\n" in example.stdout
    with Engine(url, worker=False) as engine:
        assert len(engine.list(limit=1_000)) == 200


def test_the_suggested_commands_work(example: subprocess.CompletedProcess[str], directory: Path) -> None:
    lines = [shlex.split(line) for line in example.stdout.splitlines() if "holdfast" in line]
    suggested = [words for words in lines if words[1:2] in (["list"], ["show"])]
    assert len(suggested) == 2
    for arguments in suggested:
        shown = subprocess.run(
            arguments,
            env=os.environ | {"HOLDFAST_URL": f"sqlite:///{engine_file(directory)}"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "order-" in shown.stdout


def test_a_used_directory_is_refused(example: subprocess.CompletedProcess[str], directory: Path) -> None:
    assert example.returncode == 0
    again = start_example(str(directory))
    assert again.returncode == 2
    assert "name an empty directory" in again.stderr
