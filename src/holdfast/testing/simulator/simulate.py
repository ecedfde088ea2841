"""`simulate`: one schedule of the whole engine from a seed. Faults for a while, then none, and all must end."""

import logging
import random  # noqa: TID251 - the seeded generator of a simulation
from collections import Counter
from collections.abc import Sequence

import msgspec

from holdfast.runtime.context import TaskContext
from holdfast.stores.records import LeaseTimes
from holdfast.testing.simulator.answers import Answers
from holdfast.testing.simulator.callers import Order, Orderer
from holdfast.testing.simulator.checks import Checks
from holdfast.testing.simulator.database import Database
from holdfast.testing.simulator.deeds import Deed
from holdfast.testing.simulator.drawing import draw_deed, draw_programs
from holdfast.testing.simulator.endings import Endings
from holdfast.testing.simulator.errands import Errander, draw_errands, late_cancel
from holdfast.testing.simulator.ports import SimulatedClock, SimulatedIds
from holdfast.testing.simulator.processes import Bodies, Shared, Slot
from holdfast.testing.simulator.steps import Step
from holdfast.testing.simulator.world import CHAOS, STALL_MS, Faults, World

LOGGER = logging.getLogger("holdfast")
CALLS_MAX = 400_000
"""Callbacks of one schedule: more of them go round in circles."""
HEALING_S = 30 + 5 + 30
"""After the last fault: a lease, a poll and 30 s (invariant 32)."""
LATE_S = 300
"""How long people go on with their errands, and sleeps last that end at a moment."""
OVERDUE_S = 5 + 1
"""A poll and 1 s (invariant 25)."""
LOOKS_S = 1
"""Between looks for what is overdue, where nothing may be overdue at any time."""
CLOCK_JUMP_MS = 86_400_000
"""How far a wall clock is set, at most."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one schedule.

    Attributes:
        problems: Invariants that were broken; none is the only right answer.
        hits: How often each kind of fault, deed and answer occurred.
        trace: What happened, a line each, with virtual seconds.
        hash: Of the trace; equal for equal seeds in any process.
        runs, seconds, calls: How many runs there were, how long it took in virtual time, and callbacks.
    """

    seed: int
    problems: tuple[str, ...]
    hits: Counter[str]
    trace: Sequence[str]
    hash: str
    runs: int
    seconds: float
    calls: int


def simulate(seed: int, *, faults: Faults | None = None, functions: bool | None = None) -> Report:
    """Run one schedule.

    Deterministic: the same seed, faults and code give the same report.

    Args:
        seed: Gives programs, processes, callers, order of callbacks and faults.
        faults: Instead of those that the seed gives.
        functions: Whether programs have durable functions, instead of what the seed says.
    """
    simulation = _Simulation(World(seed, faults), functions)
    level = LOGGER.level
    LOGGER.setLevel(logging.CRITICAL)  # the trace says more
    try:
        simulation.run()
    except BaseException as error:
        error.add_note(f"in the simulation with seed {seed}")
        raise
    finally:
        simulation.close()
        LOGGER.setLevel(level)
    world = simulation.world
    return Report(
        seed=seed,
        problems=tuple(world.problems + world.loop.problems),
        hits=world.hits,
        trace=world.trace,
        hash=world.hash(),
        runs=len(simulation.database.rows),
        seconds=world.now_s,
        calls=world.loop.calls,
    )


