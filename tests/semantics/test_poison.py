"""What becomes of a run that kills its workers (row 54)."""

import pytest

from holdfast import AsyncEngine, Flow
from holdfast.codecs import json as codec
from holdfast.errors import RunBlockedError
from holdfast.runtime.starts import Start
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import QUARANTINE_AT, LeaseTimes
from holdfast.testing.contract.place import VirtualClock
from tests.semantics.places import PATIENCE_S


async def body(x: int) -> int:
    return x + 1


FLOW = Flow("order").then(body)


async def killed_its_workers(times: int) -> MemoryStore:
    """A store with a run that so many workers have taken and died of."""
    clock, lease = VirtualClock(), LeaseTimes()
    store = MemoryStore(clock, lease=lease)
    await store.commit([Start("poison", FLOW.build(durable=True), codec.encode(1)).new_run(None)])
    for number in range(times):
        await store.register(f"dies-{number}")
        assert await store.claim_one(f"dies-{number}", "poison") is not None
        clock.advance(lease.lease_ms)
        assert await store.reap() == 1
    return store


async def test_a_run_that_killed_four_workers_is_driven_by_the_fifth() -> None:
    async with AsyncEngine(store=await killed_its_workers(QUARANTINE_AT - 1), workflows=[FLOW]) as engine:
        handle = await engine.get("poison")
        assert await handle.result(PATIENCE_S) == 2
        assert (await handle.status()).recoveries == 0


async def test_a_run_that_killed_five_workers_is_set_aside_and_says_so() -> None:
    async with AsyncEngine(store=await killed_its_workers(QUARANTINE_AT), workflows=[FLOW]) as engine:
        handle = await engine.get("poison")
        status = await handle.status()
        assert (status.status, status.recoveries, status.worker) == ("blocked", QUARANTINE_AT, None)
        with pytest.raises(RunBlockedError, match="quarantined: its workers died 5 times"):
            await handle.result(PATIENCE_S)
        assert status.failure is not None
        assert "quarantined" in status.failure.message


async def test_a_run_that_was_set_aside_goes_on_when_someone_resumes_it() -> None:
    async with AsyncEngine(store=await killed_its_workers(QUARANTINE_AT), workflows=[FLOW]) as engine:
        assert await engine.resume("poison") == 2
