"""What one simulation has in common: its loop, its chances, its faults, its trace, and what went wrong."""

import hashlib
import math
import random  # noqa: TID251 - the seeded generator of a simulation
from collections import Counter

import msgspec

from holdfast.testing.simulator.loop import SimulatedLoop

CALL_FAULTS = ("refuse", "hide", "delay_request", "delay_answer", "late", "crash_before", "crash_after")
"""At calls of the store: it fails; is done and reported as failed; comes late there, or its answer here; fails
here and is done later; or the process dies before it is sent or once it is done."""
RENEWAL_FAULTS = ("renewal_refused", "renewal_hidden", "renewal_slow", "renewal_late")
HINT_FAULTS = ("hint_lost", "hint_late", "hint_doubled")
CHAOS = ("kill", "stop", "freeze", "jump", "down")
"""Kill -9, SIGTERM, SIGSTOP with SIGCONT, a changed wall clock, a store that answers nobody."""
BODY_FAULTS = ("body_kills", "body_blocks", "poison")
KINDS = CALL_FAULTS + RENEWAL_FAULTS + HINT_FAULTS + CHAOS + BODY_FAULTS

STALL_MS = (1.0, 90_000.0)
RUSHED = 0.3
"""Part of the seeds in which ready callbacks run in order, as in a real loop."""


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What may go wrong, how often, and for how long.

    Attributes:
        kinds: Of `KINDS`.
        rate: Part of the store's calls and hints that a fault strikes.
        chaos_s: Mean time between two events of `CHAOS`.
        until_s: From then on, everything works.
    """

    kinds: tuple[str, ...] = ()
    rate: float = 0.0
    chaos_s: float = 10.0
    until_s: float = 0.0

    @property
    def is_calm(self) -> bool:
        """Whether nothing goes wrong."""
        return not self.kinds

    @property
    def is_prompt(self) -> bool:
        """Whether nothing excuses a delay: what is due is found by looking, whatever hints say."""
        return set(self.kinds) <= {*HINT_FAULTS, "jump"}


def draw_faults(chance: random.Random) -> Faults:
    """One in ten is calm, one in ten has one kind of fault, the others have many."""
    mode = chance.random()
    if mode < 0.1:  # noqa: PLR2004 - as the docstring says
        return Faults()
    kinds = [chance.choice(KINDS)]
    if mode >= 0.2:  # noqa: PLR2004 - as above
        share = chance.uniform(0.2, 0.9)
        kinds = [kind for kind in KINDS if chance.random() < share] or kinds
        if chance.random() < 0.7:  # noqa: PLR2004 - poison ends much else
            kinds = [kind for kind in kinds if kind != "poison"] or kinds
    return Faults(
        kinds=tuple(kinds),
        rate=math.exp(chance.uniform(math.log(0.004), math.log(0.2))),
        chaos_s=math.exp(chance.uniform(math.log(2), math.log(40))),
        until_s=math.exp(chance.uniform(math.log(3), math.log(120))),
    )


class World:
    """What everything in a simulation shares.

    Attributes:
        seed: Gives the whole simulation.
        faults: What may go wrong.
        chance: For everything but the order of callbacks.
        loop: Virtual time.
        hits: How often each kind of fault, and whatever else is counted, has struck.
        trace: What happened, a line each.
        problems: Invariants that were broken, a line each.
        down_until_s: Until then, no call reaches the store.
    """

    def __init__(self, seed: int, faults: Faults | None) -> None:
        """Args: the seed, and faults instead of those that it gives."""
        self.seed = seed
        self.chance = random.Random(f"world {seed}")  # noqa: S311 - no secret
        drawn = draw_faults(self.chance)
        self.faults = drawn if faults is None else faults
        is_shuffled = self.chance.random() >= RUSHED
        order = random.Random(f"order {seed}")  # noqa: S311 - no secret
        self.loop = SimulatedLoop(order, is_shuffled=is_shuffled)  # type: ignore[abstract]  # only for types
        self.hits: Counter[str] = Counter()
        self.trace: list[str] = []
        self.problems: list[str] = []
        self.down_until_s = 0.0

    @property
    def now_s(self) -> float:
        """Virtual time."""
        return self.loop.time()

    @property
    def is_healed(self) -> bool:
        """Whether nothing goes wrong any more."""
        return self.now_s >= self.faults.until_s

    @property
    def is_down(self) -> bool:
        """Whether no call reaches the store."""
        return self.now_s < self.down_until_s

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now_s:12.6f} {text}")

    def problem(self, text: str) -> None:
        """An invariant is broken."""
        self.problems.append(f"at {self.now_s:.6f} s: {text}")
        self.note(f"PROBLEM {text}")

    def hit(self, kind: str, text: str = "") -> None:
        """Count that something struck."""
        self.hits[kind] += 1
        self.note(f"FAULT {kind} {text}")

    def draw(self, kinds: tuple[str, ...]) -> str | None:
        """One of the kinds, if a fault strikes here and now."""
        if self.chance.random() >= self.faults.rate or self.is_healed:
            return None
        allowed = [kind for kind in kinds if kind in self.faults.kinds]
        return self.chance.choice(allowed) if allowed else None

    def span_s(self, least_ms: float, most_ms: float) -> float:
        """Seconds, small and large ones alike, that end when the faults do."""
        ms = math.exp(self.chance.uniform(math.log(least_ms), math.log(most_ms)))
        return min(ms / 1_000, max(self.faults.until_s - self.now_s, 0.0))

    def latency_s(self) -> float:
        """One way to the store or back."""
        return 0.0001 + 0.002 * self.chance.random()

    def hash(self) -> str:
        """Of the whole trace: equal for equal seeds, in any process."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()