class _Deeds:
    """What each attempt does, and how often what kills may kill."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._times: Counter[tuple[str, int, int]] = Counter()
        self._drawn: dict[tuple[str, int, int], Deed] = {}
        self.poisoned: str | None = None

    def of(self, step: Step, context: TaskContext, life: int) -> Deed:
        kinds = self._world.faults.kinds
        key = (context.idempotency_key, context.attempt, life)
        self._times[key] += 1
        if context.run_id == self.poisoned:
            self._world.hit("poison", context.run_id)
            return Deed("kills", 0.01)
        if key not in self._drawn:
            named = key if life > 1 else key[:2]
            chance = random.Random(f"{self._world.seed} {named}")  # noqa: S311 - no secret
            self._drawn[key] = draw_deed(step, chance)
        deed = self._drawn[key]
        fault = {"kills": "body_kills", "blocks": "body_blocks"}.get(deed.kind)
        if fault is None:
            return deed
        if fault not in kinds or self._world.is_healed or self._times[key] > 1:
            return Deed("returns", 0.01)
        self._world.hit(fault, key[0])
        return Deed(deed.kind, min(deed.seconds, self._world.faults.until_s - self._world.now_s))


class _Simulation:
    """The parts of one schedule."""

    def __init__(self, world: World, functions: bool | None) -> None:  # noqa: FBT001 - as of `simulate`
        self.world = world
        chance = world.chance
        lease = LeaseTimes()
        self.database = Database(SimulatedClock(world), lease)
        self._checks = Checks(world, self.database, lease)
        self._endings = Endings(world, self.database, self._checks)
        deeds = _Deeds(world)
        bodies = Bodies(world, deeds)
        bodies.checks = self._checks
        programs = draw_programs(world.seed, chance, bodies, functions=functions)
        self._programs = [program for program in programs if program.name.startswith("p")]
        self._checks.programs = {program.name: program for program in programs}
        self._callers = self._draw_callers()
        self._busy = self._callers
        if "poison" in world.faults.kinds:
            deeds.poisoned = "run-0"
        shared = Shared(world, self.database, self._checks, SimulatedIds(), programs)
        self._workers = [
            Slot(shared, f"worker{n}", self._callers[n::5], is_worker=True) for n in range(chance.randint(1, 3))
        ]
        self._clients = [Slot(shared, f"client{n}", self._callers[n::5], is_worker=False) for n in (3, 4)]
        for n in range(len(self._workers), 3):
            self._clients.append(Slot(shared, f"client{n}", self._callers[n::5], is_worker=False))

    def _draw_callers(self) -> list[Orderer | Errander]:
        world, answers = self.world, Answers(self.world, self._checks)
        orders = self._orders()
        errands = draw_errands(world.chance, orders, world.faults.until_s)
        if "poison" in world.faults.kinds:
            errands.append(late_cancel(orders[0], world.faults.until_s + world.chance.uniform(100, 300)))
        self._signals = sum(errand.kind == "signal" for errand in errands)
        callers: list[Orderer | Errander] = [Orderer(world, answers, order) for order in orders]
        callers += [Errander(world, answers, errand) for errand in errands]
        world.chance.shuffle(callers)
        return callers

    def _orders(self) -> list[Order]:
        chance, orders = self.world.chance, list[Order]()
        for n in range(chance.randint(1, 6)):
            program, value = chance.choice(self._programs), chance.randint(10_000_000, 99_999_999)
            copies = 1 if chance.random() < 0.6 else 2  # noqa: PLR2004 - enough of both
            for copy in range(copies):
                is_other = copy > 0 and chance.random() < 0.3  # noqa: PLR2004 - as above
                orders.append(
                    Order(
                        at_s=chance.random() * max(self.world.faults.until_s * 0.7, 3),
                        program=program,
                        id=f"run-{n}",
                        input=value + is_other,
                        on_conflict=chance.choice(["fail", "use_existing"]),
                        waits_s=chance.choice([0.5, 2.0, 2.0, 15.0]),
                        resumes=chance.random() < 0.15,  # noqa: PLR2004 - as above
                    )
                )
        return orders

    def run(self) -> None:
        """All phases."""
        world = self.world
        self._plan_chaos()
        healed_s = world.faults.until_s
        worst_s = sum(program.worst_s(self._signals) for program in self._programs) * 3 + LATE_S
        worst_s += 5 * HEALING_S if "poison" in world.faults.kinds else 0

        def is_late() -> bool:
            return world.now_s > healed_s + HEALING_S + worst_s

        self._looks_s = LOOKS_S if world.faults.is_prompt else OVERDUE_S
        first_s = OVERDUE_S if world.faults.is_prompt else healed_s + HEALING_S
        world.loop.post(world.loop.outside, first_s, self._check_overdue)
        is_over = world.loop.run(
            lambda: bool(world.problems) or (world.loop.time() >= healed_s and (self._is_over() or is_late())),
            calls_max=CALLS_MAX,
        )
        if not is_over:
            world.problem(f"no end after {world.loop.calls} callbacks")
        elif not world.problems and not self._is_over():
            for text in self._endings.unfinished() or ["a caller waits for ever"]:
                world.problem(f"not over {world.now_s - healed_s:.0f} s after the last fault: {text}")
        elif not world.problems:
            for text in self._endings.explained():
                world.problem(text)
            if world.faults.is_calm:
                self._endings.calm(len(self._workers))

    def _is_over(self) -> bool:
        self._busy = [caller for caller in self._busy if not caller.is_done]
        return self.world.is_healed and not self._busy and not self._endings.unfinished()

    def _check_overdue(self) -> None:
        world = self.world
        processes = [slot.process for slot in self._workers]
        settled = [each for each in processes if each.is_alive and world.now_s - each.since_s > OVERDUE_S]
        for text in self._endings.overdue(OVERDUE_S, settled):
            world.problem(text)
        if not self._is_over():
            world.loop.post(world.loop.outside, self._looks_s, self._check_overdue)

    def _plan_chaos(self) -> None:
        world = self.world
        kinds = [kind for kind in CHAOS if kind in world.faults.kinds]
        wait_s = world.chance.expovariate(1 / world.faults.chaos_s)
        if kinds and world.now_s + wait_s < world.faults.until_s:
            world.loop.post(world.loop.outside, wait_s, lambda: self._strike(world.chance.choice(kinds)))

    def _strike(self, kind: str) -> None:
        world = self.world
        process = world.chance.choice(self._workers + self._clients).process
        world.hit(kind, process.name)
        match kind:
            case "kill":
                process.kill()
            case "stop":
                process.stop()
            case "freeze":
                process.freeze(world.span_s(500, STALL_MS[1]))
            case "jump":
                process.clock.skew_ms += int(world.chance.uniform(-CLOCK_JUMP_MS, CLOCK_JUMP_MS))
            case _:
                world.down_until_s = world.now_s + world.span_s(*STALL_MS)
        self._plan_chaos()

    def close(self) -> None:
        """End everything, so that nothing is left for the collector of garbage to complain about."""
        loop = self.world.loop
        for slot in self._workers + self._clients:
            loop.urge(slot.close)
        loop.urge(lambda: loop.bury(loop.outside))
        loop.run_urgent()
        loop.close()
