"""A journal that cannot be read blocks its run only; the worker and every list go on."""

import asyncio
from collections.abc import Callable

import pytest

from holdfast import AsyncEngine, Flow, Retry, task
from holdfast.codecs.entries import encode_entry
from holdfast.core.entries import Arrival, RunStarted, StepCompleted
from holdfast.errors import FormatError, RunBlockedError
from holdfast.stores.records import Message
from tests.semantics.places import Place, row, store_of, until, until_status

HOUR_MS = 3_600_000


@task(retry=Retry(base_delay="1h", max_retries=9))
async def busy(x: int) -> int:
    raise ConnectionError(f"busy {x}")


async def work(x: int) -> int:
    return x + 1


BUSY, SOUND = Flow("busy").then(busy), Flow("sound").then(work)
STARTED = RunStarted("busy", BUSY.build().fingerprint, b"json.1:1", (Arrival("main", "busy", 1),))


def with_arrival(*arrivals: Arrival) -> bytes:
    return encode_entry(RunStarted(STARTED.workflow, STARTED.fingerprint, STARTED.input, arrivals))


DAMAGES: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "nothing": (1, lambda _entry: b""),
    "noise": (1, lambda _entry: b"\xff\x00 noise"),
    "cut off": (2, lambda entry: entry[:-3]),
    "one byte more": (2, lambda entry: entry + b"\x00"),
    "unknown entry": (2, lambda entry: entry.replace(b"RetryScheduled", b"RetryPostponed")),
    "newer entry": (1, lambda entry: bytes([entry[0] + 1]) + entry[1:] + b"\x01"),
    "no start": (1, lambda _entry: encode_entry(StepCompleted("main", "busy", 1, 1, b"json.1:1", ()))),
    "unknown branch": (2, lambda entry: entry.replace(b"\xa4main", b"\xa4mine")),
    "unknown step": (1, lambda _entry: with_arrival(Arrival("main", "ghost", 1))),
}


async def suspend(place: Place, *run_ids: str) -> None:
    async with place.engine(BUSY, SOUND) as engine:
        for run_id in run_ids:
            await until_status(await engine.start(BUSY, 1, id=run_id), "suspended")
    place.clock.advance(2 * HOUR_MS)


async def is_blocked(engine: AsyncEngine, run_id: str) -> bool:
    return (await row(engine, run_id)).status == "blocked"


@pytest.mark.parametrize("kind", DAMAGES)
async def test_a_damaged_journal_blocks_its_run_only(place: Place, kind: str) -> None:
    """Invariant 7, and row 49."""
    position, change = DAMAGES[kind]
    await suspend(place, "damaged", "whole")
    place.change_entry("damaged", position, change)
    async with place.engine(BUSY, SOUND) as engine:
        await until(lambda: is_blocked(engine, "damaged"))
        blocked = await row(engine, "damaged")
        assert (blocked.worker, blocked.due_at_ms, blocked.position) == (None, None, 2)
        whole = await engine.get("whole")
        await until(lambda: has_attempt(engine, "whole", 3))
        assert (await whole.status()).status == "suspended"
        assert await (await engine.start(SOUND, 1)).result(5) == 2
        listed = {run.id: run.status for run in await engine.list()}
        assert (listed["damaged"], listed["whole"]) == ("blocked", "suspended")
        assert [run.id for run in await engine.list(status="blocked")] == ["damaged"]


async def has_attempt(engine: AsyncEngine, run_id: str, attempt: int) -> bool:
    main = (await (await engine.get(run_id)).status()).branches.get("main")
    return main is not None and main.attempt == attempt


async def test_a_blocked_run_says_why_to_whoever_waits_for_it(place: Place) -> None:
    """Row 49."""
    await suspend(place, "damaged")
    place.change_entry("damaged", 1, lambda _entry: b"noise")
    async with place.engine(BUSY) as engine:
        handle = await engine.get("damaged")
        with pytest.raises(RunBlockedError, match="entry 1 of run 'damaged'"):
            await handle.result(5)
        status = await handle.status()
        assert status.status == "blocked"
        assert status.failure is not None
        assert "entry 1" in status.failure.message
        with pytest.raises(FormatError, match="entry 1 of run 'damaged'"):
            await handle.journal()


@pytest.mark.embedded
async def test_a_blocked_run_goes_on_when_it_is_repaired_and_resumed(place: Place) -> None:
    """Rows 49 and 51."""
    await suspend(place, "damaged")
    kept: list[bytes] = []

    def breaks(entry: bytes) -> bytes:
        kept[:] = [entry]
        return b"noise"

    place.change_entry("damaged", 1, breaks)
    async with place.engine(BUSY) as engine:
        await until(lambda: is_blocked(engine, "damaged"))
    place.change_entry("damaged", 1, lambda _entry: kept[0])
    async with place.engine(BUSY) as engine, asyncio.TaskGroup() as clients:
        assert await is_blocked(engine, "damaged")
        resuming = clients.create_task(engine.resume("damaged"))
        await until(lambda: has_attempt(engine, "damaged", 3))
        resuming.cancel()


async def test_an_unread_message_does_not_make_a_blocked_run_be_claimed_again_and_again(place: Place) -> None:
    """Row 49."""
    await suspend(place, "damaged")
    place.change_entry("damaged", 1, lambda _entry: b"noise")
    async with place.engine() as engine:
        key = (await row(engine, "damaged")).key
        await store_of(engine).commit([Message(run_key=key, kind="signal", id="m-1", payload=b"json.1:1")])
    async with place.engine(BUSY) as engine:
        await until(lambda: is_blocked(engine, "damaged"))
        epoch = (await row(engine, "damaged")).epoch
        await asyncio.sleep(0.3)  # for polls that must do nothing
        assert (await row(engine, "damaged")).epoch == epoch
