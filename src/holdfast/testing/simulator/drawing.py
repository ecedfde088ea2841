"""Random programs and deeds."""

import random  # noqa: TID251 - the seeded generator of a simulation
from collections.abc import Sequence

from holdfast.testing.simulator.deeds import BLOCKS_S, DEEDS, SLOW_S, Deed
from holdfast.testing.simulator.drawing_functions import NAPS_MS, SIGNALS, TIMEOUTS_MS, FunctionDraft
from holdfast.testing.simulator.ports import EPOCH_MS, BodyError
from holdfast.testing.simulator.programs import Fork, Halt, Leaf, Loop, Nap, Part, Program, Wait
from holdfast.testing.simulator.steps import Body, Step

STEPS_MAX = 9
KINDS = {"step": 52, "nap": 14, "wait": 18, "halt": 5, "loop": 6}
"""How often parts are what."""
FUNCTION_SHARE = 0.4
"""Of the parts of a graph, where there are functions."""
FUNCTIONS = 0.4
"""Of the seeds: in so many there are functions."""
RUN_TIMEOUTS_S = (1.0, 8.0, 30.0, 120.0)


class _Draft:
    """Parts under distinct names; with functions among them, which may start `others`, or without."""

    def __init__(self, name: str, chance: random.Random, others: Sequence[str] | None = None) -> None:
        self._name = name
        self._chance = chance
        self.count = 0
        self.functions = (
            None if others is None else FunctionDraft(chance, self.name, self.function_step, others)
        )

    def name(self) -> str:
        self.count += 1
        return f"{self._name}_{self.count}"

    def step(self) -> Step:
        chance = self._chance
        return Step(
            self.name(),
            is_async=chance.random() < 0.7,  # noqa: PLR2004 - most bodies are
            timeout_s=chance.choice([None, None, 0.5, 2.0, 20.0]),
            retries=chance.choice([0, 1, 2, 3]),
            delay_s=chance.choice([0.05, 0.5, 2.0, 6.0]),
        )

    def function_step(self) -> Step:
        """As others, with shorter waits: functions have many."""
        chance = self._chance
        return Step(
            self.name(),
            is_async=chance.random() < 0.7,  # noqa: PLR2004 - most bodies are
            timeout_s=chance.choice([None, None, 0.5, 5.0]),
            retries=chance.choice([0, 1, 2]),
            delay_s=chance.choice([0.05, 0.5, 3.0]),
        )

    def leaf(self) -> Leaf:
        chance = self._chance
        if self.functions is not None and chance.random() < FUNCTION_SHARE:
            return self.functions.durable(self.name(), is_whole=False)
        (kind,) = chance.choices(list(KINDS), list(KINDS.values()))
        match kind:
            case "nap":
                return self._nap()
            case "wait":
                instead = self.step() if chance.random() < 0.6 else None  # noqa: PLR2004 - enough of both
                timeout_ms = None if chance.random() < 0.4 else chance.choice(TIMEOUTS_MS)  # noqa: PLR2004 - as above
                instead = None if timeout_ms is None else instead
                return Wait(self.name(), chance.choice(SIGNALS), timeout_ms, instead)
            case "halt":
                return Halt(self.name())
            case "loop":
                wait = Wait(self.name(), chance.choice(SIGNALS), chance.choice(TIMEOUTS_MS[2:]), self.step())
                return Loop(wait, self.step())
            case _:
                return self.step()

    def _nap(self) -> Nap:
        chance = self._chance
        if chance.random() < 0.7:  # noqa: PLR2004 - most are
            return Nap(self.name(), int(chance.choice(NAPS_MS) * chance.uniform(0.5, 1)), None)
        return Nap(self.name(), None, EPOCH_MS + int(chance.uniform(0, 120_000)))

    def fork(self) -> Fork:
        chance = self._chance
        branches: list[tuple[Leaf, ...]] = []
        for _ in range(chance.randint(2, 3)):
            leaves = [self.leaf() for _ in range(chance.randint(1, 2))]
            branches.append((*leaves, *self.ending(leaves[-1])))
        return Fork(self.name(), tuple(branches), self.step())

    def ending(self, last: Part) -> list[Step]:
        """What must come at the end: a pause leads somewhere."""
        return [self.step()] if isinstance(last, Halt) else []


