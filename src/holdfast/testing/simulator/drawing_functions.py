"""Random durable functions, and the programs that they start."""

import random  # noqa: TID251 - the seeded generator of a simulation
from collections.abc import Callable, Sequence

from holdfast.testing.simulator.functions import (
    Ask,
    Await,
    Beside,
    Do,
    Durable,
    Each,
    Keep,
    Note,
    Noted,
    Recall,
    Report,
    Sleep,
    Start,
    Stumble,
)
from holdfast.testing.simulator.ports import EPOCH_MS
from holdfast.testing.simulator.steps import Step

SIGNALS = ("a", "b")
"""Few names, so that several branches wait for the same."""
NAPS_MS = (0, 1, 300, 1_500, 8_000, 30_000, 150_000)
TIMEOUTS_MS = (0, 400, 2_500, 12_000, 45_000, 120_000)
ASKS = {
    "do": 40,
    "sleep": 9,
    "await": 10,
    "start": 14,
    "note": 12,
    "keep": 4,
    "recall": 4,
    "report": 2,
    "stumble": 3,
    "beside": 18,
    "each": 7,
}
"""How often functions ask for what."""
NOTES: tuple[Noted, ...] = ("now", "random", "uuid", "record", "patch")
ASKS_MAX = 12
PARALLEL_DEPTH_MAX = 2


class FunctionDraft:
    """Asks under distinct names."""

    def __init__(
        self, chance: random.Random, name: Callable[[], str], step: Callable[[], Step], programs: Sequence[str]
    ) -> None:
        """Args: the chances, what gives names and steps, and what may be started."""
        self._chance = chance
        self._name = name
        self._step = step
        self._programs = programs
        self._count = 0

    def durable(self, name: str, *, is_whole: bool) -> Durable:
        """A function; one that is a whole program may begin anew."""
        chance = self._chance
        self._count = 0
        asks = tuple([self._ask(0) for _ in range(chance.randint(1, 4))])
        return Durable(
            name,
            asks,
            retries=chance.choice([0, 0, 1, 2]),
            delay_s=chance.choice([0.05, 0.5, 3.0]),
            anew=chance.choice([1, 2]) if is_whole and chance.random() < 0.15 else 0,  # noqa: PLR2004 - few
        )

    def _ask(self, depth: int) -> Ask:
        chance = self._chance
        self._count += 1
        (kind,) = chance.choices(list(ASKS), list(ASKS.values()))
        is_deep = depth >= PARALLEL_DEPTH_MAX or self._count >= ASKS_MAX
        if (kind in {"beside", "each"} and is_deep) or (kind == "start" and not self._programs):
            kind = "do"
        catches = chance.random() < 0.4  # noqa: PLR2004 - enough of both
        match kind:
            case "sleep" | "await":
                return self._waiting(kind, catches=catches)
            case "start":
                detaches = chance.random() < 0.15  # noqa: PLR2004 - some
                return Start(chance.choice(self._programs), detaches, catches)
            case "beside" | "each":
                return self._parallel(kind, depth, catches=catches)
            case "do":
                return Do(self._step(), catches)
            case _:
                return self._small(kind, depth)

    def _small(self, kind: str, depth: int) -> Ask:
        chance = self._chance
        match kind:
            case "keep":
                return Keep(deletes=chance.random() < 0.2)  # noqa: PLR2004 - few
            case "recall":
                return Recall()
            case "report":
                return Report(chance.choice(["progress", "heartbeat"]))
            case "stumble" if not depth:
                return Stumble(self._name(), chance.choice([1, 1, 2]))
            case _:
                return Note(chance.choice(NOTES), self._name())

    def _waiting(self, kind: str, *, catches: bool) -> Ask:
        chance = self._chance
        if kind == "await":
            timeout_ms = None if chance.random() < 0.3 else chance.choice(TIMEOUTS_MS)  # noqa: PLR2004 - as above
            return Await(chance.choice(SIGNALS), timeout_ms, catches)
        if chance.random() < 0.7:  # noqa: PLR2004 - most are
            return Sleep(int(chance.choice(NAPS_MS) * chance.uniform(0.5, 1)), None)
        return Sleep(None, EPOCH_MS + int(chance.uniform(0, 120_000)))

    def _parallel(self, kind: str, depth: int, *, catches: bool) -> Ask:
        chance = self._chance
        if kind == "beside":
            parts = [
                tuple([self._ask(depth + 1) for _ in range(chance.randint(1, 2))])
                for _ in range(chance.randint(2, 3))
            ]
            way = chance.choice(["gather", "gather", "race"])
            is_race = way == "race"
            keeps_errors = not is_race and chance.random() < 0.4  # noqa: PLR2004 - enough of both
            return Beside("race" if is_race else "gather", tuple(parts), keeps_errors, catches)
        items = chance.randint(1, 4)
        return Each(
            tuple([self._ask(depth + 1) for _ in range(chance.choice([1, 1, 2]))]),
            items,
            concurrency=chance.choice([None, 1, 2]),
            min_completed=chance.choice([None, None, 0, 1, items]),
            failures_max=chance.choice([None, None, 0, 1]),
            catches=catches,
        )
