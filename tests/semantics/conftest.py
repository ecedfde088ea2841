"""Runs the coroutine tests of this directory, each in a loop of its own, and gives them a place for runs."""

import asyncio
import inspect
from pathlib import Path

import pytest

from tests.semantics.places import PLACES, Place

PATIENCE_S = 20
"""An engine that hangs fails its test."""


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


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)
