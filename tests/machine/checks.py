"""What is stored of a run, and whether that can be: beside what the model says, what holds of any run."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from holdfast.codecs import json as codec
from holdfast.codecs.entries import decode_entry
from holdfast.core.entries import (
    Entry,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunReopened,
    RunStarted,
    SignalReceived,
    StepCompleted,
)
from holdfast.core.evolve import replay
from holdfast.core.invariants import check
from holdfast.errors import RunNotFoundError
from holdfast.runtime.explain import Explanation
from holdfast.runtime.views import Pause, RunStatus
from holdfast.stores.base import Store
from holdfast.stores.records import InboxRow, JournalRow, RunRecord
from holdfast.testing import TestEngine
from tests.machine.flows import WORLD, Call
from tests.machine.model import Fact, Run, fact

SHOWN = ("branch", "step", "attempt", "delay_ms", "payload", "reason", "by", "freezes")


class Seen(NamedTuple):
    """What the store and the engine say of one run at one moment."""

    record: RunRecord
    rows: list[JournalRow]
    inbox: list[InboxRow]
    status: RunStatus
    explanation: Explanation

    @property
    def entries(self) -> list[tuple[Entry, int]]:
        return [
            (decode_entry(row.entry, run_id=self.record.id, position=row.position), row.at_ms)
            for row in self.rows
        ]


async def see(env: TestEngine, store: Store, run_id: str) -> Seen | None:
    record = await store.find_run(run_id)
    try:
        handle = await env.get(run_id)
        status, explanation = await handle.status(), await handle.explain()
    except RunNotFoundError:
        assert record is None
        return None
    assert record is not None
    rows, inbox = await store.read_journal(record.key), await store.read_inbox(record.key)
    return Seen(record, rows, inbox, status, explanation)


async def see_all(env: TestEngine, store: Store, run_ids: Iterable[str]) -> dict[str, Seen | None]:
    return {run_id: await see(env, store, run_id) for run_id in run_ids}


def facts(seen: Seen) -> list[Fact]:
    return [_fact(entry, at_ms) for entry, at_ms in seen.entries]


def _fact(entry: Entry, at_ms: int) -> Fact:
    told = {name: getattr(entry, name) for name in SHOWN if hasattr(entry, name)}
    match entry:
        case RunStarted():
            told = {"workflow": entry.workflow, "input": codec.decoder(Any)(entry.input)}
        case SignalReceived():
            told["payload"] = codec.decoder(Any)(entry.payload)
        case RunFailed():
            told["failure"] = entry.failure.type
        case _:
            pass
    return fact(at_ms, type(entry).__name__, **told)


def problems_of(seen: Seen, before: Seen | None) -> list[str]:
    """Invariants 2, 4, 14, 29 and 32, which need no model."""
    record, entries = seen.record, [entry for entry, _ in seen.entries]
    run = replay(record.id, seen.entries)
    done = [(e.branch, e.step, e.visit) for e in entries if isinstance(e, StepCompleted)]
    lasts = [
        (entry, entries[n : n + 1])
        for n, entry in enumerate(entries, start=1)
        if isinstance(entry, RunCompleted | RunFailed | RunCancelled)
    ]
    same = before is not None and (before.record.key, before.record.incarnation) == (
        record.key,
        record.incarnation,
    )
    received = [entry.seq for entry in entries if isinstance(entry, SignalReceived)]
    claims = {
        "positions are gapless": [row.position for row in seen.rows] == list(range(1, len(seen.rows) + 1)),
        "nothing in a journal changes": not same or before.rows == seen.rows[: len(before.rows)],
        "stamps never fall": sorted(row.at_ms for row in seen.rows) == [row.at_ms for row in seen.rows],
        "epochs never fall": sorted(row.epoch for row in seen.rows) == [row.epoch for row in seen.rows],
        "the row has the status of the fold": record.status in {run.status, "pending"},
        "the row has the position of the fold": record.position == run.position,
        "the row has the due time of the fold": record.worker is not None
        or run.is_over
        or record.due_at_ms == run.due_at_ms,
        "nobody holds what is over": not run.is_over or record.worker is None,
        "a step completes once": len(done) == len(set(done)),
        "only a failed run goes on after its end": all(
            not after or (isinstance(last, RunFailed) and isinstance(after[0], RunReopened))
            for last, after in lasts
        ),
        "a message is consumed once": len(received) == len(set(received)),
        "what was consumed is not pending": not {row.seq for row in seen.inbox} & set(received),
        "at rest nothing that people asked for is left to do": all(
            row.kind == "signal" or run.is_over for row in seen.inbox
        ),
        "no run waits for what is pending": run.is_over
        or not set(run.waits.values()) & {row.name for row in seen.inbox if row.kind == "signal"},
        "there is a reason": bool(seen.explanation.reason and seen.explanation.detail),
        "status and explanation agree": seen.explanation.status == seen.status.status == record.status,
    }
    return [*check(run), *(claim for claim, holds in claims.items() if not holds)]


def difference(seen: Seen | None, model: Run | None) -> str:
    """The first thing in which the engine is not as the model says; "" if there is none."""
    if seen is None or model is None:
        return "" if seen is None and model is None else f"there is {seen}, and should be {model}"
    status = seen.status
    pairs: dict[str, tuple[object, object]] = {
        "incarnation": (seen.record.incarnation, model.incarnation),
        "journal": (sorted(facts(seen), key=repr), sorted(model.journal, key=repr)),
        "status": (status.status, model.status()),
        "branches": (
            {b.id: (b.status, b.attempt) for b in status.branches.values() if b.step},
            {b.id: (b.status, b.attempt) for b in model.branches.values() if b.step},
        ),
        "waiting": (
            {(w.branch, w.step, w.reason, _ms(w.due_at)) for w in status.waiting},
            model.waits(),
        ),
        "undelivered": (
            [(s.name, s.id, s.payload) for s in status.undelivered],
            model.inbox,
        ),
        "pause": (_hold(status.pause), model.pause),
        "pauses": (
            {b.id: _hold(b.pause) for b in status.branches.values() if b.status not in _ENDED},
            {b.id: b.hold for b in model.open()},
        ),
        "deadline": (_ms(status.deadline), model.deadline_ms),
        "output": (status.output, model.branches[model.output].value if model.output else None),
        "reason": (seen.explanation.reason, model.reason()),
    }
    return "; ".join(
        f"{name} is {is_!r}, should be {should!r}" for name, (is_, should) in pairs.items() if is_ != should
    )


_ENDED = frozenset({"completed", "failed", "cancelled"})


def _hold(pause: Pause | None) -> tuple[object, ...] | None:
    return None if pause is None else msgspec.structs.astuple(pause)


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1_000)


def wrong_calls(run_id: str, seen: Seen, model: Run) -> list[str]:
    """Bodies that began too often or not at all; each crash may have cut one off between body and record."""
    wrong: list[str] = []
    calls = {
        (call.branch, call.step, call.attempt): times
        for call, times in WORLD.calls.items()
        if call.run_id == run_id and call.incarnation == seen.record.incarnation
    }
    for key in calls.keys() | model.starts.keys():
        least = model.starts[key]
        most = least + model.may_start[key] + model.crashes
        if not least <= calls.get(key, 0) <= most:
            wrong.append(f"the body of {key} began {calls.get(key, 0)} times, not {least} to {most}")
    return wrong


def completed(run_id: str, seen: Seen) -> dict[Call, int]:
    """How often bodies of steps have begun that are recorded as completed: for ever."""
    return {
        call: WORLD.calls[call]
        for entry, _ in seen.entries
        if isinstance(entry, StepCompleted)
        for call in [Call(run_id, seen.record.incarnation, entry.branch, entry.step, entry.attempt)]
    }
