"""Signals and control of runs from outside (semantics rows 28, 31 to 33, 52).

What is for a run that a worker holds becomes a message in its inbox, which the worker reads before it starts
anything else. A run that nobody holds is controlled here and now, in one transaction: that needs neither a
worker nor the run's definition, so a run that nobody can drive can still be paused and cancelled.
"""

from collections.abc import Sequence

import msgspec

from holdfast.codecs import json as codec
from holdfast.codecs.entries import encode_entry
from holdfast.core.control import controlled
from holdfast.core.entries import Control, Entry, Paused, RunCancelled, RunReopened, Unpaused
from holdfast.core.events import ControlRequested
from holdfast.core.header import Header, header_after
from holdfast.core.run import OPEN, Run
from holdfast.definition.task import check_name
from holdfast.errors import (
    BranchNotFoundError,
    RunBlockedError,
    RunStateError,
    SignalLimitError,
)
from holdfast.ports import Ids
from holdfast.runtime import reads
from holdfast.runtime.folds import UNREADABLE, fold
from holdfast.runtime.inbox import CONTROLS, OUTCOME, SIGNAL, control_of
from holdfast.runtime.limits import PENDING_SIGNALS_MAX
from holdfast.runtime.patience import until_answered
from holdfast.runtime.relatives import KINDS, cancelled_outcome, with_relatives
from holdfast.runtime.worker import Worker
from holdfast.stores.base import Store
from holdfast.stores.records import (
    ENDED,
    Append,
    Applied,
    InboxRow,
    Message,
    Refused,
    RunRecord,
)


