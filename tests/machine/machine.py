"""A random outside of a whole engine, and after each thing that it does a look whether all is as it must be.

What was not answered because the process died may have happened or not: then there are several candidates for
what a run is, and the first that fits is it from then on.
"""

import asyncio
import copy
from collections.abc import Callable
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from holdfast.errors import HoldfastError, RunExistsError
from holdfast.stores.base import Store
from holdfast.stores.memory import MemoryStore
from holdfast.testing import TestEngine
from holdfast.testing.clock import VirtualClock
from holdfast.testing.faults import Fault
from tests.machine import asks, checks
from tests.machine.asks import Ask
from tests.machine.flows import FAILS, FLOWS, WORLD, Call
from tests.machine.lives import UNKNOWN, Lives, Unknown
from tests.machine.model import Run, variants

SPANS_MS = (1_000, 4_000, 12_000, 30_000, 3_600_000, 90_000_000)
DOWN_MS = (0, 0, 2_000, 40_000, 100_000_000)
FAILING = (0, 0, 0, 0, 1, 2, 5)
"""How many attempts of each step fail."""
TURNS = (0, 1, 1, 2, 2, 3, 4, 6, 9, 14)
"""Of the event loop, between two things that people do in a hurry."""
MICRO_MAX = 30
RECOVERIES_MAX = 3
CRASHES = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER)
TROUBLES = (Fault.REFUSE, Fault.APPLY_AND_FAIL)
Candidates = list[Run | None]


