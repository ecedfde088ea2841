"""The base of all classes of the contract: its two fixtures, and a loop for each coroutine test."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import ParamSpec

import pytest

from holdfast.ports import Clock
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import Place, Stores

P = ParamSpec("P")

PATIENCE_S = 20
"""A store that hangs fails its test."""


class Tests:
    """A class of tests over one store, which a subclass names with `stores`."""

    def __init_subclass__(cls) -> None:
        """Make the coroutine tests of the class plain ones, so that nobody needs a plugin."""
        super().__init_subclass__()
        for name, test in list(vars(cls).items()):
            if name.startswith("test_") and inspect.iscoroutinefunction(test):
                setattr(cls, name, in_a_loop(test))

    def stores(self, directory: Path, clock: Clock) -> Stores:
        """What makes the store of one test, anew for each opening.

        Args:
            directory: Empty, of this test alone.
            clock: The machine's clock, as the test moves it.
        """
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> VirtualClock:
        """The clock that this test moves."""
        return VirtualClock()

    @pytest.fixture
    def place(self, tmp_path: Path, clock: VirtualClock) -> Place:
        """The place of this test."""
        return Place(self.stores(tmp_path, clock), clock)


def in_a_loop(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """The test as a function that returns when it has ended."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def in_time() -> None:
            async with asyncio.timeout(PATIENCE_S):
                await test(*args, **kwargs)

        asyncio.run(in_time())

    return run