class Controls:
    """Sends to runs, and controls those that nobody holds."""

    def __init__(self, store: Store, worker: Worker, ids: Ids) -> None:
        """Args: where the runs are, who drives some of them here, and where ids of messages come from."""
        self._store = store
        self._worker = worker
        self._ids = ids

    async def signal(self, run_id: str, name: str, payload: object, message_id: str | None) -> str:
        """Store a signal; see `AsyncHandle.signal`. Returns its id."""
        check_name(name, what="signal name")
        given = self._ids.message_id() if message_id is None else check_name(message_id, what="signal id")
        encoded = codec.encode(payload)
        while True:
            record = await self._find(run_id)
            if record.messages_sent >= PENDING_SIGNALS_MAX:
                await self._check_pending(record, given)
            if await self._send(record, SIGNAL, given, encoded, name):
                return given

    async def control(self, run_id: str, wanted: Paused | Unpaused | RunCancelled) -> None:
        """Pause, unpause or cancel a run. Now it is recorded, or the run's worker must record it next.

        Raises:
            RunNotFoundError, RunStateError, BranchNotFoundError, RunBlockedError: Nothing happened.
        """
        given, payload = self._ids.message_id(), encode_entry(wanted)
        sent: str | None = None
        while True:
            record = await self._find(run_id)
            if record.status in ENDED:
                # What was sent was heard before the end; a cancel, by whomever, is the end.
                was_heard = sent is not None and not isinstance(wanted, RunCancelled)
                if was_heard or (record.status == "cancelled" and isinstance(wanted, RunCancelled)):
                    return
                raise _ended(record, KINDS[type(wanted)])
            if record.worker is None:
                if await self._record(record, wanted, sent):
                    return
            elif sent is not None:
                return
            else:
                if _branch_of(wanted):
                    run, _ = await fold(self._store, record)
                    _check_branch(run, wanted)
                # A worker may have given the run back meanwhile, without knowing: look once more.
                if await self._send(record, KINDS[type(wanted)], given, payload, ""):
                    sent = given

    async def retry(self, run_id: str, by: str) -> None:
        """Let a failed run go on where it failed; see `AsyncEngine.retry`."""
        while True:
            record = await self._find(run_id)
            if record.status != "failed":
                raise RunStateError(
                    run_id=run_id,
                    status=record.status,
                    what="cannot be retried",
                    fix='only a failed run can; start(..., on_conflict="restart") begins it anew',
                )
            if await self._record(record, RunReopened(by), None):
                return

    async def _check_pending(self, record: RunRecord, message_id: str) -> None:
        """Refuse a signal too many; one that is sent again is none."""
        if await self._store.pending(record.key) < PENDING_SIGNALS_MAX:
            return
        inbox = await self._store.read_inbox(record.key)
        if all(row.id != message_id for row in inbox):
            raise SignalLimitError(run_id=record.id, limit=PENDING_SIGNALS_MAX)

    async def _find(self, run_id: str) -> RunRecord:
        return await until_answered(lambda: reads.find(self._store, run_id), what="controlling a run")

    async def _send(self, record: RunRecord, kind: str, message_id: str, payload: bytes, name: str) -> bool:
        """Store a message; False if the run is over, replaced or gone by now."""
        if record.status in ENDED:
            raise _ended(record, kind)
        message = Message(
            run_key=record.key,
            kind=kind,
            id=message_id,
            payload=payload,
            name=name,
            incarnation=record.incarnation,
        )
        outcome = await self._worker.group.commit(message)
        if isinstance(outcome, Applied):
            self._worker.notice(record.id, outcome.messages_sent)
            return True
        if isinstance(outcome, Refused):
            raise outcome.error
        return False

    async def _record(self, record: RunRecord, wanted: Control, sent: str | None) -> bool:
        """Control a run that nobody holds; False where it is held by now, or has changed.

        `sent` is the id of the message that has asked for it before: where that is gone, it was heard.
        """
        is_cancel = isinstance(wanted, RunCancelled)
        if record.status == "blocked" and not is_cancel:
            raise RunBlockedError(run_id=record.id, reason=await reads.why_blocked(self._store, record))
        try:
            run, inbox = await fold(self._store, record)
        except UNREADABLE:
            if not is_cancel:
                raise
            # Whatever its journal says: it is over.
            append = self._append(record, [wanted], Header("cancelled"), [], None)
            append = msgspec.structs.replace(append, messages=cancelled_outcome(record))
            return isinstance(await self._worker.group.commit(append), Applied)
        if sent is not None and all(row.id != sent for row in inbox):
            return True
        _check_branch(run, wanted)
        asked = [control_of(row, record.id) for row in inbox if row.kind in CONTROLS]
        entries = controlled(run, [*asked, ControlRequested(0, wanted)])
        if isinstance(wanted, RunReopened) and not entries:
            raise RunStateError(
                run_id=record.id,
                status=record.status,
                what="cannot be retried: no step of it failed",
                fix='start(..., on_conflict="restart") begins it anew',
            )
        if run.position != record.position:
            return False
        if not entries and not asked:
            return True
        read, header = max(record.messages_sent, *(row.seq for row in inbox), 0), header_after(run, entries)
        append = self._append(record, entries, header, inbox, read)
        append = with_relatives(append, record, run, entries, {})
        applied = isinstance(await self._worker.group.commit(append), Applied)
        self._worker.expect_mail()
        # A cancel that was asked for before may have ended it: then what is wanted now has come too late.
        return applied and (is_cancel or header.status not in ENDED)

    def _append(
        self,
        record: RunRecord,
        entries: Sequence[Entry],
        header: Header,
        inbox: list[InboxRow],
        read: int | None,
    ) -> Append:
        # A signal that is there may be what a branch waits for that goes on now: then the run is due.
        has_signals = any(row.kind in {SIGNAL, OUTCOME} for row in inbox) and header.status not in ENDED
        return Append(
            record.key,
            record.epoch,
            record.position,
            [encode_entry(entry) for entry in entries],
            header.status,
            # A join that was met in the turn of the failure goes on when a worker looks.
            0 if any(isinstance(entry, RunReopened) for entry in entries) else header.due_at_ms,
            None,
            header.due_in_ms,
            messages_read=0 if has_signals else read,
            consumed=tuple(row.seq for row in inbox if row.kind in CONTROLS),
            is_held=False,
        )


def _branch_of(wanted: Control) -> str:
    return wanted.branch if isinstance(wanted, Paused | Unpaused) else ""


def _check_branch(run: Run, wanted: Control) -> None:
    branch = _branch_of(wanted)
    known = [each.id for each in run.branches.values() if each.status in OPEN]
    if branch and branch not in known:
        raise BranchNotFoundError(run_id=run.id, branch=branch, known=known)


def _ended(record: RunRecord, kind: str) -> RunStateError:
    what = {
        SIGNAL: "takes no signal any more",
        "pause": "cannot be paused",
        "unpause": "cannot be unpaused",
        "cancel": "cannot be cancelled",
    }[kind]
    fix = "it is over; a retry lets it go on" if record.status == "failed" else "it is over"
    return RunStateError(run_id=record.id, status=record.status, what=what, fix=fix)
