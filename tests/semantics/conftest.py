"""Gives the tests of this directory a place for runs."""

from pathlib import Path

import pytest

from tests.semantics.places import PLACES, Place


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.param, tmp_path)
