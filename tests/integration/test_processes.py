"""Bodies in processes of their own: real ones, killed, dying and orphaned (semantics row 24)."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast import Engine, Flow
from holdfast.core.effects import StartAttempt
from holdfast.core.entries import Failure
from holdfast.core.events import AttemptFailed, AttemptSucceeded
from holdfast.definition.task import Executor, task
from holdfast.errors import DefinitionError
from holdfast.ports import Clock
from holdfast.runtime import processes as module
from holdfast.runtime.attempts import Attempts
from holdfast.runtime.bindings import BoundStep
from holdfast.runtime.clock import SystemClock
from holdfast.runtime.context import CURRENT, RunFacts, TaskContext
from holdfast.runtime.executors import DaemonThreads
from holdfast.runtime.ids import SystemChance
from holdfast.runtime.processes import Processes
from holdfast.runtime.serving import STARTING, refuse_while_starting
from tests import process_bodies as bodies

ROOT = Path(__file__).resolve().parents[2]
EFFECT = StartAttempt("pay", "charge", 3, 2)
ORDER = b'json.1:{"id":1,"items":["a"]}'
PATIENCE_S = 30


@asynccontextmanager
async def opened(processes_max: int = 2, clock: Clock | None = None) -> AsyncIterator[Attempts]:
    attempts = Attempts(
        threads=DaemonThreads(2, name="body"),
        chance=SystemChance(),
        clock=clock or SystemClock(),
        processes=Processes(processes_max),
    )
    try:
        yield attempts
    finally:
        attempts.close()


def step(fn: Callable[..., object], *, timeout: str | None = None, executor: Executor = "process") -> BoundStep:
    return BoundStep("charge", task("charge", executor=executor, timeout=timeout)(fn))


def text(value: object) -> bytes:
    return f'json.1:"{value}"'.encode()


async def output(attempts: Attempts, bound: BoundStep, value: bytes = b"json.1:null") -> bytes:
    event = await attempts.make(EFFECT, bound, value)
    assert isinstance(event, AttemptSucceeded), event
    return event.output


async def failure(attempts: Attempts, bound: BoundStep, value: bytes = b"json.1:null") -> Failure:
    event = await attempts.make(EFFECT, bound, value)
    assert isinstance(event, AttemptFailed), event
    return event.failure


async def pid(attempts: Attempts) -> int:
    return int((await output(attempts, step(bodies.pid))).removeprefix(b"json.1:"))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.002)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def test_a_body_runs_in_another_process_which_is_kept_for_the_next() -> None:
    async with opened() as attempts:
        first = await pid(attempts)
        assert first != os.getpid()
        assert [await pid(attempts) for _ in range(3)] == [first] * 3
    assert bodies.is_gone(first), "closing ends the idle ones"


async def test_bodies_run_side_by_side_up_to_the_bound(tmp_path: Path) -> None:
    places = [tmp_path / str(number) for number in range(3)]
    async with opened(2) as attempts:
        async with asyncio.TaskGroup() as tasks:
            made = []
            for place in places:
                place.mkdir()
                made.append(tasks.create_task(output(attempts, step(bodies.hang), text(place))))
            await until(lambda: sum((place / "begun").exists() for place in places) == 2)
            (waiting,) = (place for place in places if not (place / "begun").exists())
            for place in places:
                if place != waiting:
                    (place / "go").touch()
            await until((waiting / "begun").exists)
            (waiting / "go").touch()
        assert [each.result() for each in made] == [b'json.1:"late"'] * 3
        assert len({bodies.told(place, "begun") for place in places}) == 2


@pytest.mark.parametrize("fn", [bodies.inc, bodies.first_item], ids=lambda fn: fn.__name__)
async def test_values_are_those_of_a_thread(fn: Callable[..., object]) -> None:
    """Row 45: decoded by the annotation, encoded by the codec."""
    async with opened() as attempts:
        inside, outside = step(fn, executor="thread"), step(fn)
        assert await output(attempts, outside, ORDER) == await output(attempts, inside, ORDER)


@pytest.mark.parametrize(
    ("fn", "value", "kind"),
    [
        (bodies.decline, ORDER, "CardError"),
        (bodies.refuse, ORDER, "card"),
        (bodies.first_item, b'json.1:{"id":1,"items":[]}', "IndexError"),
        (bodies.inc, b'json.1:{"id":"x","items":[]}', "CodecError"),
        (bodies.unfit, ORDER, "CodecError"),
    ],
    ids=["cause and notes", "chosen", "plain", "argument", "result"],
)
async def test_failures_are_those_of_a_thread(fn: Callable[..., object], value: bytes, kind: str) -> None:
    """Rows 22 and 26: type, message, notes, causes, details and traceback."""
    async with opened() as attempts:
        elsewhere = await failure(attempts, step(fn), value)
        here = await failure(attempts, step(fn, executor="thread"), value)
    assert elsewhere.type == kind

    def without_tracebacks(one: Failure) -> object:
        cause = None if one.cause is None else without_tracebacks(one.cause)
        return (one.type, one.message, one.types, one.details, one.notes, one.step, cause)

    assert without_tracebacks(elsewhere) == without_tracebacks(here)
    if kind != "CodecError":
        assert elsewhere.traceback == here.traceback


async def test_a_decorated_function_is_found_by_its_name() -> None:
    async with opened() as attempts:
        made = await output(attempts, BoundStep("charge", bodies.decorated), b"json.1:0")
        assert made == f"json.1:{await pid(attempts)}".encode()


async def test_the_context_is_there() -> None:
    """Row 46."""
    facts = RunFacts("order-42", 2, "order", {"team": "sales", "tags": ["a"]})
    async with opened() as attempts:
        context = TaskContext(facts, EFFECT)
        token = CURRENT.set(context)
        seen = await output(attempts, step(bodies.look))
        CURRENT.reset(token)
        assert await output(attempts, step(bodies.has_context)) == b"json.1:false", "nothing stays behind"
    assert seen == (
        b'json.1:{"run_id":"order-42","workflow":"order","step":"charge","branch":"pay","visit":3,'
        b'"attempt":2,"incarnation":2,"idempotency_key":"order-42/2/pay/charge/3",'
        b'"metadata":{"team":"sales","tags":["a"]},"cancelled":false}'
    )


async def test_what_a_body_does_with_its_streams_disturbs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    async with opened() as attempts:
        assert await output(attempts, step(bodies.speak)) == b'json.1:""', "there is nothing to read"
        assert await output(attempts, step(bodies.speak)) == b'json.1:""'
    out, error = capfd.readouterr()
    assert sorted(set(out.splitlines())) == ["from a process of its own", "to the descriptor", "to the stream"]
    assert error == "x" * 400_000


@pytest.mark.parametrize(
    ("fn", "reason"),
    [(bodies.original, "replaced of module tests.process_bodies is"), (bodies.METHOD, "")],
    ids=["hidden", "method"],
)
def test_a_function_that_a_process_would_not_find_cannot_be_bound(
    fn: Callable[..., object], reason: str
) -> None:
    with pytest.raises(TypeError, match=f"{reason}.*define it with def at the top of a module"):
        step(fn)


def test_a_flow_with_such_a_function_is_refused() -> None:
    """Row 64."""
    hidden = task("hidden", executor="process")(bodies.original)
    with pytest.raises(DefinitionError) as caught:
        Engine("memory://", workflows=[Flow("order").then(hidden)])
    ((place, code),) = [(problem.step, problem.code) for problem in caught.value.problems]
    assert (place, code) == ("hidden", "signature")


# the end of a process


@pytest.mark.parametrize(
    ("how", "end"), [("signal", "was ended by SIGKILL"), ("status", "ended with exit status 3")]
)
async def test_a_process_that_dies_is_a_failure_of_the_attempt(how: str, end: str) -> None:
    async with opened() as attempts:
        died = await failure(attempts, step(bodies.leave), text(how))
        assert died == Failure(
            "process_died", f"the process of the body {end}", ("process_died",), step="charge"
        )
        assert await pid(attempts), "and the next body gets another"


async def test_a_body_that_exits_has_failed_and_its_process_goes_on() -> None:
    async with opened() as attempts:
        before = await pid(attempts)
        left = await failure(attempts, step(bodies.leave), text("exit"))
        assert (left.type, left.message) == ("SystemExit", "so long")
        assert await pid(attempts) == before


async def test_a_process_that_died_while_it_was_idle_is_no_failure() -> None:
    async with opened() as attempts:
        before = await pid(attempts)
        os.kill(before, signal.SIGKILL)
        assert await pid(attempts) != before
    assert bodies.is_gone(before)


async def test_processes_that_never_come_to_the_body_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "serve", bodies.leave)
    async with opened() as attempts:
        died = await failure(attempts, step(bodies.pid))
    assert died.type == "process_died"
    assert died.message == "3 processes ended before the body began; the last one ended with exit status 3"


class HandClock(SystemClock):
    """Time that is up when a test says so."""

    def __init__(self) -> None:
        self.timers: list[Callable[[], object]] = []

    def call_later(self, delay_ms: float, fn: Callable[[], object]) -> asyncio.TimerHandle:
        self.timers.append(fn)
        return super().call_later(delay_ms, fn)


async def test_a_process_that_is_not_ready_in_time_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "serve", bodies.never_ready)
    monkeypatch.setattr(module, "START_S", 0.05)
    async with opened() as attempts:
        died = await failure(attempts, step(bodies.pid))
        assert (died.type, died.message) == (
            "process_died",
            "the process was not ready for the body after 0.05 s",
        )
        assert not attempts._processes._living


async def test_a_process_is_killed_when_the_time_is_up(tmp_path: Path) -> None:
    clock = HandClock()
    async with opened(clock=clock) as attempts:
        bound = step(bodies.hang, timeout="1h")
        making = asyncio.ensure_future(failure(attempts, bound, text(tmp_path)))
        await until((tmp_path / "begun").exists)
        await until(lambda: clock.timers)
        clock.timers[0]()
        late = await making
        assert (late.type, late.message) == ("timeout", "the attempt was not done after 3600 s")
        killed = bodies.told(tmp_path, "begun")
        await until(lambda: bodies.is_gone(killed))
        (tmp_path / "go").touch()
        assert await pid(attempts) != killed
    assert not (tmp_path / "effect").exists()


async def test_what_a_body_has_started_is_killed_with_it(tmp_path: Path) -> None:
    async with opened() as attempts:
        making = asyncio.ensure_future(attempts.make(EFFECT, step(bodies.hang_with_others), text(tmp_path)))
        await until((tmp_path / "begun").exists)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        await until(lambda: bodies.is_gone(bodies.told(tmp_path, "begun")))
        other = bodies.told(tmp_path, "other")
        await until(lambda: bodies.is_gone(other) or is_zombie(other))


def is_zombie(pid: int | None) -> bool:
    """Dead, and nobody has asked how: it is not ours to ask, and there may be no init."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return state.stdout.startswith("Z")