def draw_program(name: str, chance: random.Random, body: Body) -> Program:
    """A program of one to about a dozen steps."""
    parts: list[Part] = []
    draft = _Draft(name, chance)
    for _ in range(chance.randint(1, 4)):
        if draft.count >= STEPS_MAX:
            break
        is_fork = chance.random() < 0.35 and draft.count < 4  # noqa: PLR2004 - small programs
        parts.append(draft.fork() if is_fork else draft.leaf())
    parts += draft.ending(parts[-1])
    return Program(
        name,
        tuple(parts),
        body,
        timeout_s=chance.choice(RUN_TIMEOUTS_S) if chance.random() < 0.15 else None,  # noqa: PLR2004 - some
        kept_s=chance.uniform(1, 60) if chance.random() < 0.1 else None,  # noqa: PLR2004 - few
    )


def draw_programs(seed: int, chance: random.Random, body: Body, *, functions: bool | None) -> list[Program]:
    """The programs of a simulation, those that people start first, and how many they are.

    Seeds without functions draw from `chance` what they drew before there were any.

    Args:
        seed: Says whether there are functions, unless `functions` does.
        chance: For everything else.
        body: Of all steps.
        functions: Whether there are functions.
    """
    drawn = random.Random(f"functions {seed}").random() < FUNCTIONS  # noqa: S311 - no secret
    if not (drawn if functions is None else functions):
        return [draw_program(f"p{n}", chance, body) for n in range(chance.randint(1, 2))]
    deepest = [_draw_function("c0", chance, body, (), whole=0.5)]
    deep = [_draw_function(f"b{n}", chance, body, deepest, whole=0.7) for n in range(chance.randint(1, 2))]
    mine = [
        _draw_function(f"p{n}", chance, body, [*deep, *deepest], whole=0.6) for n in range(chance.randint(1, 2))
    ]
    return [*mine, *deep, *deepest]


def _draw_function(
    name: str, chance: random.Random, body: Body, others: Sequence[Program], *, whole: float
) -> Program:
    """A program with functions: one, or a graph that may have some."""
    draft = _Draft(name, chance, [other.name for other in others])
    parts: tuple[Part, ...]
    if draft.functions is not None and chance.random() < whole:
        parts = (draft.functions.durable(name, is_whole=True),)
    else:
        leaves = [draft.leaf() for _ in range(chance.randint(1, 2))]
        is_fork = chance.random() < 0.25  # noqa: PLR2004 - small programs
        parts = (draft.fork(),) if is_fork else (*leaves, *draft.ending(leaves[-1]))
    return Program(
        name,
        parts,
        body,
        timeout_s=chance.choice(RUN_TIMEOUTS_S) if chance.random() < 0.1 else None,  # noqa: PLR2004 - some
        kept_s=chance.uniform(1, 60) if chance.random() < 0.1 else None,  # noqa: PLR2004 - few
        others=others,
    )


def draw_deed(step: Step, chance: random.Random) -> Deed:
    """What an attempt of a step does; `kills` and `blocks` only where the simulation lets it."""
    kinds, weights = zip(*DEEDS.items(), strict=True)
    (kind,) = chance.choices(kinds, weights)
    if step.timeout_s is None and kind in {"overruns", "hangs", "defies"}:
        kind = "returns"
    if not step.is_async and kind in {"hangs", "defies"}:
        kind = "overruns"
    match kind:
        case "slow":
            return Deed("returns", chance.random() * min(SLOW_S, (step.timeout_s or SLOW_S) * 0.9))
        case "blocks":
            return Deed(kind, chance.choice(BLOCKS_S))
        case "overruns":
            return Deed(kind, (step.timeout_s or 0.0) + 0.1 + chance.random() * 5)
        case _:
            return Deed(kind, chance.random() * 0.1)


def failure_types(step: Step, deed: Deed) -> set[str]:
    """What may be recorded as the failure of an attempt."""
    types: set[str] = set() if step.timeout_s is None else {"timeout"}
    if deed.kind == "raises":
        types.add(BodyError.__name__)
    if deed.kind == "unencodable":
        types.add("CodecError")
    return types
