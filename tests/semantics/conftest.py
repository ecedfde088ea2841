"""Gives the tests of this directory a place for runs."""

from pathlib import Path

import pytest

from tests.semantics.places import BY_A_WORKER, PLACES, Place


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param.endswith(BY_A_WORKER) and request.node.get_closest_marker("embedded") is not None:
        pytest.skip("about the process that drives")
    return Place(request.param, tmp_path)
