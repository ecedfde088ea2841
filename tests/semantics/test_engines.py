"""Row 50, the two engines, and what is done with bad input."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import AsyncEngine, Engine, Flow, Retry, Step, Workflow, arun, run, task
from holdfast.errors import (
    DefinitionError,
    HoldfastError,
    InputError,
    ResultTimeoutError,
    RunExistsError,
    RunNotFoundError,
    StoreOwnedError,
    TaskError,
    UsageError,
    WorkflowNotFoundError,
)
from tests.semantics.places import Place

PATIENCE_S = 5


async def inc(x: int) -> int:
    return x + 1


def dec(x: int) -> int:
    return x - 1


INC, DEC = Flow("inc").then(inc), Flow("dec").then(dec)


def test_run_returns_the_output_of_a_flow() -> None:
    """Row 50."""
    assert run(INC, 1) == 2
    assert run(Flow("both").then(inc).then(dec).then(lambda x: x * 10), 4) == 40
    assert run(INC.build(), 1) == 2


async def test_arun_returns_the_output_of_a_flow() -> None:
    """Row 50."""
    assert await arun(DEC, 1) == 0
    assert sorted(await asyncio.gather(*(arun(INC, n) for n in range(20)))) == list(range(1, 21))


def test_run_raises_what_went_wrong() -> None:
    """Row 50."""

    def bad() -> None:
        raise KeyError("card")

    with pytest.raises(TaskError, match="KeyError in step 'bad'"):
        run(Flow("bad").then(bad))
    with pytest.raises(InputError, match="step 'inc'"):
        run(INC, "one")
    with pytest.raises(DefinitionError, match="at least one step"):
        run(Flow("empty"))


def test_retries_of_a_run_really_wait() -> None:
    """Row 50."""
    tries: list[int] = []

    @task(retry=Retry(max_retries=2, base_delay="5ms"))
    def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("busy")
        return len(tries)

    assert run(Flow("flaky").then(flaky)) == 3


async def test_run_inside_a_running_loop_is_refused() -> None:
    """Row 50."""
    with pytest.raises(UsageError, match="await arun"):
        run(INC, 1)


def test_the_blocking_engine_does_what_the_async_one_does(place: Place) -> None:
    """Row 50: one behaviour in every authoring form."""

    async def fail(_x: int) -> int:
        raise ValueError("no")

    failing = Flow("fail").then(fail)
    with place.blocking(INC, failing) as engine:
        assert engine.is_driving
        handle = engine.start(INC, 1, id="order-1")
        assert handle.result(PATIENCE_S) == 2
        assert handle.status().status == "completed"
        assert [entry.kind for entry in handle.journal()] == ["RunStarted", "StepCompleted", "RunCompleted"]
        assert engine.get("order-1").result(timeout=PATIENCE_S) == 2
        assert engine.resume("order-1") == 2
        with pytest.raises(TaskError, match="ValueError"):
            engine.start(failing, 1).result(PATIENCE_S)
        assert [run.status for run in engine.list()] == ["failed", "completed"]
        assert [run.id for run in engine.list(status="completed", workflow="inc", limit=5)] == ["order-1"]
        with pytest.raises(RunExistsError):
            engine.start(INC, 1, id="order-1")
        with pytest.raises(RunNotFoundError):
            engine.get("nobody")
        assert repr(handle) == "<run order-1>"
    with place.blocking(INC) as engine:
        assert engine.get("order-1").result() == 2


def test_the_blocking_engine_serves_many_threads(place: Place) -> None:
    """Row 50."""
    outputs: list[int] = []
    with place.blocking(INC) as engine:
        threads = [
            threading.Thread(
                target=lambda n=n: outputs.append(engine.start(INC, n, id=f"run-{n}").result(PATIENCE_S))
            )
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outputs) == list(range(1, 21))


async def test_a_blocking_call_inside_a_running_loop_is_refused(place: Place) -> None:
    """Row 50."""
    engine = place.blocking(INC)
    await asyncio.to_thread(engine.__enter__)
    try:
        handle = await asyncio.to_thread(engine.start, INC, 1)
        blocking: list[Callable[[], object]] = [
            lambda: engine.start(INC, 1),
            lambda: engine.get(handle.id),
            engine.list,
            lambda: engine.resume(handle.id),
            handle.result,
            handle.status,
            handle.journal,
        ]
        for call in blocking:
            with pytest.raises(UsageError, match="AsyncEngine"):
                call()
        assert await asyncio.to_thread(handle.result, PATIENCE_S) == 2
    finally:
        await asyncio.to_thread(engine.__exit__, None, None, None)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_blocking_engine_outside_its_block_says_so(place: Place, moment: str) -> None:
    """Bad input."""
    engine = place.blocking(INC)
    if moment == "after":
        with engine:
            engine.start(INC, 1, id="order-1").result(PATIENCE_S)
    for call in (lambda: engine.start(INC, 1), lambda: engine.get("order-1"), engine.list):
        with pytest.raises(UsageError, match="not open"):
            call()


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_async_engine_outside_its_block_says_so(place: Place, moment: str) -> None:
    """Bad input."""
    engine = place.engine(INC)
    if moment == "after":
        async with engine:
            await (await engine.start(INC, 1, id="order-1")).result()
    for call in (
        lambda: engine.start(INC, 1),
        lambda: engine.get("order-1"),
        engine.list,
        lambda: engine.resume("order-1"),
    ):
        with pytest.raises(UsageError, match="not open"):
            async with asyncio.timeout(PATIENCE_S):
                await call()


async def test_a_handle_outside_the_block_of_its_engine_says_so(place: Place) -> None:
    """Bad input."""
    async with place.engine(INC) as engine:
        handle = await engine.start(INC, 1)
        await handle.result()
    for call in (handle.status, handle.journal, (await_result(handle))):
        with pytest.raises(UsageError, match="not open"):
            async with asyncio.timeout(PATIENCE_S):
                await call()


def await_result(handle: holdfast.AsyncHandle) -> Callable[[], Any]:
    return handle.result


async def test_an_unknown_workflow_is_named_with_those_that_are_known(place: Place) -> None:
    """Bad input."""
    async with place.engine(INC, DEC) as engine:
        for wanted in ("nothing", Flow("other").then(inc), Workflow("else", [Step("x", task="x")])):
            with pytest.raises(WorkflowNotFoundError) as caught:
                await engine.start(wanted, 1)
            assert "dec, inc" in str(caught.value)
            assert caught.value.facts["known"] == ("dec", "inc")
        assert await engine.list() == []


async def test_another_workflow_of_a_known_name_is_not_mistaken_for_it(place: Place) -> None:
    """Bad input."""
    other = Flow("inc").then(dec)
    async with place.engine(INC) as engine:
        with pytest.raises(HoldfastError, match="inc"):
            await engine.start(other, 1)
        assert await engine.list() == []
        equal = Flow("inc").then(inc)
        assert await (await engine.start(equal, 1)).result() == 2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "orders.db",
        "sqlite://orders.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "mysql://localhost",
        "memory:",
        "memory://x",
        "http://localhost",
    ],
)
def test_a_url_of_no_store_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad input."""
    monkeypatch.delenv("HOLDFAST_URL", raising=False)
    for kind in (Engine, AsyncEngine):
        with pytest.raises(UsageError, match="sqlite:///"):
            kind(url, workflows=[INC])


