"""A database that an earlier version has written: today's code reads it, and goes on with its runs.

`tests/golden/format1.db` was made by `build` when format 1 was new, and is never made again: a later format
gets a file of its own. Its clock stood still, so that every stamp in it is known.
"""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast import AsyncEngine, AsyncHandle, Flow, Retry, WorkflowError, get_task_context, task
from holdfast.errors import TaskError
from holdfast.runtime.urls import store_at
from holdfast.testing.clock import VirtualClock
from tests.semantics.places import until_status

GOLDEN = Path(__file__).parents[1] / "golden" / "format1.db"
HOUR_MS = 3_600_000


@task
async def validate(order: dict[str, Any]) -> dict[str, Any]:
    if order["amount"] < 0:
        error = WorkflowError("the amount is negative", type="invalid_order", details={"field": "amount"})
        error.add_note("checked against the price list")
        raise error from ValueError("amount")
    return order


@task
async def reserve(order: dict[str, Any]) -> int:
    return int(order["amount"]) * 2


@task(retry=Retry(base_delay="1h", max_retries=3))
async def charge(order: dict[str, Any]) -> str:
    """Fails at the first attempt."""
    context = get_task_context()
    if context is not None and context.attempt == 1 and order["is_busy"]:
        raise ConnectionError("the bank is closed")
    return f"{order['amount']} EUR"


@task
async def bill(parts: dict[str, Any]) -> list[Any]:
    return [parts["reserve"], parts["charge"]]


@task
async def ship(bill: list[Any]) -> str:
    return f"shipped for {bill[1]}"


ORDER = Flow("order").then(validate).fork().branch(reserve).branch(charge).join(bill).then(ship)
INPUTS = {
    "completed": {"amount": 5, "is_busy": False, "note": "é"},
    "failed": {"amount": -1, "is_busy": False},
    "suspended": {"amount": 7, "is_busy": True},
}


def engine_at(path: Path, clock: VirtualClock) -> AsyncEngine:
    return AsyncEngine(store=store_at(f"sqlite:///{path}", worker=True, clock=clock), workflows=[ORDER])


async def build(path: Path) -> None:
    """Make the golden database, as it was made once."""
    clock = VirtualClock()
    async with engine_at(path, clock) as engine:
        for run_id, value in INPUTS.items():
            handle = await engine.start(ORDER, value, id=run_id)
            await until_status(handle, run_id)
            clock.advance(1_000)


async def journal_of(handle: AsyncHandle) -> list[list[Any]]:
    """Position, epoch, stamp in ms and entry of each row, as plain JSON types."""
    rows: list[list[Any]] = []
    for row in await handle.journal():
        entry = msgspec.to_builtins(row.entry, builtin_types=(bytes,))
        rows.append([row.position, row.epoch, round(row.at.timestamp() * 1_000), plain(entry)])
    return rows


def plain(value: Any) -> Any:  # noqa: ANN401 - any part of an entry
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def as_then(now: Any, then: Any) -> Any:  # noqa: ANN401 - any part of an entry
    """What is read now, without the empty fields that entries have got since `then`."""
    if not isinstance(now, list) or not isinstance(then, list) or any(now[len(then) :]):
        return now
    return [as_then(mine, old) for mine, old in zip(now, then, strict=False)]


