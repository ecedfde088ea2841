"""The simulator is worth something: it finds each of these bugs, and none where none is planted."""

import asyncio

import pytest

from holdfast.testing.simulator.simulate import simulate
from holdfast.testing.simulator.world import Faults
from tests.simulation import planted, planted_functions, planted_waiting
from tests.simulation.planted import Plant

SEEDS_MAX = 1_000
PLAIN = planted.PLANTS + planted_waiting.PLANTS
PLANTS = PLAIN + planted_functions.PLANTS
FOCUS = {**planted.FOCUS, **planted_waiting.FOCUS, **planted_functions.FOCUS}


def is_red(seed: int, faults: Faults | None, *, functions: bool | None = None) -> bool:
    try:
        return bool(simulate(seed, faults=faults, functions=functions).problems)
    except (AssertionError, LookupError, ValueError, asyncio.InvalidStateError):
        return True


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    functions = plant not in PLAIN
    assert any(is_red(seed, FOCUS.get(plant), functions=functions) for seed in range(SEEDS_MAX))


@pytest.mark.parametrize("faults", list(dict.fromkeys([None, *FOCUS.values()])))
def test_without_a_bug_the_same_seeds_are_green(faults: Faults | None) -> None:
    assert [seed for seed in range(100) if is_red(seed, faults)] == []
