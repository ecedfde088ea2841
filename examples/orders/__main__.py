"""Starts 200 orders, kills their worker in the middle, starts another, and checks what came of it.

`python -m examples.orders [directory]`: the directory gets the databases; the default is a fresh
temporary one.
"""

import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from examples.orders import audit
from examples.orders.control import (
    engine_file,
    engine_url,
    kill,
    start_worker,
    stop,
    wait_for_entries,
    wait_until_over,
    world_file,
)
from examples.orders.flow import orders
from examples.orders.model import Order, read_orders
from examples.orders.world import DONE_BEFORE, Call, World
from holdfast import Engine, JournalEntry
from holdfast.core.entries import RunCompleted, RunFailed

KILL_AT = 0.4
"""Which part of the work is recorded when the worker is killed."""
ENTRIES_PER_ORDER = 7
"""What the journal gets after the start of an order: five steps, the join and the end."""
SHIPPED = "shipped"
OUTCOMES = {
    "InvalidOrderError": "refused as invalid",
    "CardDeclinedError": "failed: the card was declined",
}
PATIENCE_S = 60


def main() -> int:
    """Run the example; 0 if everything is as it must be."""
    directory = make_directory()
    if engine_file(directory).exists():
        print(f"{engine_file(directory)} is there already: name an empty directory", file=sys.stderr)
        return 2
    begun_s = time.monotonic()
    given = read_orders()
    world = World(world_file(directory))
    world.rehearse(given.faults)
    print(f"{len(given.orders)} orders, one worker; steps are recorded in {engine_file(directory)}")
    with Engine(engine_url(directory), workflows=[orders], worker=False) as engine:
        strike = drive_with_a_kill(engine, world, directory, given.orders)
        journals = {order.id: engine.get(order.id).journal() for order in given.orders}
    calls, effects = world.calls(), world.effects()
    world.close()
    problems = audit.find_problems(journals, calls, effects, [strike])
    report(journals, calls, strike, problems)
    print(f"\nall of it took {time.monotonic() - begun_s:.1f} s; to look around:\n")
    print_suggestions(directory, journals)
    return 1 if problems else 0


def make_directory() -> Path:
    """The directory that was named, or a temporary one."""
    if len(sys.argv) > 1:
        directory = Path(sys.argv[1]).resolve()
        directory.mkdir(parents=True, exist_ok=True)
        return directory
    return Path(tempfile.mkdtemp(prefix="holdfast-orders-"))


def drive_with_a_kill(engine: Engine, world: World, directory: Path, wanted: tuple[Order, ...]) -> audit.Strike:
    """Start the orders, kill their worker in the middle, and wait until another has ended them."""
    entries = int(len(wanted) * (1 + KILL_AT * ENTRIES_PER_ORDER))
    worker = start_worker(directory)
    try:
        for order in wanted:
            # The order's id is the run's: an order that is sent twice is still one run.
            engine.start(orders, order, id=order.id, on_conflict="use_existing")
        wait_for_entries(engine, worker, entries, timeout_s=PATIENCE_S)
        strike = kill(worker, engine, world)
        print(f"killed worker {worker.pid} in the middle; starting another on the same file")
        worker = start_worker(directory)
        wait_until_over(engine, worker, timeout_s=PATIENCE_S)
        stop(worker)
    finally:
        worker.kill()
        worker.wait()
    return strike


def report(
    journals: audit.Journals,
    calls: Sequence[Call],
    strike: audit.Strike,
    problems: Sequence[audit.Problem],
) -> None:
    """Print what happened, in plain words."""
    again = audit.repeated(calls)
    rules = Counter(problem.rule for problem in problems)
    facts = {
        "how the orders ended": Counter(map(outcome, journals.values())),
        "what the kill did": {
            "steps were recorded before it": audit.recorded_steps(journals, strike),
            "steps are recorded in the end": audit.recorded_steps(journals),
            "bodies had begun and were not recorded": len(audit.unrecorded(journals, calls, strike)),
            "bodies ran twice for that reason": len(again),
            "of these had done their work before, so the outside did nothing": sum(
                call.outcome == DONE_BEFORE for call in again
            ),
        },
        "what must be 0": {
            "steps that were recorded and ran again": rules["no recorded body runs again"],
            "steps that were recorded and have no effect": rules["no effect is lost"],
            "steps that have two effects": rules["no effect is doubled"],
            "problems of any kind": len(problems),
        },
    }
    for title, counts in facts.items():
        print(f"\n{title}")
        for what, count in counts.items():
            print(f"{count:>6}  {what}")
    for problem in problems:
        print(f"WRONG: {problem}", file=sys.stderr)


def outcome(journal: Sequence[JournalEntry]) -> str:
    """How an order ended, from the last entry of its journal."""
    match journal[-1].entry:
        case RunCompleted():
            return SHIPPED
        case RunFailed(failure=failure):
            return OUTCOMES.get(failure.type, f"failed: {failure.type}")
        case _:
            return "not ended"


def print_suggestions(directory: Path, journals: audit.Journals) -> None:
    """Print commands to look at what is recorded."""
    failed = [run_id for run_id, journal in journals.items() if outcome(journal) != SHIPPED]
    program = "holdfast"
    if shutil.which(program) is None:
        program = str(Path(sys.executable).with_name(program))
    print(f"  export HOLDFAST_URL={engine_url(directory)}")
    print(f"  {program} list --status failed")
    if failed:
        print(f"  {program} show {failed[-1]}")


if __name__ == "__main__":
    raise SystemExit(main())
