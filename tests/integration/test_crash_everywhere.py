"""`crash_everywhere` finds what a crash would do to a user's workflow, and what is wrong with the engine."""

import asyncio
import threading
from pathlib import Path

import pytest

from holdfast import Flow, Retry, get_task_context, task
from holdfast.errors import RunWaitingError, UsageError
from holdfast.stores.memory import MemoryStore
from holdfast.stores.records import Append, Applied, Outcome
from holdfast.testing import CrashReport, Repeat, acrash_everywhere, crash_everywhere
from tests.simulation.planted import act_before_the_commit

PATIENCE_S = 10
TURNS = 300
PAID: list[int] = []
"""Stands for a payment service that takes every request for a new one."""
KNOWN: dict[str, int] = {}
"""Stands for one that knows its requests by a key."""


@task
async def reserve(amount: int) -> int:
    return amount + 1


@task
def pay(amount: int) -> int:
    PAID.append(amount)
    return amount


@task
def pay_once(amount: int) -> int:
    context = get_task_context()
    assert context is not None
    KNOWN.setdefault(context.idempotency_key, amount)
    return amount


@task(retry=Retry(base_delay="1h"))
async def ship(amount: int) -> int:
    context = get_task_context()
    assert context is not None
    if context.attempt == 1:
        raise ConnectionError("busy")
    return amount


CARELESS = Flow("careless").then(reserve).delay("rest", "3d").then(pay).then(ship)
CAREFUL = Flow("careful").then(reserve).delay("rest", "3d").then(pay_once).then(ship)
PARALLEL = Flow("parallel").then(reserve).fork().branch(pay_once).branch(ship).join(len).delay("rest", "9d")
ASKING = Flow("asking").then(reserve).wait_for_signal("amount", timeout="9d", on_timeout=pay).then(pay_once)


def crashed(flow: Flow, folder: Path | None = None, **options: object) -> CrashReport:
    PAID.clear()
    return crash_everywhere(flow, 1, reset=KNOWN.clear, effects=lambda: KNOWN, folder=folder, **options)


# Bugs of users.


def test_a_body_with_an_effect_that_is_not_idempotent_is_found() -> None:
    report = crash_everywhere(CARELESS, 1, reset=PAID.clear, effects=lambda: PAID)
    with pytest.raises(AssertionError) as caught:
        report.assert_safe()
    assert str(caught.value) == (
        "a crash is not harmless:\n"
        "  - crash before commit 4 (StepCompleted of step 'pay'): "
        "the effects are [2, 2], and without a crash [2] (ran more than once: pay)"
    )


def test_an_effect_that_is_idempotent_is_left_alone() -> None:
    report = crashed(CAREFUL)
    report.assert_safe()
    assert report.effects == {"crashed/1/main/pay_once/1": 2}


def test_without_a_look_at_effects_every_body_that_may_run_twice_must_be_named() -> None:
    report = crash_everywhere(CAREFUL, 1)
    assert report.repeated == {"reserve", "pay_once", "ship"}
    report.assert_safe(idempotent={"reserve", "pay_once", "ship"})
    with pytest.raises(AssertionError, match="the body of task 'pay_once' ran 2 times") as caught:
        report.assert_safe(idempotent={"reserve", "ship"})
    assert "reserve" not in str(caught.value)
    with pytest.raises(UsageError, match="no task pya was called; these were: pay_once, reserve, ship"):
        report.assert_safe(idempotent={"pya"})


def test_an_output_that_differs_from_call_to_call_is_found() -> None:
    called: list[int] = []

    def count(_: int) -> int:
        called.append(1)
        return len(called)

    flow = Flow("counting").then(count).then(reserve)
    report = crash_everywhere(flow, 1, reset=called.clear)
    with pytest.raises(AssertionError, match="the run ended with"):
        report.assert_safe(idempotent=report.tasks)
    report.assert_safe(idempotent=report.tasks, deterministic=False)


def test_a_run_that_waits_for_ever_is_told_before_anything_is_crashed() -> None:
    with pytest.raises(RunWaitingError, match="for signal 'go'"):
        crash_everywhere(Flow("stuck").then(reserve).wait_for_signal("go"), 1)


# What the report says.


