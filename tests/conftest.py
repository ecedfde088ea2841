"""Runs coroutine tests, each in a loop of its own."""

import asyncio
import inspect

import pytest

PATIENCE_S = 20
"""An engine or a store that hangs fails its test."""


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
