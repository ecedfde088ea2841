"""Asking a store that does not answer until it does: its trouble is no error of whoever asks."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from holdfast.errors import StoreUnavailableError
from holdfast.runtime.limits import UNAVAILABLE_WAIT_MS

LOGGER = logging.getLogger("holdfast.store")
T = TypeVar("T")


async def until_answered(ask: Callable[[], Awaitable[T]], *, what: str) -> T:
    """Ask again, once a second, until there is an answer; `what` is being done, for the log."""
    while True:
        try:
            return await ask()
        except StoreUnavailableError as error:
            LOGGER.warning("%s: %s", what, error)
            await asyncio.sleep(UNAVAILABLE_WAIT_MS / 1_000)
