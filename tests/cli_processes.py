"""The `holdfast` command in processes of its own, for tests of what a user sees."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

DEADLINE_S = 30.0
Result = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in {"HOLDFAST_URL", "COLUMNS"}}


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "holdfast.cli", *args]


def holdfast(folder: Path, *args: str, stdin: str | None = None) -> Result:
    return subprocess.run(
        command(*args),
        cwd=folder,
        env=environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


@contextmanager
def going_on(folder: Path, *args: str) -> Generator[subprocess.Popen[str]]:
    """A command that goes on; its stderr is in the file `stderr-<its name>`."""
    with (
        (folder / f"stderr-{args[0]}").open("w") as stderr,
        subprocess.Popen(
            command(*args), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()
