"""What a commit of a run does to other runs: children start, are controlled, and an outcome goes to its parent.

All of it is part of the append, so it happens exactly if the entries are recorded (semantics row 56).
"""

from collections.abc import Mapping, Sequence

import msgspec

from holdfast.codecs import json as codec
from holdfast.codecs.entries import decode_awaited, encode_entry, encode_outcome
from holdfast.core.children import ChildOutcome, outcome, passed_down, started
from holdfast.core.entries import (
    Child,
    Control,
    Entry,
    Failure,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationRetried,
    Paused,
    Reported,
    RunCancelled,
    StepSuspended,
    Unpaused,
)
from holdfast.core.header import run_after
from holdfast.core.operated import given_back
from holdfast.core.run import OVER, Operation, Run, place_of, split_place
from holdfast.runtime.inbox import OUTCOME, SIGNAL
from holdfast.stores.records import WAKES, Append, InboxRow, Message, NewRun, RunRecord

KINDS: Mapping[type[Control], str] = {Paused: "pause", Unpaused: "unpause", RunCancelled: "cancel"}
"""What a message is called that asks for a control; its payload is the encoded entry that is wanted."""


_INNER = OperationBegun | OperationCompleted | OperationRetried | StepSuspended | Reported


def completed(
    append: Append,
    record: RunRecord,
    run: Run,
    entries: Sequence[Entry],
    *,
    new: Mapping[str, NewRun],
    follow_ups: Sequence[NewRun] | Failure | None,
) -> Append:
    """The append of a run that is driven, with all that is part of it beside its entries.

    That is what goes back to the inbox, what `with_relatives` adds, and the runs that follow its completion.
    """
    lost = given_back(run, entries)
    if lost:
        append = msgspec.structs.replace(append, returned=tuple(map(_message, lost)))
    append = with_relatives(append, record, run, entries, new)
    if append.status == "completed" and follow_ups and not isinstance(follow_ups, Failure):
        return msgspec.structs.replace(append, children=(*append.children, *follow_ups))
    return append


def _message(operation: Operation) -> InboxRow:
    """The signal that a wait has taken, as it was."""
    taken, wait = operation.taken, operation.wait
    if taken is None or wait is None:
        raise RuntimeError(f"operation {operation.key} has taken no signal")
    return InboxRow(taken.seq, SIGNAL, wait.signal, taken.id, operation.output, taken.at_ms)


def with_relatives(
    append: Append, record: RunRecord, run: Run, entries: Sequence[Entry], new: Mapping[str, NewRun]
) -> Append:
    """The append with what `entries` mean to other runs.

    Args:
        append: What records them.
        record: The row of the run.
        run: Its state before them.
        entries: The same, decoded.
        new: Runs that its bodies want to start, by the places that ask for them.
    """
    begins = bool(new) and any(isinstance(e, OperationBegun | OperationCompleted) for e in entries)
    answers = record.parent_key is not None and append.status in OVER
    concerns = bool(run.children) and not all(_is_inner(entry) for entry in entries)
    if not (begins or answers or concerns):
        return append
    after = run_after(run, entries)
    asked = passed_down(run, after, entries) if concerns else []
    messages = [
        _control(record, append.position, number, child, control)
        for number, (child, control) in enumerate(asked)
    ]
    if answers:
        messages.append(_outcome(record, outcome(after)))
    children = _children(after, entries, new) if begins else ()
    if not messages and not children:
        return append
    return msgspec.structs.replace(append, messages=tuple(messages), children=children)


def _is_inner(entry: Entry) -> bool:
    """Whether an entry takes no child away from who waits for it, but by its outcome."""
    if isinstance(entry, OperationFailed):
        return entry.kind != "child" or bool(entry.seq)
    return isinstance(entry, _INNER)


def _children(after: Run, entries: Sequence[Entry], new: Mapping[str, NewRun]) -> tuple[NewRun, ...]:
    children = [_paused_with(new[place], after, place) for place in started(after, entries)]
    detached = [place_of(e.branch, e.key) for e in entries if isinstance(e, OperationCompleted)]
    return (*children, *(new[place] for place in detached if place in new))


def _paused_with(new: NewRun, after: Run, place: str) -> NewRun:
    """The child, paused from its start if what waits for it is."""
    pause = after.pause or after.branches[split_place(place)[0]].pause
    if pause is None:
        return new
    paused = msgspec.structs.replace(pause, branch="")
    return msgspec.structs.replace(new, entries=(*new.entries, encode_entry(paused)))


def given_up(record: RunRecord, inbox: Sequence[InboxRow]) -> Append:
    """What becomes of a run that cannot be read: it is blocked, or over if somebody has cancelled it."""
    cancel = next((row for row in inbox if row.kind == KINDS[RunCancelled]), None)
    append = Append(record.key, record.epoch, record.position, (), "blocked", None, None, messages_read=None)
    if cancel is None:
        return append
    return msgspec.structs.replace(
        append,
        entries=(cancel.payload,),
        status="cancelled",
        consumed=(cancel.seq,),
        messages=cancelled_outcome(record),
    )


def cancelled_outcome(record: RunRecord) -> tuple[Message, ...]:
    """What goes to the parent of a run that is cancelled although its journal cannot be read."""
    if record.parent_key is None:
        return ()
    failure = Failure("cancelled", f"run {record.id!r} was cancelled", ("cancelled",))
    return (_outcome(record, failure),)


def _outcome(record: RunRecord, ended: object) -> Message:
    failure = ended if isinstance(ended, Failure) else None
    output = None if failure is not None or ended is None else codec.flatten(ended)  # type: ignore[arg-type]
    awaited = decode_awaited(record.parent_step or b"", run_id=record.id)
    return Message(
        run_key=record.parent_key or 0,
        kind=OUTCOME,
        id=f"{OUTCOME}/{record.id}/{record.incarnation}",
        payload=encode_outcome(ChildOutcome(awaited, record.id, output, failure)),
        incarnation=record.parent_incarnation,
    )


def _control(record: RunRecord, position: int, number: int, child: Child, control: Control) -> Message:
    # Repeating the append repeats the ids, so that each is stored once.
    return Message(
        run_key=0,
        run_id=child.id,
        kind=KINDS[type(control)],
        id=f"{record.key}/{record.incarnation}/{position}/{number}",
        payload=encode_entry(control),
        # Also a run that nobody can drive is cancelled.
        wakes=(*WAKES, "blocked") if isinstance(control, RunCancelled) else WAKES,
    )