async def test_the_time_begins_with_the_body_and_not_with_its_process(tmp_path: Path) -> None:
    clock = HandClock()
    async with opened(1, clock=clock) as attempts:
        first = asyncio.ensure_future(output(attempts, step(bodies.hang), text(tmp_path)))
        second = asyncio.ensure_future(output(attempts, step(bodies.inc, timeout="1h"), ORDER))
        await until((tmp_path / "begun").exists)
        assert not clock.timers, "it waits for the one process"
        (tmp_path / "go").touch()
        await asyncio.gather(first, second)
        assert len(clock.timers) == 1


async def test_a_call_that_is_cancelled_while_its_process_starts_leaves_none_behind() -> None:
    async with opened(1) as attempts:
        for _ in range(3):
            making = asyncio.ensure_future(attempts.make(EFFECT, step(bodies.pid), b"json.1:null"))
            await asyncio.sleep(0)
            making.cancel()
            with pytest.raises(asyncio.CancelledError):
                await making
        await pid(attempts)
        await until(lambda: len(attempts._processes._living) == 1)


async def test_a_body_that_computes_does_not_hold_up_the_loop() -> None:
    """The interpreter lock is the body's own: the loop turns as often as it likes meanwhile."""
    turns = 0
    async with opened() as attempts:
        making = asyncio.ensure_future(output(attempts, step(bodies.busy), b"json.1:3000000"))
        while not making.done():
            turns += 1
            await asyncio.sleep(0)
    assert making.result() == b"json.1:4499998500000"
    assert turns > 100


