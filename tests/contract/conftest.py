"""Gives the tests of this directory their store."""

from pathlib import Path

import pytest

from tests.contract.stores import STORES, ManualClock, Place


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=STORES)
def place(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Place:
    return Place(STORES[request.param](tmp_path, clock))