class Machine(RuleBasedStateMachine):
    """The rules; a subclass says on what store, and may leave out some of the workflows and runs."""

    ids: ClassVar[tuple[str, ...]] = ("run-1", "run-2")
    flows: tuple[str, ...] = tuple(FLOWS)
    failing: ClassVar[tuple[int, ...]] = FAILING

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, Run | None] = dict.fromkeys(self.ids)
        self.candidates: dict[str, Candidates] = {run_id: [None] for run_id in self.ids}
        self.seen: dict[str, checks.Seen | None] = dict.fromkeys(self.ids)
        self.completed: dict[Call, int] = {}
        self.sent = 0

    def reopening(self, clock: VirtualClock) -> Callable[[VirtualClock], Store]:
        store = MemoryStore(clock)
        return lambda _: store

    @initialize(data=st.data(), is_quick=st.booleans())
    def begin(self, data: st.DataObject, is_quick: bool) -> None:
        clock = WORLD.clock = VirtualClock()
        WORLD.calls.clear()
        names = st.sampled_from(self.flows)
        # Few of them in one example: each new engine has to take in all that it is given.
        self.flows = tuple({data.draw(names): None, data.draw(names): None})
        flows = [FLOWS[name] for name in self.flows]
        self.lives = Lives(self.reopening(clock), clock, flows, is_quick=is_quick)
        self.ask(self.ids[0], asks.Start(self.flows[0], self._a_value(data), "fail"))

    def teardown(self) -> None:
        self.lives.end()

    # What people do.

    @rule(data=st.data(), on_conflict=st.sampled_from(["fail", "use_existing", "restart"]))
    def start(self, data: st.DataObject, on_conflict: asks.OnConflict) -> None:
        ask = asks.Start(data.draw(st.sampled_from(self.flows)), self._a_value(data), on_conflict)
        self.ask(data.draw(st.sampled_from(self.ids)), ask)

    @rule(data=st.data(), commit=st.sampled_from((0, 0, 0, 1, 2, 3)), fault=st.sampled_from(CRASHES))
    def signal(self, data: st.DataObject, commit: int, fault: Fault) -> None:
        if commit:
            self._fail_soon(commit, fault)
        self.ask(self._a_run(data), self._a_signal(data))

    @rule(data=st.data(), freezes=st.booleans())
    def pause(self, data: st.DataObject, freezes: bool) -> None:
        run_id = self._a_run(data)
        self.ask(run_id, asks.Pause(self._a_branch(data, run_id), freezes))

    @rule(data=st.data())
    def unpause(self, data: st.DataObject) -> None:
        run_id = self._a_run(data)
        self.ask(run_id, asks.Unpause(self._a_branch(data, run_id)))

    @rule(data=st.data(), what=st.sampled_from([asks.Cancel(), asks.Delete(), asks.Retry()]))
    def end(self, data: st.DataObject, what: Ask) -> None:
        self.ask(self._a_run(data), what)

    @precondition(lambda self: any(run is not None and run.over == "failed" for run in self.runs.values()))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        failed = [run_id for run_id, run in self.runs.items() if run is not None and run.over == "failed"]
        self.ask(data.draw(st.sampled_from(failed)), asks.Retry())

    @precondition(lambda self: self._unfinished())
    @rule(data=st.data(), turns=st.sampled_from(TURNS))
    def signal_and_more(self, data: st.DataObject, turns: int) -> None:
        """Something else on the heels of a signal, before all that follows from the signal has happened."""
        run_id, first = data.draw(st.sampled_from(self._unfinished())), self._a_signal(data)
        others = [asks.Pause("", freezes=True), asks.Unpause(""), asks.Cancel(), self._a_signal(data)]
        then = data.draw(st.sampled_from(others))
        self.ask_both(run_id, first, then, turns)

    # What time does.

    @rule(span_ms=st.sampled_from(SPANS_MS))
    def advance(self, span_ms: int) -> None:
        self._advance(span_ms)

    @precondition(lambda self: self._next_ms() is not None)
    @rule(early_ms=st.sampled_from((0, 0, 1)))
    def advance_to_what_is_next(self, early_ms: int) -> None:
        at_ms = self._next_ms()
        assert at_ms is not None
        self._advance(max(at_ms - self.now_ms - early_ms, 0))

    # What goes wrong.

    @rule(commit=st.integers(1, 3), fault=st.sampled_from((*CRASHES, *CRASHES, *TROUBLES)))
    def fail_soon(self, commit: int, fault: Fault) -> None:
        self._fail_soon(commit, fault)

    @rule(down_ms=st.sampled_from(DOWN_MS), is_killed=st.booleans())
    def reopen(self, down_ms: int, is_killed: bool) -> None:
        """The next process comes, after one that died at rest, or ended as it should: then no body runs."""
        runs = [run for run in self.runs.values() if run is not None]
        if is_killed and self._may_crash():
            self.lives.kill(down_ms)
            for run in runs:
                run.crash(midway=False)
        elif not self.lives.clock.bodies_asleep:
            self.lives.close(down_ms)
        for run in runs:
            run.wait_until(self.now_ms)

    # What must hold.

    @invariant()
    def all_is_as_it_must_be(self) -> None:
        everything = self.lives.look(lambda env, store: checks.see_all(env, store, self.ids))
        for run_id, seen in everything.items():
            if seen is None:
                self._forget(run_id)
            self.runs[run_id] = model = self._fitting(run_id, seen)
            if seen is not None and model is not None:
                wrong = checks.problems_of(seen, self.seen[run_id])
                assert not wrong, f"{run_id}: {wrong}"
                self._check_completed(run_id, seen)
            self.seen[run_id] = seen
            self.candidates[run_id] = [self.runs[run_id]]

    def _fitting(self, run_id: str, seen: checks.Seen | None) -> Run | None:
        differences: list[str] = []
        for model in self.candidates[run_id]:
            found = checks.difference(seen, model)
            if not found and seen is not None and model is not None:
                found = "; ".join(checks.wrong_calls(run_id, seen, model))
            if not found:
                return model
            differences.append(found)
        raise AssertionError(
            f"{run_id} is as in none of {len(differences)} cases: " + "\n or ".join(differences)
        )

    def _check_completed(self, run_id: str, seen: checks.Seen) -> None:
        """Invariant 13: what was recorded as completed has not begun again since."""
        done = checks.completed(run_id, seen)
        for call, times in done.items():
            assert self.completed.get(call, times) == times, f"{call} was completed, and ran again"
        self.completed.update(done)

    def _forget(self, run_id: str) -> None:
        for calls in (WORLD.calls, self.completed):
            for call in [call for call in calls if call.run_id == run_id]:
                del calls[call]

    # How it is done.

    @property
    def now_ms(self) -> int:
        return self.lives.clock.wall_ms()

    def ask(self, run_id: str, ask: Ask) -> None:
        before, is_troubled = self.runs[run_id], self.lives.armed is not None
        answer, has_crashed = self.lives.do(lambda env: ask.say(env, run_id))
        refused = ask.refused(before)
        if is_troubled and isinstance(ask, asks.Start) and ask.is_repeated(before, self.now_ms):
            # It had to ask again, and cannot tell this run from one that it had started the first time.
            ask, refused = asks.Start(ask.flow, ask.value, "use_existing"), None
            answer = before if isinstance(answer, RunExistsError) else answer
        candidates: Candidates = [before]
        if not isinstance(answer, Unknown):
            _check_answer(answer, refused)
        if refused is None:
            after = ask.applied(before, self.now_ms)
            candidates = [after, before] if answer is UNKNOWN else [after]
        self._decide(run_id, candidates, has_crashed=has_crashed)

    def ask_both(self, run_id: str, first: Ask, then: Ask, turns: int) -> None:
        answers: list[object] = [UNKNOWN, UNKNOWN]

        async def say(env: TestEngine) -> None:
            for n, ask in enumerate((first, then)):
                try:
                    answers[n] = await ask.say(env, run_id)
                except HoldfastError as error:
                    answers[n] = error
                for _ in range(turns):
                    await asyncio.sleep(0)

        _, has_crashed = self.lives.do(say)
        before = self.runs[run_id]
        assert before is not None
        candidates: Candidates = [before] if answers[0] is UNKNOWN else []
        if answers[0] is not UNKNOWN:
            _check_answer(answers[0], first.refused(before))
        between = copy.deepcopy(before)
        first.change(between)
        for run in variants(between, MICRO_MAX):
            refused = then.refused(run)
            if answers[1] is UNKNOWN or (refused and isinstance(answers[1], refused)):
                candidates.append(copy.deepcopy(run).settle())
            if refused is None and not isinstance(answers[1], HoldfastError):
                candidates.append(then.applied(run, self.now_ms))
        self._decide(run_id, candidates, has_crashed=has_crashed)

    def _decide(self, run_id: str, candidates: Candidates, *, has_crashed: bool) -> None:
        self.candidates[run_id] = candidates
        if has_crashed:
            for models in self.candidates.values():
                for model in {id(model): model for model in models if model is not None}.values():
                    model.crash().settle()

    def _advance(self, span_ms: int) -> None:
        _, has_crashed = self.lives.do(lambda env: env.advance(f"{span_ms}ms"))
        for run_id, run in self.runs.items():
            if run is not None and has_crashed:
                run.advance(self.now_ms, before=True)
                cases = [copy.deepcopy(run).crash(recorded=recorded) for recorded in (True, False)]
                self.candidates[run_id] = [case.settle() for case in cases]
            elif run is not None:
                run.advance(self.now_ms)

    def _fail_soon(self, commit: int, fault: Fault) -> None:
        if fault in TROUBLES or self._may_crash():
            self.lives.armed = commit, fault

    def _next_ms(self) -> int | None:
        dues = [run.next_ms() for run in self.runs.values() if run is not None and run.over is None]
        return min((ms for ms in dues if ms is not None), default=None)

    def _may_crash(self) -> bool:
        """Runs whose worker dies often are set aside, which is not looked at here."""
        counts = [
            seen.record.recoveries
            for run_id, seen in self.seen.items()
            if seen is not None and (run := self.runs[run_id]) is not None and run.over is None
        ]
        return sum(count > 0 for count in counts) <= 1 and max(counts, default=0) <= RECOVERIES_MAX

    def _unfinished(self) -> list[str]:
        return [run_id for run_id, run in self.runs.items() if run is not None and run.over is None]

    def _a_run(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([*self._unfinished(), *self._unfinished(), *self.ids]))

    def _a_value(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(self.failing))

    def _a_signal(self, data: st.DataObject) -> Ask:
        self.sent += 1
        name, number = data.draw(st.sampled_from("aaab")), data.draw(st.integers(1, self.sent))
        message_id = f"message-{number if number < self.sent // 2 else self.sent}"
        return asks.Signal(name, message_id, FAILS * self.sent + self._a_value(data))

    def _a_branch(self, data: st.DataObject, run_id: str) -> str:
        run = self.runs[run_id]
        return data.draw(st.sampled_from(["", "", "unheard-of", *([] if run is None else run.branches)]))


def _check_answer(answer: object, refused: type[HoldfastError] | None) -> None:
    if refused is None:
        assert not isinstance(answer, BaseException), f"it was refused with {answer!r}"
    else:
        assert isinstance(answer, refused), f"{answer!r}, should be refused with {refused.__name__}"