async def test_closing_kills_what_still_runs(tmp_path: Path) -> None:
    async with opened() as attempts:
        making = asyncio.ensure_future(attempts.make(EFFECT, step(bodies.hang), text(tmp_path)))
        await until((tmp_path / "begun").exists)
    attempts.close()
    assert isinstance(await making, AttemptFailed)
    assert bodies.is_gone(bodies.told(tmp_path, "begun"))


async def test_no_body_is_taken_after_closing() -> None:
    async with opened() as attempts:
        pass
    assert (await failure(attempts, step(bodies.pid))).type == "RuntimeError"


# programs

PROGRAM = """
import sys
from holdfast import Engine, Flow, task
from tests.process_bodies import hang
flow = Flow("order").then(task("hang", executor="process")(hang))
if __name__ == "__main__":
    with Engine("memory://", workflows=[flow]) as engine:
        engine.start(flow, sys.argv[1]).result(60)
"""
OWN = """
import os
from holdfast import Flow, run, task

@task(executor="process")
def where() -> int:
    return os.getpid()

if __name__ == "__main__":
    print(run(Flow("where").then(where)) != os.getpid())
"""


def program(directory: Path, source: str, *arguments: str) -> subprocess.Popen[str]:
    path = directory / "program.py"
    path.write_text(source)
    return subprocess.Popen(
        [sys.executable, str(path), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_body_of_the_main_module_is_found(tmp_path: Path) -> None:
    with program(tmp_path, OWN) as running:
        out, errors = running.communicate(timeout=PATIENCE_S)
    assert (out, errors, running.returncode) == ("True\n", "", 0)


def test_a_body_dies_with_the_program_that_is_killed(tmp_path: Path) -> None:
    """Else it would go on beside the attempt of the worker that takes over."""
    with program(tmp_path, PROGRAM, str(tmp_path)) as running:
        wait_until((tmp_path / "begun").exists)
        body = bodies.told(tmp_path, "begun")
        running.kill()
        running.wait(PATIENCE_S)
        wait_until(lambda: bodies.is_gone(body) or is_zombie(body))
        (tmp_path / "go").touch()
        running.communicate(timeout=PATIENCE_S)
    assert not (tmp_path / "effect").exists()


def test_an_interrupt_from_the_terminal_is_not_for_the_body(tmp_path: Path) -> None:
    """Row 27: it goes to the whole group of the program, and must not become a failure of the step."""
    with program(tmp_path, PROGRAM, str(tmp_path)) as running:
        wait_until((tmp_path / "begun").exists)
        body = bodies.told(tmp_path, "begun")
        assert body is not None
        assert os.getpgid(body) == body != os.getpgid(running.pid)
        os.killpg(running.pid, signal.SIGINT)
        (tmp_path / "go").touch()
        running.communicate(timeout=PATIENCE_S)
    assert bodies.told(tmp_path, "effect") == body, "it gets the time that bodies get at a shutdown"


def test_no_engine_is_opened_while_a_process_imports_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_while_starting()
    monkeypatch.setattr(module.multiprocessing.current_process(), "name", STARTING)
    with pytest.raises(Exception, match="__main__"):
        refuse_while_starting()
