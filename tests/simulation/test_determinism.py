"""The same seed gives the same schedule, in any process."""

import os
import subprocess
import sys

from holdfast.testing.simulator.simulate import simulate

SEEDS = range(12)
PROGRAM = (
    "from holdfast.testing.simulator.simulate import simulate\n"
    "print(*[simulate(seed).hash for seed in range(12)], sep='\\n')"
)


def hashes_elsewhere(hash_seed: str) -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.split()


def test_the_same_seed_gives_the_same_trace() -> None:
    assert [simulate(seed).hash for seed in SEEDS] == [simulate(seed).hash for seed in SEEDS]


def test_the_trace_is_the_same_in_processes_with_different_hash_seeds() -> None:
    here = [simulate(seed).hash for seed in SEEDS]
    assert hashes_elsewhere("1") == here
    assert hashes_elsewhere("2") == here


def test_other_seeds_give_other_traces() -> None:
    assert len({simulate(seed).hash for seed in SEEDS}) == len(SEEDS)


def test_a_schedule_can_be_replayed_with_its_trace() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.testing.simulator", "3"], check=False, capture_output=True, text=True
    )
    report = simulate(3)
    assert done.returncode == bool(report.problems)
    assert report.hash in done.stdout
    assert report.trace[0] in done.stdout
