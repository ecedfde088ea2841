"""Simulated people who act on runs: they signal, pause, unpause, cancel, retry, restart, delete and look."""

import asyncio
import random  # noqa: TID251 - the seeded generator of a simulation
from collections.abc import Sequence
from typing import Literal

import msgspec

from holdfast.engine import AsyncEngine, AsyncHandle
from holdfast.errors import (
    BranchNotFoundError,
    RunBlockedError,
    RunNotFoundError,
    RunStateError,
    StoreUnavailableError,
    WorkflowNotFoundError,
)
from holdfast.testing.simulator.answers import Answers
from holdfast.testing.simulator.callers import AGAIN_S, Order
from holdfast.testing.simulator.drawing_functions import SIGNALS
from holdfast.testing.simulator.programs import Program
from holdfast.testing.simulator.world import World

Kind = Literal["signal", "pause", "unpause", "cancel", "retry", "restart", "delete", "look"]
OFTEN: dict[Kind, int] = {
    "signal": 5,
    "pause": 4,
    "unpause": 3,
    "cancel": 2,
    "retry": 3,
    "restart": 1,
    "delete": 1,
    "look": 2,
}
TRIES_MAX = 4
"""How often who cannot do it now tries again."""
LATER_S = 12.0


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that somebody does to a run.

    Attributes:
        at_s: When, in virtual time.
        run_id: Which there may not be.
        child: With a number, it is meant for one of the runs that this one has started.
        given: Id of the signal, or None for a new one; others may send the same.
        by: Who; nobody else has that name.
        value: Payload of the signal, or the input of a restart.
        branch: Which is to be paused, "" for the run; it may not be there.
        freezes: Whether clocks stand still.
        waits: Whether who cancels waits for the end.
    """

    at_s: float
    kind: Kind
    run_id: str
    child: int | None = None
    program: Program
    by: str
    given: str | None = None
    signal: str = ""
    value: int = 0
    branch: str = ""
    freezes: bool = True
    waits: bool = False


class Errander:
    """A caller with one errand, which it repeats in each life of its process until it has an answer."""

    def __init__(self, world: World, answers: Answers, errand: Errand) -> None:
        """Args: the world, who judges what it is told, and what it wants."""
        self._world = world
        self._answers = answers
        self._errand = errand
        self._since_s: float | None = None
        self._tries = 0
        self.is_done = False

    async def go(self, engine: AsyncEngine) -> None:
        """See `Caller`."""
        errand, world = self._errand, self._world
        await asyncio.sleep(max(errand.at_s - world.now_s, 0.0))
        if self._since_s is not None:
            world.hits[f"{errand.kind} again in another life"] += 1
        while not self.is_done:
            if self._errand.child is not None and not self._finds_child(self._errand.child):
                await asyncio.sleep(LATER_S)
                continue
            if self._since_s is None:
                self._since_s = world.now_s
            try:
                await self._do(engine, self._since_s)
                self.is_done = True
            except StoreUnavailableError:
                world.hits[f"{errand.kind} not answered"] += 1
                await asyncio.sleep(AGAIN_S)
            except (
                RunNotFoundError,
                RunStateError,
                RunBlockedError,
                BranchNotFoundError,
                WorkflowNotFoundError,
            ) as error:
                self._refused(error, self._since_s)
                if not self.is_done:
                    await asyncio.sleep(LATER_S)

    def _finds_child(self, number: int) -> bool:
        """Look for the run that it is meant for; who does not find it some times over, gives up."""
        errand = self._errand
        found = self._answers.descendant(errand.run_id, number)
        if found is None:
            self._tries += 1
            self.is_done = self._tries >= TRIES_MAX
            return False
        run_id, program = found
        self._errand = msgspec.structs.replace(errand, run_id=run_id, child=None, program=program)
        self._world.hits[f"{errand.kind} of a child"] += 1
        return True

    def _refused(self, error: Exception, since_s: float) -> None:
        errand, answers = self._errand, self._answers
        match error:
            case RunNotFoundError():
                answers.absent(errand.run_id, since_s)
            case RunStateError():
                answers.is_in(errand.run_id, [error.status], since_s)
            case RunBlockedError():
                answers.is_in(errand.run_id, ["blocked"], since_s)
            case _:
                pass
        self._world.hits[f"{errand.kind} refused with {type(error).__name__}"] += 1
        self._world.note(
            f"{errand.by}: {errand.kind} of {errand.run_id} is refused with {type(error).__name__}"
        )
        self._tries += 1
        may_change = isinstance(error, RunNotFoundError) or errand.kind in {"retry", "delete"}
        self.is_done = not may_change or self._tries >= TRIES_MAX

    async def _do(self, engine: AsyncEngine, since_s: float) -> None:
        errand, world = self._errand, self._world
        status = self._answers.status_of(errand.run_id)
        world.note(f"{errand.by}: {errand.kind} of {errand.run_id}, {status}")
        match errand.kind:
            case "signal":
                await self._signal(engine, since_s)
            case "retry":
                await engine.retry(errand.run_id, by=errand.by)
                self._answers.is_reopened(errand.run_id, errand.by, since_s)
            case "restart":
                await self._restart(engine, since_s)
            case "delete":
                await engine.delete(errand.run_id)
                self._answers.is_removed(errand.run_id, since_s)
            case _:
                await self._handle(await engine.get(errand.run_id), since_s)
        world.note(f"{errand.by}: {errand.kind} of {errand.run_id} is acknowledged")
        world.hits[errand.kind] += 1
        world.hits[f"{errand.kind} of a run that is {status}"] += 1

    async def _signal(self, engine: AsyncEngine, since_s: float) -> None:
        errand = self._errand
        given = await engine.send_signal(errand.run_id, errand.signal, errand.value, id=errand.given)
        self._answers.has_signal(errand.run_id, given, errand.signal, errand.value, since_s)

    async def _restart(self, engine: AsyncEngine, since_s: float) -> None:
        errand, program = self._errand, self._errand.program
        target = program.workflow if engine.is_driving else program.name
        self._answers.may_restart(errand.run_id)
        await engine.start(target, errand.value, id=errand.run_id, on_conflict="restart")
        self._answers.is_run(errand.run_id, program.name, errand.value, since_s)

    async def _handle(self, handle: AsyncHandle, since_s: float) -> None:
        errand, answers, world = self._errand, self._answers, self._world
        match errand.kind:
            case "pause":
                await handle.pause(
                    "as drawn", by=errand.by, branch=errand.branch or None, freeze=errand.freezes
                )
                answers.is_paused(errand.run_id, errand.by, errand.branch, since_s)
                world.hits["pause of a branch" if errand.branch else "pause of a run"] += 1
                world.hits["pause that freezes" if errand.freezes else "pause that freezes nothing"] += 1
            case "unpause":
                await handle.unpause(by=errand.by, branch=errand.branch or None)
                answers.is_unpaused(errand.run_id, errand.by, errand.branch, since_s)
                world.hits["unpause of a branch" if errand.branch else "unpause of a run"] += 1
            case "cancel":
                await handle.cancel("as drawn", by=errand.by, wait=errand.waits)
                answers.is_cancelled(errand.run_id, errand.by, since_s)
                if errand.waits:
                    answers.is_in(errand.run_id, ["cancelled", "completed", "failed"], since_s)
            case _:
                said = await handle.explain()
                world.hits[f"look: {said.reason}"] += 1
                await handle.status()
                await handle.journal()


class _Draft:
    """Errands of all kinds."""

    def __init__(self, chance: random.Random, until_s: float) -> None:
        self.errands: list[Errand] = []
        self._chance = chance
        self._latest_s = max(until_s, 15.0) * chance.uniform(0.3, 1.5)

    def add(self, kind: Kind, order: Order, signal: str = "") -> Errand:
        """One errand, soon after the run was started or whenever."""
        chance, errands = self._chance, self.errands
        is_soon = chance.random() < 0.6  # noqa: PLR2004 - enough of both
        errand = Errand(
            at_s=order.at_s + chance.expovariate(1 / 6.0) if is_soon else chance.random() * self._latest_s,
            kind=kind,
            run_id=order.id,
            program=order.program,
            by=f"somebody {len(errands)}",
            given=None if chance.random() < 0.2 else f"s{len(errands)}",  # noqa: PLR2004 - as above
            signal=signal or chance.choice(SIGNALS),
            value=chance.randint(1_000, 9_999),
            branch=self._branch(order.program) if kind in {"pause", "unpause"} else "",
            freezes=chance.random() < 0.7,  # noqa: PLR2004 - as above
            waits=chance.random() < 0.3,  # noqa: PLR2004 - as above
        )
        errands.append(errand)
        if kind == "pause" and chance.random() < 0.7:  # noqa: PLR2004 - most are ended
            self._again(errand, "unpause", 8.0)
        elif kind == "signal" and errand.given is not None and chance.random() < 0.25:  # noqa: PLR2004 - some
            self._again(errand, "signal", 3.0)
        return errand

    def _branch(self, program: Program) -> str:
        return "" if self._chance.random() < 0.6 else self._chance.choice(program.branches)  # noqa: PLR2004 - as above

    def _again(self, errand: Errand, kind: Kind, later_s: float) -> None:
        """Somebody else does the same, or its opposite, a little later."""
        at_s = errand.at_s + self._chance.expovariate(1 / later_s)
        by = f"somebody {len(self.errands)}"
        self.errands.append(msgspec.structs.replace(errand, at_s=at_s, kind=kind, by=by))

    def add_for_children(self, order: Order) -> None:
        """The same for the runs that it starts: whoever waits there waits for signals, too."""
        chance = self._chance
        for child in order.program.starts:
            kinds: list[Kind] = []
            if chance.random() < 0.3:  # noqa: PLR2004 - others are left alone
                kinds = chance.choices(list(OFTEN), list(OFTEN.values()), k=chance.randint(1, 2))
            for kind in kinds:
                self._for_child(self.add(kind, order))
            for signal in child.signals:
                if chance.random() < 0.6:  # noqa: PLR2004 - as above
                    self._for_child(self.add("signal", order, signal))
            for _ in child.halts:
                self._for_child(self.add("unpause", order))

    def _for_child(self, errand: Errand) -> None:
        at = self.errands.index(errand)
        number = self._chance.randint(0, 9)
        for n in range(at, len(self.errands)):
            self.errands[n] = msgspec.structs.replace(self.errands[n], child=number, branch="")


def draw_errands(chance: random.Random, orders: Sequence[Order], until_s: float) -> list[Errand]:
    """What is done to the runs that are ordered: enough signals that many waits end, and whatever else."""
    draft = _Draft(chance, until_s)
    for order in {order.id: order for order in reversed(orders)}.values():
        for signal in order.program.signals:
            if chance.random() < 0.75:  # noqa: PLR2004 - most are sent what they wait for
                draft.add("signal", order, signal)
        if order.program.starts:
            draft.add_for_children(order)
        for _ in order.program.halts:
            if chance.random() < 0.8:  # noqa: PLR2004 - as above
                draft.add("unpause", order)
        if chance.random() < 0.6:  # noqa: PLR2004 - others are left alone
            for kind in chance.choices(list(OFTEN), list(OFTEN.values()), k=chance.randint(1, 4)):
                draft.add(kind, order)
    return draft.errands


def late_cancel(order: Order, at_s: float) -> Errand:
    """Somebody gives up a run that takes its workers down: it is blocked by then, or will be."""
    return Errand(at_s=at_s, kind="cancel", run_id=order.id, program=order.program, by="whoever mends")
