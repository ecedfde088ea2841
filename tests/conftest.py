"""Runs coroutine tests, each in a loop of its own."""

import asyncio
import inspect

import pytest

pytest.register_assert_rewrite("holdfast.testing.contract")

PATIENCE_S = 20
SLOW_PATIENCE_S = 600
"""An engine or a store that hangs fails its test; one that is marked as slow may take long."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}

    patience_s = PATIENCE_S if pyfuncitem.get_closest_marker("slow") is None else SLOW_PATIENCE_S

    async def in_time() -> None:
        async with asyncio.timeout(patience_s):
            await test(**given)

    asyncio.run(in_time())
    return True