def test_the_url_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Design: HOLDFAST_URL is the default everywhere."""
    monkeypatch.setenv("HOLDFAST_URL", f"sqlite:///{tmp_path}/env.db")
    with Engine(workflows=[INC]) as engine:
        assert engine.start(INC, 1).result(PATIENCE_S) == 2
    assert (tmp_path / "env.db").exists()
    monkeypatch.delenv("HOLDFAST_URL")
    with pytest.raises(UsageError, match="HOLDFAST_URL"):
        Engine(workflows=[INC])


def test_a_relative_url_is_a_file_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Design: the public names."""
    monkeypatch.chdir(tmp_path)
    with Engine("sqlite:///relative.db", workflows=[INC]) as engine:
        assert engine.start(INC, 1).result(PATIENCE_S) == 2
    assert (tmp_path / "relative.db").exists()


@pytest.mark.parametrize("concurrency", [0, -1, 100_001])
def test_a_concurrency_out_of_bounds_is_refused(concurrency: int) -> None:
    """Bad input."""
    for kind in (Engine, AsyncEngine):
        with pytest.raises(UsageError, match=f"concurrency {concurrency}"):
            kind("memory://", workflows=[INC], concurrency=concurrency)


def test_two_workflows_of_one_name_are_refused() -> None:
    """Bad input."""
    with pytest.raises(UsageError, match="'inc'"):
        Engine("memory://", workflows=[INC, Flow("inc").then(dec)])


@pytest.mark.parametrize("workflow", [inc, "inc", None, [INC]], ids=["function", "name", "none", "list"])
def test_what_is_no_workflow_is_refused(workflow: Any) -> None:  # noqa: ANN401 - what goes wrong in the field
    """Bad input."""
    with pytest.raises(UsageError, match="no Flow or Workflow"):
        Engine("memory://", workflows=[workflow])


async def test_what_is_no_workflow_is_not_started(place: Place) -> None:
    """Bad input."""
    async with place.engine(INC) as engine:
        for wanted in (inc, None, 5):
            with pytest.raises(HoldfastError):
                await engine.start(wanted, 1)  # type: ignore[arg-type] - the case


def test_a_workflow_whose_tasks_are_not_given_is_refused() -> None:
    """Bad input."""
    with pytest.raises(UsageError, match="tasks that are not given: x"):
        Engine("memory://", workflows=[Workflow("else", [Step("x", task="x")])])


class CallerError(Exception):
    pass


