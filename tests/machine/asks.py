"""What people ask of an engine: how it is said to the engine, and what the model makes of it."""

import copy
from dataclasses import dataclass
from typing import Literal

from holdfast.errors import (
    BranchNotFoundError,
    HoldfastError,
    RunConflictError,
    RunExistsError,
    RunNotFoundError,
    RunStateError,
)
from holdfast.testing import TestEngine
from tests.machine.model import Hold, Run

BY = "ops"
OnConflict = Literal["fail", "use_existing", "restart"]


@dataclass(frozen=True)
class Ask:
    """Something that is asked of one run."""

    async def say(self, env: TestEngine, run_id: str) -> object:
        raise NotImplementedError

    def refused(self, run: Run | None) -> type[HoldfastError] | None:
        """With what it must be refused."""
        if run is None:
            return RunNotFoundError
        return None if self.fits(run) else RunStateError

    def fits(self, run: Run) -> bool:
        return run.over is None

    def change(self, run: Run) -> None:
        raise NotImplementedError

    def applied(self, run: Run | None, now_ms: int) -> Run | None:
        """The run after it, when all has happened that follows at once."""
        del now_ms
        assert run is not None
        after = copy.deepcopy(run)
        self.change(after)
        return after.settle()


@dataclass(frozen=True)
class Start(Ask):
    flow: str
    value: int
    on_conflict: OnConflict

    async def say(self, env: TestEngine, run_id: str) -> object:
        return await env.start(self.flow, self.value, id=run_id, on_conflict=self.on_conflict)

    def refused(self, run: Run | None) -> type[HoldfastError] | None:
        if run is None or self.on_conflict == "restart":
            return None
        if self.on_conflict == "fail":
            return RunExistsError
        return None if self._is_same(run) else RunConflictError

    def applied(self, run: Run | None, now_ms: int) -> Run | None:
        if run is not None and self.on_conflict == "use_existing":
            return run
        incarnation = 1 if run is None else run.incarnation + 1
        return Run(self.flow, self.value, now_ms, incarnation).settle()

    def is_repeated(self, run: Run | None, now_ms: int) -> bool:
        """Whether it would start at this moment what was started at this moment."""
        return (
            run is not None
            and run.journal[0][0] == now_ms
            and self._is_same(run)
            and self.on_conflict == "fail"
        )

    def _is_same(self, run: Run) -> bool:
        return (run.name, run.value) == (self.flow, self.value)


@dataclass(frozen=True)
class Signal(Ask):
    name: str
    message_id: str
    payload: int

    async def say(self, env: TestEngine, run_id: str) -> object:
        given = await env.send_signal(run_id, self.name, self.payload, id=self.message_id)
        assert given == self.message_id
        return given

    def change(self, run: Run) -> None:
        run.signal(self.name, self.message_id, self.payload)


@dataclass(frozen=True)
class Pause(Ask):
    branch: str
    freezes: bool

    async def say(self, env: TestEngine, run_id: str) -> object:
        handle = await env.get(run_id)
        return await handle.pause("so", by=BY, branch=self.branch or None, freeze=self.freezes)

    def refused(self, run: Run | None) -> type[HoldfastError] | None:
        return super().refused(run) or _unknown_branch(run, self.branch)

    def change(self, run: Run) -> None:
        run.set_pause(self.branch, Hold("so", BY, self.freezes))


@dataclass(frozen=True)
class Unpause(Ask):
    branch: str

    async def say(self, env: TestEngine, run_id: str) -> object:
        handle = await env.get(run_id)
        return await handle.unpause(by=BY, branch=self.branch or None)

    def refused(self, run: Run | None) -> type[HoldfastError] | None:
        return super().refused(run) or _unknown_branch(run, self.branch)

    def change(self, run: Run) -> None:
        run.unpause(self.branch, BY)


@dataclass(frozen=True)
class Cancel(Ask):
    async def say(self, env: TestEngine, run_id: str) -> object:
        handle = await env.get(run_id)
        return await handle.cancel("enough", by=BY)

    def fits(self, run: Run) -> bool:
        return run.over in {None, "cancelled"}

    def change(self, run: Run) -> None:
        if run.over is None:
            run.cancel("enough", BY)


@dataclass(frozen=True)
class Retry(Ask):
    async def say(self, env: TestEngine, run_id: str) -> object:
        return await env.retry(run_id, by=BY)

    def fits(self, run: Run) -> bool:
        return run.over == "failed"

    def change(self, run: Run) -> None:
        run.reopen(BY)


@dataclass(frozen=True)
class Delete(Ask):
    async def say(self, env: TestEngine, run_id: str) -> object:
        return await env.delete(run_id)

    def fits(self, run: Run) -> bool:
        return run.over is not None

    def applied(self, run: Run | None, now_ms: int) -> Run | None:
        del run, now_ms


def _unknown_branch(run: Run | None, branch: str) -> type[HoldfastError] | None:
    known = [] if run is None else [each.id for each in run.open()]
    return BranchNotFoundError if branch and branch not in known else None
