"""Shows that the audit of the orders example is not blind: each rule sees a problem that is planted for it."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from examples.orders import audit
from examples.orders.audit import Journals, Rule, Strike
from examples.orders.control import engine_url, world_file
from examples.orders.flow import orders
from examples.orders.model import read_orders
from examples.orders.world import FILE_VARIABLE, Call, Effect, world
from holdfast import Engine
from holdfast.core.entries import RunCompleted, StepCompleted
from holdfast.runtime.views import JournalEntry

ORDERS = 12
"""The first twelve: one that fails at first is among them."""
DEAD_PROCESS = 1
LATER_PROCESS = 2


@dataclass(frozen=True)
class Facts:
    journals: Journals
    calls: list[Call]
    effects: list[Effect]
    strikes: list[Strike]

    def broken_rules(self) -> set[Rule]:
        problems = audit.find_problems(self.journals, self.calls, self.effects, self.strikes)
        assert all(str(problem).startswith(problem.subject) for problem in problems)
        return {problem.rule for problem in problems}

    def with_journal(self, run_id: str, journal: list[JournalEntry]) -> "Facts":
        return replace(self, journals={**self.journals, run_id: journal})


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Facts:
    """Twelve orders, all driven in this process, and a strike after the last of them."""
    monkeypatch.setenv(FILE_VARIABLE, str(world_file(tmp_path)))
    world.cache_clear()
    given = read_orders()
    world().rehearse(given.faults)
    with Engine(engine_url(tmp_path), workflows=[orders]) as engine:
        handles = [engine.start(orders, order, id=order.id) for order in given.orders[:ORDERS]]
        for handle in handles:
            handle.result(timeout=30)
        journals = {handle.id: handle.journal() for handle in handles}
    calls, effects = world().calls(), world().effects()
    world().close()
    world.cache_clear()
    positions = {run_id: len(journal) for run_id, journal in journals.items()}
    return Facts(journals, calls, effects, [Strike(os.getpid(), calls[-1].number, positions)])


def test_calm_facts_break_no_rule(facts: Facts) -> None:
    assert facts.broken_rules() == set()


def test_faults_that_pass_are_retried(facts: Facts) -> None:
    assert any(call.outcome == "TimeoutError" for call in facts.calls)
    assert any(call.attempt > 1 and call.outcome == "done" for call in facts.calls)


def test_a_lost_answer_does_nothing_twice(facts: Facts) -> None:
    paid_twice = [call for call in facts.calls if call.outcome == "was done before"]
    assert paid_twice
    assert all(call.step == "charge" and call.attempt > 1 for call in paid_twice)


def end_missing(facts: Facts) -> Facts:
    run_id, journal = next(iter(facts.journals.items()))
    assert isinstance(journal[-1].entry, RunCompleted)
    return facts.with_journal(run_id, list(journal[:-1]))


def gap(facts: Facts) -> Facts:
    run_id, journal = next(iter(facts.journals.items()))
    moved = msgspec.structs.replace(journal[2], position=9)
    return facts.with_journal(run_id, [*journal[:2], moved, *journal[3:]])


def step_recorded_again(facts: Facts) -> Facts:
    run_id, journal = next(iter(facts.journals.items()))
    step = next(row for row in journal if isinstance(row.entry, StepCompleted))
    return facts.with_journal(run_id, [step, *journal])


def effect_lost(facts: Facts) -> Facts:
    return replace(facts, effects=facts.effects[1:])


def body_never_run(facts: Facts) -> Facts:
    return replace(facts, calls=[call for call in facts.calls if call.step != "validate"], effects=[])


def effect_under_another_key(facts: Facts) -> Facts:
    first = facts.effects[0]
    again = replace(first, number=10_000, idempotency_key=f"{first.idempotency_key}/again")
    return replace(facts, effects=[*facts.effects, again])


def effect_under_the_same_key(facts: Facts) -> Facts:
    return replace(facts, effects=[*facts.effects, replace(facts.effects[0], number=10_000)])


def body_run_after_the_kill(facts: Facts) -> Facts:
    again = replace(facts.calls[0], number=facts.calls[-1].number + 1, process_id=LATER_PROCESS)
    return replace(facts, calls=[*facts.calls, again])


def body_run_twice_in_one_process(facts: Facts) -> Facts:
    calls = [replace(call, number=2 * call.number) for call in facts.calls]
    strikes = [replace(strike, last_call=2 * strike.last_call) for strike in facts.strikes]
    effects = [replace(effect, call=2 * effect.call) for effect in facts.effects]
    again = replace(calls[0], number=calls[0].number + 1)
    return Facts(facts.journals, [calls[0], again, *calls[1:]], effects, strikes)


def body_run_ahead_of_the_journal(facts: Facts) -> Facts:
    shipped = next(call for call in facts.calls if call.step == "ship")
    early = Strike(DEAD_PROCESS, shipped.number, dict.fromkeys(facts.journals, 1))
    return replace(facts, strikes=[early, *facts.strikes])


PLANTED: list[tuple[Callable[[Facts], Facts], set[Rule]]] = [
    (end_missing, {"every run ends", "no entry is lost"}),
    (gap, {"positions have no gap"}),
    (step_recorded_again, {"no step is recorded twice", "positions have no gap"}),
    (effect_lost, {"no effect is lost"}),
    (body_never_run, {"no effect is lost"}),
    (effect_under_another_key, {"no effect is doubled"}),
    (effect_under_the_same_key, {"no effect is doubled"}),
    (body_run_after_the_kill, {"no recorded body runs again"}),
    (body_run_twice_in_one_process, {"no recorded body runs again"}),
    (body_run_ahead_of_the_journal, {"no body runs before what leads to it is recorded"}),
]


@pytest.mark.parametrize(("plant", "rules"), PLANTED, ids=[plant.__name__ for plant, _ in PLANTED])
def test_a_planted_problem_breaks_its_rule(
    facts: Facts, plant: Callable[[Facts], Facts], rules: set[Rule]
) -> None:
    assert plant(facts).broken_rules() == rules


def test_every_rule_has_a_planted_problem() -> None:
    assert {rule for _, rules in PLANTED for rule in rules} == set(get_args(Rule))
