"""What a task body may ask about itself, and the names that the machine gives (semantics rows 46, 47)."""

import re

from holdfast.core.effects import StartAttempt
from holdfast.runtime.context import CURRENT, RunFacts, TaskContext, get_task_context
from holdfast.runtime.ids import SystemChance, SystemIds

FACTS = RunFacts("order-42", 2, "order", {"team": "sales"})


def key(branch: str, step: str, visit: int = 1, attempt: int = 1, facts: RunFacts = FACTS) -> str:
    return TaskContext(facts, StartAttempt(branch, step, visit, attempt)).idempotency_key


def test_a_context_says_where_its_attempt_is() -> None:
    context = TaskContext(FACTS, StartAttempt("pay", "charge", 3, 4))
    assert (context.run_id, context.incarnation, context.workflow) == ("order-42", 2, "order")
    assert (context.branch, context.step, context.visit, context.attempt) == ("pay", "charge", 3, 4)
    assert context.metadata == {"team": "sales"}


def test_there_is_no_context_outside_an_attempt() -> None:
    assert get_task_context() is None


def test_a_context_is_the_one_of_this_attempt() -> None:
    context = TaskContext(FACTS, StartAttempt("main", "a", 1, 1))
    token = CURRENT.set(context)
    assert get_task_context() is context
    CURRENT.reset(token)


def test_an_attempt_is_told_to_stop_alone_or_with_its_run() -> None:
    """Row 46."""
    facts = RunFacts("order-42", 1, "order", {})
    first, second = (TaskContext(facts, StartAttempt("main", "a", 1, attempt)) for attempt in (1, 2))
    assert not first.cancelled
    first.stop()
    assert (first.cancelled, second.cancelled) == (True, False)
    facts.is_stopped = True
    assert second.cancelled


def test_all_attempts_of_a_step_have_one_key() -> None:
    """Row 46: stable over attempts and recoveries."""
    assert key("main", "a", attempt=1) == key("main", "a", attempt=7)


def test_nothing_else_has_that_key() -> None:
    others = [
        key("pay", "a"),
        key("main", "b"),
        key("main", "a", visit=2),
        key("main", "a", facts=RunFacts("order-43", 2, "order", {})),
        key("main", "a", facts=RunFacts("order-42", 3, "order", {})),
    ]
    assert len({key("main", "a"), *others}) == 6


def test_no_choice_of_names_gives_two_steps_one_key() -> None:
    assert key("a/b", "c") != key("a", "b/c")


def test_a_run_is_named_by_128_random_bits() -> None:
    """Row 47."""
    names = {SystemIds().run_id() for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch("run_[a-z2-7]{26}", name) for name in names)


def test_each_life_of_a_worker_has_a_name_of_its_own() -> None:
    """Invariant 12."""
    assert SystemIds().worker_id() != SystemIds().worker_id()


def test_chance_is_a_part_of_one() -> None:
    assert all(0 <= SystemChance().random() < 1 for _ in range(100))
