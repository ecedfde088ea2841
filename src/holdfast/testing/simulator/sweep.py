"""Many schedules, one after the other or in several processes, and what came of them together."""

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import msgspec

from holdfast.testing.simulator.simulate import simulate

PART = 100
"""Schedules of one task of the pool."""
FAILED_MAX = 20
"""After so many red schedules, more of them say nothing new."""


class Swept(msgspec.Struct, frozen=True):
    """What came of some schedules.

    Attributes:
        hits: How often each kind of fault, deed and answer occurred.
        failed: For each red seed, its first problem and how to see it again.
    """

    hits: Counter[str]
    failed: list[str]


def sweep(seeds: range) -> Swept:
    """Simulate each seed."""
    swept = Swept(Counter(), [])
    for seed in seeds:
        report = simulate(seed)
        swept.hits.update(report.hits)
        if report.problems:
            swept.failed.append(
                f"seed {seed}: {report.problems[0]}; see it with `python -m holdfast.testing.simulator {seed}`"
            )
        if len(swept.failed) >= FAILED_MAX:
            break
    return swept


def sweep_side_by_side(seeds: range, *, processes: int) -> Swept:
    """Simulate each seed, in processes of their own."""
    parts = [seeds[at : at + PART] for at in range(0, len(seeds), PART)]
    whole = Swept(Counter(), [])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for swept in pool.map(sweep, parts):
            whole.hits.update(swept.hits)
            whole.failed.extend(swept.failed)
    return whole