def test_the_report_tells_of_each_commit_what_ran_again() -> None:
    report = crashed(CAREFUL)
    assert report.commits == 6
    assert report.outcome == ("completed", 2)
    # The end of the last step and that of the run are one commit.
    assert [(crash.commit, crash.when, crash.what) for crash in report.crashes[::2]] == [
        (1, "before", "the start of the run"),
        (2, "before", "StepCompleted of step 'reserve'"),
        (3, "before", "SleepEnded of step 'rest'"),
        (4, "before", "StepCompleted of step 'pay_once'"),
        (5, "before", "RetryScheduled of step 'ship'"),
        (6, "before", "StepCompleted of step 'ship', RunCompleted"),
    ]
    repeats = {(crash.commit, crash.when): crash.repeats for crash in report.crashes if crash.repeats}
    assert repeats == {
        (2, "before"): (Repeat("reserve", "reserve", "main", 1, 1, 2),),
        (4, "before"): (Repeat("pay_once", "pay_once", "main", 1, 1, 2),),
        (5, "before"): (Repeat("ship", "ship", "main", 1, 1, 2),),
        (6, "before"): (Repeat("ship", "ship", "main", 1, 2, 2),),
    }


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("flow", [CAREFUL, PARALLEL, ASKING], ids=lambda flow: flow.name)
def test_no_crash_changes_how_a_run_ends(flow: Flow, kind: str, tmp_path: Path) -> None:
    """Invariants 2, 3, 13 and 18, by way of what users have."""
    report = crashed(flow, tmp_path if kind == "sqlite" else None)
    report.assert_safe(idempotent=report.tasks)
    assert [crash.outcome for crash in report.crashes] == [report.outcome] * len(report.crashes)
    assert len(report.crashes) == 2 * report.commits


def test_signals_are_sent_at_their_time_and_received_once() -> None:
    report = crashed(ASKING, signals=[("amount", 50, "8d")])
    report.assert_safe()
    assert report.outcome == ("completed", 50)
    assert any(crash.what == "signal 'amount'" for crash in report.crashes)
    late = crashed(ASKING, signals=[("amount", 50, "10d")])
    late.assert_safe(idempotent={"reserve", "pay", "pay_once"})
    assert late.outcome == ("completed", 2)


def test_a_run_that_fails_is_compared_like_any_other() -> None:
    def refuse(_: int) -> int:
        raise ValueError("no")

    report = crashed(CAREFUL, replace={"pay_once": refuse})
    report.assert_safe()
    assert report.outcome == ("failed", "ValueError in step 'pay_once': no")


async def test_a_body_in_a_thread_that_outlives_its_process_is_done_before_the_next_one_begins() -> None:
    running: set[int] = set()
    together: list[int] = []
    gates: list[threading.Event] = []

    def alone(amount: int) -> int:
        me, gate = threading.get_ident(), threading.Event()
        running.add(me)
        together.append(len(running))
        gates.append(gate)
        gate.wait(PATIENCE_S)
        running.discard(me)
        return amount

    async def beside(amount: int) -> int:
        """Its commit is crashed in the middle of the other body."""
        for _ in range(TURNS):
            if running:
                break
            await asyncio.sleep(0)
        return amount

    async def open_each_gate_late() -> None:
        """After more turns of the loop than it takes to kill a process and to begin another."""
        opened = 0
        while True:
            for _ in range(TURNS):
                await asyncio.sleep(0)
            for gate in gates[:opened]:
                gate.set()
            opened = len(gates)

    flow = Flow("threads").then(reserve).fork().branch(alone).branch(beside).join(len)
    opening = asyncio.create_task(open_each_gate_late())
    report = await acrash_everywhere(flow, 1)
    opening.cancel()
    report.assert_safe(idempotent={"reserve", "alone", "beside", "len"})
    assert set(together) == {1}


async def test_inside_a_loop_it_is_awaited() -> None:
    with pytest.raises(UsageError, match="await acrash_everywhere"):
        crash_everywhere(CAREFUL, 1)
    KNOWN.clear()
    report = await acrash_everywhere(CAREFUL, 1, reset=KNOWN.clear, effects=lambda: KNOWN)
    report.assert_safe()


# Bugs of the engine.


def test_an_engine_that_acts_before_it_has_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    act_before_the_commit(monkeypatch)
    with pytest.raises(AssertionError, match="a bug of the engine: the body of 'reserve_2' began before"):
        crashed(Flow("f").then(reserve).then(reserve)).assert_safe()


def test_a_store_that_loses_what_it_has_acknowledged_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the file were not synced: the last entry is gone after the crash."""
    real = MemoryStore.open

    async def forget(store: MemoryStore) -> None:
        for row in store._rows.values():
            if row.status not in {"completed", "failed"} and len(row.journal) > 1:
                row.journal.pop()
                row.position -= 1
        await real(store)

    monkeypatch.setattr(MemoryStore, "open", forget)
    with pytest.raises(AssertionError, match="recorded as done, and its body ran again"):
        crashed(Flow("f").then(reserve).then(pay_once)).assert_safe(idempotent={"reserve", "pay_once"})


def test_a_store_that_loses_a_commit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that the end was written; the run never ends."""
    real = MemoryStore._append

    def lose(store: MemoryStore, append: Append, at_ms: int) -> Outcome:
        if append.status == "completed" and store._rows[append.key].epoch > 1:
            return Applied(at_ms, append.key)
        return real(store, append, at_ms)

    monkeypatch.setattr(MemoryStore, "_append", lose)
    with pytest.raises(AssertionError, match="the run ended with"):
        crashed(Flow("f").then(reserve).then(pay_once)).assert_safe()
