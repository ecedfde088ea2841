"""Fixtures for pytest, which finds them by itself where Holdfast is installed.

    async def test_an_order_is_shipped(holdfast_engine):
        async with holdfast_engine(workflows=[flow]) as env:
            assert await env.run(flow, order) == "shipped"

Every pytest in such an environment loads this module, whatever it tests. So it stands outside of the package,
and imports that when a fixture is asked for. There are no hooks, and nothing needs an event loop: tests use
`asyncio.run`, pytest-asyncio or anyio as they like.
"""

from functools import partial
from typing import Any

import pytest


@pytest.fixture
def holdfast_clock() -> Any:  # noqa: ANN401 - a VirtualClock, which is not imported before it is needed
    """A `holdfast.testing.VirtualClock`: the time that `holdfast_engine` goes by."""
    from holdfast.testing import VirtualClock  # noqa: PLC0415 - see the module

    return VirtualClock()


@pytest.fixture
def holdfast_engine(holdfast_clock: Any) -> Any:  # noqa: ANN401 - as above
    """A `holdfast.testing.TestEngine`, to be called: all engines of one test go by `holdfast_clock`."""
    from holdfast.testing import TestEngine  # noqa: PLC0415 - see the module

    return partial(TestEngine, clock=holdfast_clock)
