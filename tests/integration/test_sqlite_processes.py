"""One file and several processes: who owns it, who may ask, and what is left when one of them dies."""

import asyncio
import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from holdfast import AsyncEngine, Engine, Flow
from holdfast.errors import StoreOwnedError, TaskError

PATIENCE_S = 15
LOOK_S = 0.005
PRELUDE = """
import os, signal, subprocess, sys, threading, time
from holdfast import Engine, Flow
def say(*words): print(*words, flush=True)
def inc(x: int) -> int: return x + 1
def hold(x: int) -> int:
    say("begun")
    threading.Event().wait()
    return x
url, INC, HOLD = sys.argv[1], Flow("inc").then(inc), Flow("hold").then(hold)
"""


class Program:
    """A Python program in another process, which says words line by line."""

    def __init__(self, source: str, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + source, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._said: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._listener.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def expect(self, word: str) -> str:
        """The rest of the next line, which must begin with `word`."""
        line = self._said.get(timeout=PATIENCE_S)
        assert line is not None, f"the program ended before it said {word!r}"
        assert line.split()[:1] == [word]
        return line.removeprefix(word).strip()

    def tell(self) -> None:
        """Let a program go on that waits for a line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join(PATIENCE_S)

    def wait(self) -> int:
        return self._process.wait(PATIENCE_S)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put(None)


def inc(x: int) -> int:
    return x + 1


async def hold(x: int) -> int:
    return x


INC, HOLD = Flow("inc").then(inc), Flow("hold").then(hold)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


def within_patience(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(LOOK_S)


OWNER = """
with Engine(url, workflows=[INC, HOLD], worker=True) as engine:
    say("owns")
    sys.stdin.readline()
"""
HOLDER = """
with Engine(url, workflows=[HOLD], worker=True) as engine:
    engine.start(HOLD, 7, id="order-1").result()
"""


def test_two_owners_in_one_process_are_one_too_many(url: str, tmp_path: Path) -> None:
    with Engine(url, worker=True) as first:
        with pytest.raises(StoreOwnedError) as caught, Engine(url, worker=True):
            pytest.fail("it was opened twice")
        assert f"process {os.getpid()} on {socket.gethostname()}" in str(caught.value)
        assert caught.value.facts["path"] == f"{tmp_path}/runs.db"
        assert first.is_driving
    with Engine(url, worker=True) as second:
        assert second.is_driving


def test_an_owner_in_another_process_is_named_with_pid_and_host(url: str, tmp_path: Path) -> None:
    with Program(OWNER, url) as owner:
        owner.expect("owns")
        with pytest.raises(StoreOwnedError) as caught, Engine(url, worker=True):
            pytest.fail("it was opened twice")
        assert f"process {owner.pid} on {socket.gethostname()}" in str(caught.value)
        assert caught.value.facts["path"] == f"{tmp_path}/runs.db"
        owner.tell()
        assert owner.wait() == 0
        with Engine(url, worker=True) as engine:
            assert engine.is_driving


def test_a_killed_owner_is_followed_at_once(url: str) -> None:
    with Program(HOLDER, url) as owner:
        owner.expect("begun")
        owner.kill()
        begun = time.monotonic()
        with Engine(url, workflows=[HOLD], worker=True) as engine:
            handle = engine.get("order-1")
            assert handle.result(PATIENCE_S) == 7
            assert time.monotonic() - begun < 2
            kinds = [entry.kind for entry in handle.journal()]
            assert kinds == ["RunStarted", "StepCompleted", "RunCompleted"]


def test_a_death_is_charged_to_the_runs_that_were_held(url: str) -> None:
    with Program(HOLDER, url) as owner:
        owner.expect("begun")
        owner.kill()
    # Nobody here knows the workflow, so that nothing is driven.
    for _ in range(2):
        with Engine(url, worker=True) as engine:
            status = engine.get("order-1").status()
            assert (status.recoveries, status.worker, status.status) == (1, None, "running")


def test_a_run_that_an_owner_was_killed_over_is_charged_each_time(url: str) -> None:
    with Program(HOLDER, url) as owner:
        owner.expect("begun")
    again = 'with Engine(url, workflows=[HOLD], worker=True) as engine: engine.get("order-1").result()'
    with Program(again, url) as owner:
        owner.expect("begun")
    with Engine(url, workflows=[HOLD], worker=False) as engine:
        assert engine.get("order-1").status().recoveries == 1
    with Engine(url, workflows=[HOLD], worker=True) as engine:
        assert engine.get("order-1").result(PATIENCE_S) == 7
        assert engine.get("order-1").status().recoveries == 0


FORKING = """
with Engine(url, workflows=[INC, HOLD], worker=True) as engine:
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    say("forked", child)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def ended(pid: int) -> Iterator[None]:
    """A process that must not outlive the test."""
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_forked_child_does_not_keep_the_file_owned(url: str) -> None:
    with Program(FORKING, url) as owner:
        child = int(owner.expect("forked"))
        with ended(child):
            with pytest.raises(StoreOwnedError), Engine(url, worker=True):
                pytest.fail("it was opened twice")
            owner._process.kill()
            owner.wait()
            with Engine(url, workflows=[INC], worker=True) as engine:
                assert engine.start(INC, 1).result(PATIENCE_S) == 2
            os.kill(child, 0)  # it lives


EXITING_CHILD = """
with Engine(url, workflows=[INC, HOLD], worker=True) as engine:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    say("owns", engine.start(INC, 1).result())
    sys.stdin.readline()
"""


def test_a_forked_child_that_exits_does_not_give_the_file_away(url: str) -> None:
    with Program(EXITING_CHILD, url) as owner:
        assert owner.expect("owns") == "2"
        with pytest.raises(StoreOwnedError), Engine(url, worker=True):
            pytest.fail("it was opened twice")


SPAWNING = """
with Engine(url, workflows=[INC, HOLD], worker=True) as engine:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
    say("spawned", child.pid)
    sys.stdin.readline()
"""


def test_a_spawned_program_does_not_inherit_the_file(url: str) -> None:
    with Program(SPAWNING, url) as owner, ended(int(owner.expect("spawned"))):
        owner._process.kill()
        owner.wait()
        with Engine(url, worker=True) as engine:
            assert engine.is_driving


CLIENT = """
with Engine(url, worker=False) as engine:
    assert not engine.is_driving
    handle = engine.start("inc", 41, id="from-client")
    say("result", handle.result(10))
    say("status", handle.status().status)
"""


def test_a_client_starts_a_run_that_the_owner_drives(url: str) -> None:
    calls: list[int] = []

    def noted(x: int) -> int:
        calls.append(os.getpid())
        return x + 1

    flow = Flow("inc").then(noted, name="inc")
    with Engine(url, workflows=[flow], worker=True), Program(CLIENT, url) as client:
        assert client.expect("result") == "42"
        assert client.expect("status") == "completed"
        assert client.wait() == 0
    assert calls == [os.getpid()]


def test_a_client_is_told_of_failures_in_the_owner(url: str) -> None:
    failing = """
def fail(x: int) -> int: raise KeyError("card")
with Engine(url, workflows=[Flow("fail").then(fail)], worker=True) as engine:
    say("owns")
    sys.stdin.readline()
"""
    with Program(failing, url) as owner:
        owner.expect("owns")
        with Engine(url, worker=False) as engine, pytest.raises(TaskError, match="KeyError in step 'fail'"):
            engine.start("fail", 1).result(PATIENCE_S)


def test_what_a_client_starts_without_an_owner_waits_for_one(url: str) -> None:
    with Engine(url, workflows=[INC], worker=True):
        pass
    with Program('with Engine(url, worker=False) as e: say("started", e.start("inc", 1).id)', url) as client:
        run_id = client.expect("started")
        assert client.wait() == 0
    with Engine(url, workflows=[INC], worker=True) as engine:
        assert engine.get(run_id).result(PATIENCE_S) == 2


def test_an_automatic_worker_is_a_client_where_another_one_owns(url: str) -> None:
    with Program(OWNER, url) as owner:
        owner.expect("owns")
        with Engine(url, workflows=[INC], worker="auto") as engine:
            assert not engine.is_driving
            assert engine.start(INC, 1).result(PATIENCE_S) == 2
            handle = engine.start(INC, 2, id="order-2")
            assert handle.result(PATIENCE_S) == 3
            assert {entry.epoch for entry in handle.journal()} == {0, 1}
    with Engine(url, workflows=[INC], worker="auto") as engine:
        assert engine.is_driving


def test_an_automatic_worker_takes_over_from_an_owner_that_dies(url: str) -> None:
    with Program(HOLDER, url) as owner:
        owner.expect("begun")
        with Engine(url, workflows=[HOLD, INC], worker="auto") as engine:
            assert not engine.is_driving
            waiting = engine.start(INC, 1)
            owner.kill()
            assert waiting.result(PATIENCE_S) == 2
            assert engine.is_driving
            assert engine.get("order-1").result(PATIENCE_S) == 7
            with pytest.raises(StoreOwnedError, match=f"process {os.getpid()}"), Engine(url, worker=True):
                pytest.fail("it was opened twice")
    with Engine(url, worker=True) as engine:
        assert engine.get("order-1").status().recoveries == 0


INTERRUPTED = """
def slow(x: int) -> int:
    time.sleep(0.05)
    return x + 1
flow = Flow("slow")
for _ in range(200): flow.then(slow)
try:
    with Engine(url, workflows=[flow]) as engine:
        handle = engine.start(flow, 0, id="order-1")
        while handle.status().position < 3: time.sleep(0.01)
        say("begun")
        handle.result()
except KeyboardInterrupt:
    say("interrupted")
"""


def test_a_program_that_is_interrupted_gives_its_runs_back(url: str) -> None:
    with Program(INTERRUPTED, url) as program:
        program.expect("begun")
        program.signal(signal.SIGINT)
        program.expect("interrupted")
        assert program.wait() == 0
    with Engine(url, worker=False) as engine:
        status = engine.get("order-1").status()
        assert (status.status, status.worker, status.recoveries) == ("running", None, 0)
        assert 3 <= status.position < 100


INTERRUPTED_ASYNC = """
import asyncio
from holdfast import AsyncEngine
async def slow(x: int) -> int:
    await asyncio.sleep(0.05)
    return x + 1
flow = Flow("slow")
for _ in range(200): flow.then(slow)
async def main():
    async with AsyncEngine(url, workflows=[flow]) as engine:
        handle = await engine.start(flow, 0, id="order-1")
        while (await handle.status()).position < 3: await asyncio.sleep(0.01)
        say("begun")
        await handle.result()
try:
    asyncio.run(main())
except KeyboardInterrupt:
    say("interrupted")
"""


def test_an_async_program_that_is_interrupted_gives_its_runs_back(url: str) -> None:
    with Program(INTERRUPTED_ASYNC, url) as program:
        program.expect("begun")
        program.signal(signal.SIGINT)
        program.expect("interrupted")
        assert program.wait() == 0
    with Engine(url, worker=False) as engine:
        status = engine.get("order-1").status()
        assert (status.status, status.worker, status.recoveries) == ("running", None, 0)


def test_many_clients_write_while_the_owner_copies_its_log_back(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.stores.sqlite.store.LOG_PAGES_MAX", 20)
    clients = """
number = sys.argv[2]
with Engine(url, worker=False) as engine:
    handles = [engine.start("inc", n, id=f"{number}-{n}") for n in range(30)]
    say("results", [handle.result(10) for handle in handles] == list(range(1, 31)))
"""
    with Engine(url, workflows=[INC], worker=True) as engine, contextlib.ExitStack() as programs:
        started = [programs.enter_context(Program(clients, url, str(n))) for n in range(3)]
        mine = [engine.start(INC, n, id=f"owner-{n}") for n in range(100)]
        assert [handle.result(PATIENCE_S) for handle in mine] == list(range(1, 101))
        assert [program.expect("results") for program in started] == ["True"] * 3
        assert len(engine.list(limit=500)) == 190


def test_two_processes_that_create_a_file_at_once_both_can(url: str, tmp_path: Path) -> None:
    creating = """
sys.stdin.readline()
for n in range(8):
    with Engine(url.replace("runs", f"runs-{n}"), workflows=[INC], worker="auto") as engine:
        engine.start(INC, 1, id=str(os.getpid()))
say("created")
"""
    with Program(creating, url) as one, Program(creating, url) as other:
        for program in (one, other):
            program.tell()
        for program in (one, other):
            program.expect("created")
    for n in range(8):
        with Engine(url.replace("runs", f"runs-{n}"), workflows=[INC], worker=True) as engine:
            assert {run.id for run in engine.list()} == {str(one.pid), str(other.pid)}
    assert (tmp_path / "runs-7.db").exists()


def test_the_owner_file_says_who_owns(url: str, tmp_path: Path) -> None:
    async def look() -> dict[str, object]:
        async with AsyncEngine(url, worker=True):
            facts: dict[str, object] = json.loads((tmp_path / "runs.db-owner").read_bytes())
            return facts

    assert asyncio.run(look()) == {"pid": os.getpid(), "host": socket.gethostname()}
