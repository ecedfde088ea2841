"""The crash tests are worth something: each of these bugs, planted into the engine, is caught by them."""

from pathlib import Path

import pytest

from holdfast.core import evolve as core_evolve
from holdfast.core.entries import RetryScheduled
from holdfast.core.run import Run
from holdfast.errors import HoldfastError
from holdfast.stores import group_commit
from holdfast.stores.group_commit import GroupCommit
from holdfast.stores.records import Append, Applied, Member, Outcome
from holdfast.testing.faults import Fault
from tests.integration import crashing
from tests.integration.test_crash_at_every_commit import (
    test_a_crash_at_any_commit_gives_the_same_journal as crash_everywhere,
)
from tests.integration.test_unknown_outcomes import (
    test_a_commit_of_unknown_outcome_is_neither_repeated_nor_lost as unknown_everywhere,
)
from tests.simulation.planted import act_before_the_commit

Caught = (AssertionError, TimeoutError, HoldfastError)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "REPEAT_FIRST_S", 0.001)
    monkeypatch.setattr(crashing, "DEADLINE_S", 1)


def test_acting_before_the_commit_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The entries are applied and acted upon at once, and written later."""
    act_before_the_commit(monkeypatch)
    with pytest.raises(Caught):
        crash_everywhere("memory", Fault.CRASH_BEFORE, tmp_path)


def test_taking_an_unknown_outcome_for_a_fence_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The repeated append is fenced by its own first try, and the run is dropped."""

    async def believe(group: GroupCommit, member: Member, outcome: Outcome, since_ms: int) -> Outcome:
        del group, member, since_ms
        return outcome

    monkeypatch.setattr(GroupCommit, "_recall", believe)
    with pytest.raises(Caught):
        unknown_everywhere("memory", Fault.APPLY_AND_FAIL, tmp_path)


def test_taking_an_unknown_outcome_for_success_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A commit that failed is believed, and everything after it is fenced."""

    async def hope(group: GroupCommit, members: list[Member]) -> list[Outcome]:
        try:
            return await group._store.commit(members)
        except group_commit.StoreUnavailableError:
            return [Applied(0, m.key if isinstance(m, Append) else 1) for m in members]

    monkeypatch.setattr(GroupCommit, "_write", hope)
    with pytest.raises(Caught):
        unknown_everywhere("memory", Fault.REFUSE, tmp_path)


def test_forgetting_the_attempt_is_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Recovery begins a step that is being retried at its first attempt again."""
    real = core_evolve._retry_scheduled

    def forget(run: Run, entry: RetryScheduled, at_ms: int) -> None:
        real(run, entry, at_ms)
        run.branches[entry.branch].attempt = 1

    monkeypatch.setattr(core_evolve, "_retry_scheduled", forget)
    with pytest.raises(Caught):
        crash_everywhere("memory", Fault.CRASH_AFTER, tmp_path)


def test_without_a_bug_both_pass(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    for name, check, fault in [
        ("a", crash_everywhere, Fault.CRASH_BEFORE),
        ("b", unknown_everywhere, Fault.REFUSE),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        check("memory", fault, folder)