def chained() -> CallerError:
    """An error with a cause, a context and a note."""
    try:
        try:
            {}["context"]
        except KeyError as error:
            raise ValueError("cause") from error
    except ValueError as error:
        made = CallerError("mine")
        made.__cause__ = error
        made.add_note("a note")
        return made


RAISED: list[Callable[[], BaseException]] = [
    chained,
    lambda: ExceptionGroup("mine", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])]),
    lambda: ExceptionGroup("one only", [ValueError("a")]),
    lambda: TaskError(run_id="x", status="failed", failure=None),
    lambda: StopAsyncIteration("mine"),
    lambda: TimeoutError("mine"),
    lambda: KeyboardInterrupt("mine"),
    lambda: SystemExit(3),
]


@pytest.mark.parametrize("make", RAISED, ids=lambda make: type(make()).__name__)
def test_an_error_of_the_callers_block_comes_out_unchanged(
    place: Place, make: Callable[[], BaseException]
) -> None:
    """Bad input."""
    error = make()
    cause, context, notes = error.__cause__, error.__context__, getattr(error, "__notes__", None)
    with pytest.raises(type(error)) as caught, place.blocking(INC) as engine:  # noqa: PT012 - the block is it
        engine.start(INC, 1, id="order-1").result(PATIENCE_S)
        raise error
    assert caught.value is error
    assert (error.__cause__, error.__context__, getattr(error, "__notes__", None)) == (cause, context, notes)
    with place.blocking(INC) as engine:
        assert engine.get("order-1").result() == 2


@pytest.mark.parametrize("make", RAISED[:6], ids=lambda make: type(make()).__name__)
async def test_an_error_of_the_callers_async_block_comes_out_unchanged(
    place: Place, make: Callable[[], BaseException]
) -> None:
    """Bad input."""
    error = make()
    cause, context, notes = error.__cause__, error.__context__, getattr(error, "__notes__", None)
    with pytest.raises(type(error)) as caught:  # noqa: PT012 - the block is it
        async with place.engine(INC) as engine:
            await (await engine.start(INC, 1, id="order-1")).result()
            raise error
    assert caught.value is error
    assert (error.__cause__, error.__context__, getattr(error, "__notes__", None)) == (cause, context, notes)


def test_an_error_with_a_context_keeps_it(place: Place) -> None:
    """Bad input."""
    with pytest.raises(CallerError) as caught, place.blocking(INC):  # noqa: PT012 - the block is it
        try:
            {}["first"]
        except KeyError:
            raise CallerError("second")  # noqa: B904 - the case
    assert isinstance(caught.value.__context__, KeyError)
    assert not caught.value.__suppress_context__


async def test_an_error_with_a_context_keeps_it_in_an_async_block(place: Place) -> None:
    """Bad input."""
    with pytest.raises(CallerError) as caught:  # noqa: PT012 - the block is it
        async with place.engine(INC):
            try:
                {}["first"]
            except KeyError:
                raise CallerError("second")  # noqa: B904 - the case
    assert isinstance(caught.value.__context__, KeyError)
    assert not caught.value.__suppress_context__


def test_a_second_worker_of_a_file_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    """Bad input."""
    url = f"sqlite:///{tmp_path}/owned.db"
    with Engine(url, workflows=[INC], worker=True) as first:
        second = Engine(url, workflows=[INC], worker=True)
        with pytest.raises(StoreOwnedError, match=r"owned\.db is owned") as caught, second:
            pytest.fail("it was opened twice")
        assert caught.value.facts["path"] == f"{tmp_path}/owned.db"
        assert first.start(INC, 1).result(PATIENCE_S) == 2


async def test_a_second_async_worker_of_a_file_is_refused(tmp_path: Path) -> None:
    """Bad input."""
    url = f"sqlite:///{tmp_path}/owned.db"
    async with AsyncEngine(url, worker=True):
        with pytest.raises(StoreOwnedError):
            async with AsyncEngine(url, worker=True):
                pytest.fail("it was opened twice")


def test_an_engine_is_opened_once(place: Place) -> None:
    """Bad input."""
    engine = place.blocking(INC)
    with engine:
        engine.start(INC, 1).result(PATIENCE_S)
    with pytest.raises(UsageError), engine:
        pass


async def test_an_async_engine_is_opened_once(place: Place) -> None:
    """Bad input."""
    engine = place.engine(INC)
    async with engine:
        await (await engine.start(INC, 1)).result()
    with pytest.raises(UsageError):
        async with engine:
            pass


def test_a_result_may_be_waited_for_in_pieces(place: Place) -> None:
    """Row 59."""
    may_end = threading.Event()

    def hold(x: int) -> int:
        may_end.wait()
        return x

    flow = Flow("hold").then(hold)
    with place.blocking(flow) as engine:
        handle = engine.start(flow, 1)
        for _ in range(3):
            with pytest.raises(ResultTimeoutError):
                handle.result("10ms")
        may_end.set()
        assert handle.result(PATIENCE_S) == 1