EXPECTED: dict[str, list[list[Any]]] = json.loads(
    r"""
{
"completed": [
  [1, 0, 1700000000000, ["RunStarted", "order", "9938ca07eed22754", "json.1:{\"amount\":5,\"is_busy\":false,\"note\":\"\u00e9\"}", [["main", "validate", 1, "task", null]]]],
  [2, 1, 1700000000000, ["StepCompleted", "main", "validate", 1, 1, "json.1:{\"amount\":5,\"is_busy\":false,\"note\":\"\u00e9\"}", [["reserve", "reserve", 1, "task", "main"], ["charge", "charge", 1, "task", "main"], ["main-3", "join", 1, "join", "main"]], {}]],
  [3, 1, 1700000000000, ["StepCompleted", "reserve", "reserve", 1, 1, "json.1:10", [], {}]],
  [4, 1, 1700000000000, ["StepCompleted", "charge", "charge", 1, 1, "json.1:\"5 EUR\"", [], {}]],
  [5, 1, 1700000000000, ["BranchJoined", "main-3", "join", 1, ["reserve", "charge"], [["main-3", "bill", 1, "task", null]]]],
  [6, 1, 1700000000000, ["StepCompleted", "main-3", "bill", 1, 1, "json.1:[10,\"5 EUR\"]", [["main-3", "ship", 1, "task", null]], {}]],
  [7, 1, 1700000000000, ["StepCompleted", "main-3", "ship", 1, 1, "json.1:\"shipped for 5 EUR\"", [], {}]],
  [8, 1, 1700000000000, ["RunCompleted", "main-3"]]
],
"failed": [
  [1, 0, 1700000001000, ["RunStarted", "order", "9938ca07eed22754", "json.1:{\"amount\":-1,\"is_busy\":false}", [["main", "validate", 1, "task", null]]]],
  [2, 1, 1700000001000, ["RunFailed", "main", "validate", 1, 1, ["invalid_order", "the amount is negative", ["invalid_order", "WorkflowError"], "Traceback (most recent call last):\n  File \"orders/flow.py\", line 32, in validate\nWorkflowError: the amount is negative\nchecked against the price list\n", "json.1:{\"field\":\"amount\"}", ["checked against the price list"], ["ValueError", "amount", ["ValueError"], "Traceback (most recent call last):\nValueError: amount\n", null, [], null, ""], "validate"]]]
],
"suspended": [
  [1, 0, 1700000002000, ["RunStarted", "order", "9938ca07eed22754", "json.1:{\"amount\":7,\"is_busy\":true}", [["main", "validate", 1, "task", null]]]],
  [2, 1, 1700000002000, ["StepCompleted", "main", "validate", 1, 1, "json.1:{\"amount\":7,\"is_busy\":true}", [["reserve", "reserve", 1, "task", "main"], ["charge", "charge", 1, "task", "main"], ["main-3", "join", 1, "join", "main"]], {}]],
  [3, 1, 1700000002000, ["StepCompleted", "reserve", "reserve", 1, 1, "json.1:14", [], {}]],
  [4, 1, 1700000002000, ["RetryScheduled", "charge", "charge", 1, 2, 3600000, "all", ["ConnectionError", "the bank is closed", ["ConnectionError", "OSError"], "Traceback (most recent call last):\n  File \"orders/flow.py\", line 46, in charge\nConnectionError: the bank is closed\n", null, [], null, "charge"]]]
],
"suspended, continued": [
  [5, 2, 1700003660000, ["StepCompleted", "charge", "charge", 1, 2, "json.1:\"7 EUR\"", [], {}]],
  [6, 2, 1700003660000, ["BranchJoined", "main-3", "join", 1, ["reserve", "charge"], [["main-3", "bill", 1, "task", null]]]],
  [7, 2, 1700003660000, ["StepCompleted", "main-3", "bill", 1, 1, "json.1:[14,\"7 EUR\"]", [["main-3", "ship", 1, "task", null]], {}]],
  [8, 2, 1700003660000, ["StepCompleted", "main-3", "ship", 1, 1, "json.1:\"shipped for 7 EUR\"", [], {}]],
  [9, 2, 1700003660000, ["RunCompleted", "main-3"]]
]
}
"""  # noqa: E501 - one row in one line
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy, which a test may change."""
    shutil.copyfile(GOLDEN, tmp_path / "runs.db")
    return tmp_path / "runs.db"


def later(ms: int) -> VirtualClock:
    """The clock on which the file was made, so much later."""
    clock = VirtualClock()
    clock.advance(ms)
    return clock


def test_every_journal_reads_as_it_was_written(path: Path) -> None:
    async def read() -> dict[str, list[list[Any]]]:
        async with engine_at(path, later(60_000)) as engine:
            return {run_id: await journal_of(await engine.get(run_id)) for run_id in INPUTS}

    for run_id, rows in asyncio.run(read()).items():
        assert as_then(rows, EXPECTED[run_id]) == EXPECTED[run_id]


def test_runs_that_are_over_give_their_outcome(path: Path) -> None:
    async def read() -> None:
        async with engine_at(path, later(60_000)) as engine:
            assert await (await engine.get("completed")).result(5) == "shipped for 5 EUR"
            with pytest.raises(TaskError) as caught:
                await (await engine.get("failed")).result(5)
            failure = caught.value.failure
            assert (failure.type, failure.message, failure.step) == (
                "invalid_order",
                "the amount is negative",
                "validate",
            )
            assert failure.notes == ("checked against the price list",)
            assert failure.cause is not None
            assert failure.cause.type == "ValueError"

    asyncio.run(read())


def test_lists_and_statuses_are_told(path: Path) -> None:
    async def read() -> None:
        async with engine_at(path, later(60_000)) as engine:
            assert [(run.id, run.status) for run in await engine.list()] == [
                ("suspended", "suspended"),
                ("failed", "failed"),
                ("completed", "completed"),
            ]
            status = await (await engine.get("suspended")).status()
            assert [wait.reason for wait in status.waiting] == ["backoff", "join"]
            assert status.branches["charge"].attempt == 2

    asyncio.run(read())


def test_a_run_in_backoff_waits_and_then_goes_on_to_its_end(path: Path) -> None:
    async def drive() -> None:
        clock = later(60_000)
        async with engine_at(path, clock) as engine:
            handle = await engine.get("suspended")
            assert (await handle.status()).status == "suspended"
            clock.advance(HOUR_MS)
            assert await handle.result(10) == "shipped for 7 EUR"
            expected = EXPECTED["suspended"] + EXPECTED["suspended, continued"]
            assert as_then(await journal_of(handle), expected) == expected

    asyncio.run(drive())


def test_new_runs_start_beside_the_old_ones(path: Path) -> None:
    async def drive() -> None:
        async with engine_at(path, later(60_000)) as engine:
            handle = await engine.start(ORDER, INPUTS["completed"], id="new")
            assert await handle.result(5) == "shipped for 5 EUR"
            again = await engine.start(ORDER, INPUTS["completed"], id="completed", on_conflict="use_existing")
            assert await again.result(5) == "shipped for 5 EUR"

    asyncio.run(drive())


async def _print_expected(path: Path) -> None:
    clock = later(60_000)
    async with engine_at(path, clock) as engine:
        journals = {run_id: await journal_of(await engine.get(run_id)) for run_id in INPUTS}
        clock.advance(HOUR_MS)
        handle = await engine.get("suspended")
        await handle.result(10)
        journals["suspended, continued"] = (await journal_of(handle))[len(journals["suspended"]) :]
    for name, rows in journals.items():
        print(f"{json.dumps(name)}: [\n  " + ",\n  ".join(json.dumps(row) for row in rows) + "\n],")  # noqa: T201


if __name__ == "__main__":
    for each in ORDER.build().tasks.values():
        # The file must name no path of the machine it was made on.
        each.fn.__code__ = each.fn.__code__.replace(co_filename="orders/flow.py")
    target = Path(sys.argv[1])
    asyncio.run(build(target))
    shutil.copyfile(target, f"{target}.copy")
    asyncio.run(_print_expected(Path(f"{target}.copy")))
