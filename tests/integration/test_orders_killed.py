"""Kills the worker of the orders example fifty times at random points, and then looks at what is left."""

import contextlib
import random
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest

from examples.orders import audit
from examples.orders.audit import Journals, Rule, Strike
from examples.orders.control import (
    OVER,
    engine_url,
    kill,
    list_runs,
    start_worker,
    stop,
    wait_for_entries,
    wait_until_over,
    world_file,
)
from examples.orders.flow import orders, problem_of
from examples.orders.model import Order, OrdersFile, read_orders
from examples.orders.world import Call, Effect, World
from holdfast import Engine
from holdfast.core.entries import RetryScheduled, RunFailed

SEED = 1906
KILLS = 50
EARLY_KILLS = 12
"""Kills while the worker starts: before its interpreter has begun, while it imports, opens, claims."""
STARTING_S = 0.5
"""What a worker takes to start, roughly."""
COPIES = 4
"""Of the 200 orders: more work than 50 workers that are all killed can do."""
ENTRIES_MAX = 120
"""Most entries that a worker may record before it is killed; the 800 orders make about 6,000."""
PACE = 2.0
PATIENCE_S = 60


@dataclass(frozen=True)
class Aftermath:
    """What is left when every order has ended.

    Attributes:
        open_runs: How many runs had not ended at each strike.
    """

    given: OrdersFile
    acknowledged: Sequence[str]
    strikes: Sequence[Strike]
    open_runs: Sequence[int]
    journals: Journals
    calls: Sequence[Call]
    effects: Sequence[Effect]


def copied(given: OrdersFile, copies: int) -> OrdersFile:
    """The same orders again and again, each time with other ids and the same faults."""
    numbers = range(1, copies + 1)
    return OrdersFile(
        orders=tuple(replace(order, id=f"{order.id}-{n}") for n in numbers for order in given.orders),
        faults={f"{order_id}-{n}": fault for n in numbers for order_id, fault in given.faults.items()},
    )


def dealt(orders_given: Sequence[Order], parts: int) -> Iterator[Sequence[Order]]:
    """Half of the orders, then the other half in equal parts."""
    half = len(orders_given) // 2
    yield orders_given[:half]
    rest = orders_given[half:]
    for part in range(1, parts):
        yield rest[(part - 1) * len(rest) // (parts - 1) : part * len(rest) // (parts - 1)]


def start_all(engine: Engine, wanted: Sequence[Order]) -> list[str]:
    return [engine.start(orders, order, id=order.id).id for order in wanted]


def let_live(engine: Engine, worker: subprocess.Popen[bytes], chance: random.Random, *, early: bool) -> None:
    """Return at a random point in the life of a worker: while it starts, or after some progress."""
    if not early:
        recorded = sum(run.position for run in list_runs(engine))
        wait_for_entries(engine, worker, recorded + chance.randint(1, ENTRIES_MAX), timeout_s=PATIENCE_S)
        return
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(chance.uniform(0, STARTING_S))


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    directory: Path = tmp_path_factory.mktemp("orders")
    chance = random.Random(SEED)
    print(f"seed {SEED}")  # noqa: T201 - pytest shows it where something fails
    given = copied(read_orders(), COPIES)
    early = chance.sample(range(KILLS), EARLY_KILLS)
    acknowledged: list[str] = []
    strikes: list[Strike] = []
    open_runs: list[int] = []
    world = World(world_file(directory))
    world.rehearse(given.faults)
    with (
        Engine(engine_url(directory), workflows=[orders], worker=False) as engine,
        ThreadPoolExecutor(1) as client,
    ):
        for life, batch in enumerate(dealt(given.orders, KILLS)):
            worker = start_worker(directory, pace=PACE)
            try:
                # Orders come in whatever happens to the worker.
                starting = client.submit(start_all, engine, batch)
                let_live(engine, worker, chance, early=life in early)
                strikes.append(kill(worker, engine, world))
            finally:
                worker.kill()
                worker.wait()
            acknowledged += starting.result()
            open_runs.append(sum(run.status not in OVER for run in list_runs(engine)))
        worker = start_worker(directory, pace=PACE / 4)
        try:
            # What never ends is found by its rule, with everything else that went wrong.
            with contextlib.suppress(TimeoutError):
                wait_until_over(engine, worker, timeout_s=PATIENCE_S)
            stop(worker)
        finally:
            worker.kill()
            worker.wait()
        journals = {run.id: engine.get(run.id).journal() for run in list_runs(engine)}
    calls, effects = world.calls(), world.effects()
    world.close()
    return Aftermath(given, acknowledged, strikes, open_runs, journals, calls, effects)


def test_the_worker_is_killed_fifty_times_while_work_is_left(aftermath: Aftermath) -> None:
    assert len({strike.process_id for strike in aftermath.strikes}) == KILLS
    assert min(aftermath.open_runs) > 0


def test_kills_strike_bodies_in_the_middle(aftermath: Aftermath) -> None:
    assert len(audit.repeated(aftermath.calls)) > KILLS
    assert any(call.outcome is None for call in aftermath.calls)


def test_every_acknowledged_order_is_there_and_no_other(aftermath: Aftermath) -> None:
    assert Counter(aftermath.acknowledged) == Counter(order.id for order in aftermath.given.orders)
    assert aftermath.journals.keys() == set(aftermath.acknowledged)


@pytest.mark.parametrize("rule", get_args(Rule))
def test_after_fifty_kills(aftermath: Aftermath, rule: Rule) -> None:
    problems = audit.find_problems(aftermath.journals, aftermath.calls, aftermath.effects, aftermath.strikes)
    assert [str(problem) for problem in problems if problem.rule == rule] == []


def test_every_order_ends_as_if_nothing_had_been_killed(aftermath: Aftermath) -> None:
    ends: dict[str, str] = {}
    for run_id, journal in aftermath.journals.items():
        last = journal[-1].entry
        ends[run_id] = last.failure.type if isinstance(last, RunFailed) else type(last).__name__
    assert ends == {order.id: expected_end(aftermath.given, order) for order in aftermath.given.orders}


def expected_end(given: OrdersFile, order: Order) -> str:
    if problem_of(order) is not None:
        return "InvalidOrderError"
    fault = given.faults.get(order.id)
    return "CardDeclinedError" if fault is not None and fault.kind == "declined" else "RunCompleted"


def test_a_killed_attempt_costs_no_retry(aftermath: Aftermath) -> None:
    retries = {
        run_id: sum(isinstance(row.entry, RetryScheduled) for row in journal)
        for run_id, journal in aftermath.journals.items()
    }
    faults = aftermath.given.faults
    assert retries == {
        run_id: faults[run_id].times if run_id in faults and faults[run_id].kind != "declined" else 0
        for run_id in retries
    }
