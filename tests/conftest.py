"""Runs coroutine tests, each in a loop of its own, and keeps their databases in memory where there is a place.

Tests kill processes and servers, never the machine: what is written outlives that without a disk, which two
thirds of their time were waits for. `TMPDIR` names another place.
"""

import asyncio
import inspect
import os
import tempfile
from pathlib import Path

import pytest

pytest.register_assert_rewrite("holdfast.testing.contract")

IN_MEMORY = Path("/dev/shm")  # noqa: S108 - of Linux, as temporary as /tmp
if "TMPDIR" not in os.environ and os.access(IN_MEMORY, os.W_OK):
    os.environ["TMPDIR"] = tempfile.tempdir = str(IN_MEMORY)  # of child processes, too

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
