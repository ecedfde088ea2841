"""Runs the coroutine tests of this directory, each in a loop of its own, and gives them their store."""

import asyncio
import inspect
from pathlib import Path

import pytest

from tests.contract.stores import STORES, ManualClock, Place

PATIENCE_S = 20
"""A store that hangs fails its test."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}

    async def in_time() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test(**given)

    asyncio.run(in_time())
    return True


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Place:
    return Place(STORES[request.param](tmp_path, clock))
