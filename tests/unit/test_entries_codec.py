"""Entries to bytes and back (invariants 5 and 7); the bytes of every version are kept in tests/golden.

`entries_v3.json` is what is written today; the others have fewer entries and fields. All of them are read.
"""

import contextlib
import json
import typing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.codecs.entries import decode_entry, encode_entry
from holdfast.core.entries import (
    DELETED,
    Arrival,
    ArrivalKind,
    BranchJoined,
    Child,
    Entry,
    Failure,
    OperationBegun,
    OperationCompleted,
    OperationFailed,
    OperationKind,
    OperationRetried,
    Paused,
    Reported,
    RetryScheduled,
    RunBlocked,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunReopened,
    RunStarted,
    ScopesClosed,
    SignalReceived,
    SleepEnded,
    StepCompleted,
    StepSuspended,
    Taken,
    Unpaused,
    Wait,
    WaitTimedOut,
)
from holdfast.errors import FormatError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FAILURE = Failure(
    type="CardError",
    message="declined: \0 naïve 名前 🙂",
    types=("CardError", "PaymentError"),
    traceback="Traceback (most recent call last):\n",
    details=b'json.1:{"code":51}',
    notes=("first note", ""),
    cause=Failure("OSError", "", ("OSError",), cause=Failure("Deep", "cause")),
    step="charge",
)
FIRST_EXAMPLES: dict[str, Entry] = {
    "RunStarted": RunStarted(
        "order",
        "d7408859bb014f7c",
        b'json.1:{"id":42}',
        (Arrival("reserve", "reserve", 1, "task", "main"), Arrival("main-2", "gather", 1, "join", "main")),
    ),
    "StepCompleted": StepCompleted(
        "pay",
        "charge",
        3,
        2,
        b"text.1:null",
        (Arrival("pay", "gather", 1),),
        {"receipt": b'json.1:"r-1"', "": b"json.1:0"},
    ),
    "RetryScheduled": RetryScheduled("pay", "charge", 3, 2, 86_400_000, "timeout,CardError", FAILURE),
    "BranchJoined": BranchJoined(
        "main-2", "gather", 1, ("reserve", "pay"), (Arrival("main-2", "ship", 70_000),)
    ),
    "RunCompleted": RunCompleted("main-2"),
    "RunFailed": RunFailed("", "", 0, 0, Failure("journal_limit", "too long")),
}
SECOND_EXAMPLES: dict[str, Entry] = {
    **FIRST_EXAMPLES,
    "RunStarted": RunStarted(
        "order",
        "d7408859bb014f7c",
        b'json.1:{"id":42}',
        (
            Arrival("reserve", "reserve", 1, "task", "main"),
            Arrival("main-2", "gather", 1, "join", "main"),
            Arrival("main-3", "nap", 1, "sleep", "main", Wait("", 0)),
            Arrival("main-4", "dawn", 1, "sleep", "main", Wait("", None, 1_893_456_000_000)),
            Arrival("main-5", "approval", 1, "wait_signal", "main", Wait("approval", 2_592_000_000)),
        ),
        86_400_000,
    ),
    "SleepEnded": SleepEnded("main-3", "nap", 1, (Arrival("main-3", "nap", 2, "sleep", None, Wait("", 5)),)),
    "SignalReceived": SignalReceived(
        "main-5", "approval", 1, 70_000, b'json.1:{"ok":true}', (Arrival("main-5", "ship", 1),)
    ),
    "WaitTimedOut": WaitTimedOut("main-5", "approval", 1, (Arrival("main-5", "remind", 1),)),
    "Paused": Paused("", "naïve 名前", "ops@example.com", freezes=False),
    "Unpaused": Unpaused("main-5", "ops@example.com"),
    "RunCancelled": RunCancelled("not wanted", ""),
    "RunReopened": RunReopened("ops@example.com"),
}
KEY = "gather#1/0/charge#2"
EXAMPLES: dict[str, Entry] = {
    **SECOND_EXAMPLES,
    "RetryScheduled": RetryScheduled(
        "pay", "charge", 3, 2, 86_400_000, "timeout,CardError", FAILURE, operation=KEY
    ),
    "RunFailed": RunFailed("pay", "charge", 3, 2, FAILURE, operation=KEY),
    "RunBlocked": RunBlocked("pay", "charge", 3, "definition_changed", "expected naïve 名前"),
    "OperationBegun": OperationBegun(
        "pay",
        "charge",
        3,
        "gather#1/0/approval#1",
        "wait_signal",
        Wait("approval", 2_592_000_000),
        Child("order-42.ship#1", "ship"),
        {"asked": b"json.1:true"},
    ),
    "OperationCompleted": OperationCompleted(
        "pay",
        "charge",
        3,
        "race#1/0/approval#1",
        "wait_signal",
        b'json.1:{"ok":true}',
        70_000,
        {"asked": DELETED},
        Taken(70_000, "msg-1", 1_767_225_600_000),
    ),
    "OperationFailed": OperationFailed(
        "pay", "charge", 3, KEY, "child", FAILURE, 70_001, {"receipt": b'json.1:"r-1"'}
    ),
    "OperationRetried": OperationRetried(
        "pay", "charge", 3, KEY, 2, 5_000, "all", FAILURE, {"tries": b"json.1:1"}
    ),
    "ScopesClosed": ScopesClosed("pay", "charge", 3, "gather#1", (0, 70_000)),
    "StepSuspended": StepSuspended("pay", "charge", 3),
    "Reported": Reported("pay", "charge", 3, KEY, "heartbeat", b"json.1:[7]"),
}

TEXT = st.sampled_from(["", "main", "a\0b", "naïve", "名前", "🙂", "x" * 300])
COUNTS = st.integers(0, 2**63 - 1)
PAYLOADS = st.binary(max_size=16)
WAITS = st.builds(Wait, TEXT, st.none() | COUNTS, st.none() | COUNTS)
KINDS = st.sampled_from(typing.get_args(ArrivalKind))
ARRIVALS = st.builds(Arrival, TEXT, TEXT, COUNTS, KINDS, st.none() | TEXT, st.none() | WAITS)
ASKED = st.sampled_from(typing.get_args(OperationKind))
SETS = st.dictionaries(TEXT, PAYLOADS, max_size=3)
TAKEN = st.builds(Taken, COUNTS, TEXT, COUNTS)
CHILDREN = st.builds(Child, TEXT, TEXT)
SEVERAL = st.lists(ARRIVALS, max_size=3).map(tuple)
NAMES = st.lists(TEXT, max_size=3).map(tuple)
FAILURES = st.recursive(
    st.builds(Failure, TEXT, TEXT),
    lambda causes: st.builds(
        Failure, TEXT, TEXT, NAMES, TEXT, st.none() | PAYLOADS, NAMES, st.none() | causes, TEXT
    ),
    max_leaves=3,
)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(RunStarted, TEXT, TEXT, PAYLOADS, SEVERAL, st.none() | COUNTS),
    st.builds(
        StepCompleted,
        TEXT,
        TEXT,
        COUNTS,
        COUNTS,
        PAYLOADS,
        SEVERAL,
        SETS,
    ),
    st.builds(RetryScheduled, TEXT, TEXT, COUNTS, COUNTS, COUNTS, TEXT, FAILURES, TEXT),
    st.builds(BranchJoined, TEXT, TEXT, COUNTS, NAMES, SEVERAL),
    st.builds(RunCompleted, TEXT),
    st.builds(RunFailed, TEXT, TEXT, COUNTS, COUNTS, FAILURES, TEXT),
    st.builds(SleepEnded, TEXT, TEXT, COUNTS, SEVERAL),
    st.builds(SignalReceived, TEXT, TEXT, COUNTS, COUNTS, PAYLOADS, SEVERAL),
    st.builds(WaitTimedOut, TEXT, TEXT, COUNTS, SEVERAL),
    st.builds(Paused, TEXT, TEXT, TEXT, st.booleans()),
    st.builds(Unpaused, TEXT, TEXT),
    st.builds(RunCancelled, TEXT, TEXT),
    st.builds(RunReopened, TEXT),
    st.builds(RunBlocked, TEXT, TEXT, COUNTS, TEXT, TEXT),
    st.builds(OperationBegun, TEXT, TEXT, COUNTS, TEXT, ASKED, st.none() | WAITS, st.none() | CHILDREN, SETS),
    st.builds(OperationCompleted, TEXT, TEXT, COUNTS, TEXT, ASKED, PAYLOADS, COUNTS, SETS, st.none() | TAKEN),
    st.builds(OperationFailed, TEXT, TEXT, COUNTS, TEXT, ASKED, FAILURES, COUNTS, SETS),
    st.builds(OperationRetried, TEXT, TEXT, COUNTS, TEXT, COUNTS, COUNTS, TEXT, FAILURES, SETS),
    st.builds(ScopesClosed, TEXT, TEXT, COUNTS, TEXT, st.lists(COUNTS, max_size=3).map(tuple)),
    st.builds(StepSuspended, TEXT, TEXT, COUNTS),
    st.builds(Reported, TEXT, TEXT, COUNTS, TEXT, st.sampled_from(["progress", "heartbeat"]), PAYLOADS),
)


def decode(data: bytes) -> Entry:
    return decode_entry(data, run_id="order-42", position=7)


def golden(version: int) -> dict[str, bytes]:
    kept = json.loads((GOLDEN / f"entries_v{version}.json").read_text("utf-8"))
    return {name: bytes.fromhex(data) for name, data in kept.items()}


def with_waits(part: object) -> object:
    """A field as an older version wrote it, with the `wait` that its arrivals have by now."""
    are_arrivals = isinstance(part, list) and part and isinstance(part[0], list)
    return [[*arrival, None] for arrival in part] if are_arrivals else part  # type: ignore[attr-defined]


def fields(entry: Entry) -> list[object]:
    """An entry as the array it is stored as."""
    return msgspec.msgpack.decode(encode_entry(entry), type=list[object])


def test_every_type_of_entry_has_an_example() -> None:
    assert set(EXAMPLES) == {kind.__name__ for kind in typing.get_args(Entry)}
    assert {name: type(entry).__name__ for name, entry in EXAMPLES.items()} == {name: name for name in EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_today_writes_the_golden_bytes(name: str) -> None:
    """Invariant 5. A changed format needs a new file of golden bytes; this one stays and stays readable."""
    assert encode_entry(EXAMPLES[name]).hex() == golden(3)[name].hex()


@pytest.mark.parametrize("name", golden(3))
def test_today_reads_the_golden_bytes(name: str) -> None:
    """Invariant 5."""
    assert decode(golden(3)[name]) == EXAMPLES[name]


@pytest.mark.parametrize("name", golden(2))
def test_today_reads_what_the_second_version_wrote(name: str) -> None:
    """Invariant 5: fewer fields at the end mean what they meant, a failure of no operation."""
    assert decode(golden(2)[name]) == SECOND_EXAMPLES[name]


@pytest.mark.parametrize("name", golden(1))
def test_today_reads_what_the_first_version_wrote(name: str) -> None:
    """Invariant 5: fewer fields at the end mean what they meant, a run without a time-out, no wait."""
    assert decode(golden(1)[name]) == FIRST_EXAMPLES[name]


def test_each_version_has_all_of_its_entries() -> None:
    examples = (FIRST_EXAMPLES, SECOND_EXAMPLES, EXAMPLES)
    assert [set(golden(version)) for version in (1, 2, 3)] == [set(each) for each in examples]


LATER: dict[tuple[int, str], list[object]] = {
    (1, "RunStarted"): [None],
    (1, "RetryScheduled"): [""],
    (1, "RunFailed"): [""],
    (2, "RetryScheduled"): [""],
    (2, "RunFailed"): [""],
}
"""What today's writer adds to what a version wrote."""


@pytest.mark.parametrize(("version", "examples"), [(1, FIRST_EXAMPLES), (2, SECOND_EXAMPLES)])
def test_a_field_that_came_later_stands_behind_those_that_were_there(
    version: int, examples: dict[str, Entry]
) -> None:
    """Invariant 5: so that it is only missing in an old journal, and nothing is taken for something else."""
    for name, data in golden(version).items():
        was = msgspec.msgpack.decode(data, type=list[object])
        now = fields(examples[name])
        assert now[: len(was)] == ([with_waits(part) for part in was] if version == 1 else was)
        assert now[len(was) :] == LATER.get((version, name), [])


@given(ENTRIES)
def test_an_entry_comes_back_equal(entry: Entry) -> None:
    again = decode(encode_entry(entry))
    assert again == entry
    assert type(again) is type(entry)
    assert encode_entry(again) == encode_entry(entry)


def test_an_entry_begins_with_its_name() -> None:
    assert {name: fields(entry)[0] for name, entry in EXAMPLES.items()} == {name: name for name in EXAMPLES}


def refusal(data: bytes) -> FormatError:
    with pytest.raises(FormatError) as caught:
        decode(data)
    error = caught.value
    assert error.subject == "entry 7 of run 'order-42'"
    assert error.reason
    assert error.fix
    return error


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_entry_cut_short_anywhere_is_a_format_error(name: str) -> None:
    """Invariant 7."""
    data = encode_entry(EXAMPLES[name])
    for length in range(len(data)):
        refusal(data[:length])


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_entry_with_more_fields_than_are_known_is_a_format_error(name: str) -> None:
    """Invariant 7: it was written by a newer version, and what it means is not known here."""
    refusal(msgspec.msgpack.encode([*fields(EXAMPLES[name]), None]))


def test_more_fields_inside_an_entry_are_a_format_error_too() -> None:
    """Invariant 7."""
    name, *started = fields(EXAMPLES["RunStarted"])
    for newer in ([None, "new"], [["approval", None, None, "new"]]):
        newer_arrival = ["reserve", "reserve", 1, "task", "main", *newer]
        refusal(msgspec.msgpack.encode([name, *started[:3], [newer_arrival], None]))
    known: list[object] = ["reserve", "reserve", 1, "task", "main", ["approval"]]
    decode(msgspec.msgpack.encode([name, *started[:3], [known], None]))
    failed = fields(EXAMPLES["RunFailed"])
    newer_failure: list[object] = ["E", "", [], "", None, [], None, "", "new"]
    refusal(msgspec.msgpack.encode([*failed[:-2], newer_failure, ""]))
    decode(msgspec.msgpack.encode([*failed[:-2], newer_failure[:-1], ""]))
    begun = fields(EXAMPLES["OperationBegun"])
    refusal(msgspec.msgpack.encode([*begun[:-2], ["id", "ship", "new"], {}]))


@pytest.mark.parametrize(
    ("name", "field", "default"),
    [
        ("StepCompleted", "sets", {}),
        ("RunStarted", "timeout_ms", None),
        ("Paused", "freezes", True),
        ("RetryScheduled", "operation", ""),
        ("RunFailed", "operation", ""),
        ("OperationCompleted", "taken", None),
        *[(f"Operation{done}", "sets", {}) for done in ("Begun", "Failed", "Retried")],
    ],
)
def test_an_entry_that_stops_before_its_last_default_is_an_older_one(
    name: str, field: str, default: object
) -> None:
    """New fields go to the end and have defaults, so an older journal is read for ever."""
    assert getattr(EXAMPLES[name], field) != default
    entry = decode(msgspec.msgpack.encode(fields(EXAMPLES[name])[:-1]))
    assert entry == msgspec.structs.replace(EXAMPLES[name], **{field: default})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode(None),
        msgspec.msgpack.encode({}),
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode([1, "main"]),
        msgspec.msgpack.encode(["RunDreamt", "main"]),
        msgspec.msgpack.encode(["runcompleted", "main"]),
        msgspec.msgpack.encode(["RunCompleted"]),
        msgspec.msgpack.encode(["RunCompleted", 1]),
        msgspec.msgpack.encode(["RunCompleted", None]),
        msgspec.msgpack.encode(["RunCompleted", b"main"]),
        msgspec.msgpack.encode(["RunCompleted", "main"]) + b"\xc0",
        msgspec.msgpack.encode(["BranchJoined", "main", "join", 1.5, [], []]),
        msgspec.msgpack.encode(["BranchJoined", "main", "join", 1, [], [["b", "s", 1, "dream"]]]),
        msgspec.msgpack.encode(["Paused", "main", "", "", 1]),
        msgspec.msgpack.encode(["SignalReceived", "main", "s", 1, 1, "text", []]),
        msgspec.msgpack.encode(["OperationCompleted", "main", "s", 1, "k#1", "dream", b""]),
        msgspec.msgpack.encode(["Reported", "main", "s", 1, "", "dream", b""]),
        b'["RunCompleted","main"]',
    ],
    ids=range(20),
)
def test_what_is_no_entry_is_a_format_error(data: bytes) -> None:
    """Invariant 7."""
    refusal(data)


def test_text_that_is_no_utf8_is_a_format_error() -> None:
    """Invariant 7."""
    refusal(encode_entry(RunCompleted("main")).replace(b"main", b"\xff\xfe\xfd\xfc"))


def test_a_chain_of_causes_without_end_is_a_format_error() -> None:
    """Invariants 7 and 38."""
    head = encode_entry(RunFailed("", "", 0, 0, Failure("", "")))
    head = head[: head.rindex(b"\x98")]
    link = msgspec.msgpack.encode(["", "", [], "", None, [], None, ""])[:-2]
    refusal(head + link * 100_000 + b"\xc0" + b"\xa0" * 100_001)


@given(st.sampled_from([*EXAMPLES.values()]), st.data())
def test_a_damaged_entry_is_an_entry_or_a_format_error(entry: Entry, data: st.DataObject) -> None:
    """Invariant 7: whatever the bytes are, no other error comes of them."""
    damaged = bytearray(encode_entry(entry))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        # ASCII only: that text is no UTF-8 has a test of its own.
        damaged[place] = data.draw(st.integers(0, 127) | st.sampled_from([0x90, 0xC0, 0xC3, 0xCB]))
    with contextlib.suppress(FormatError, UnicodeDecodeError):
        assert isinstance(decode(bytes(damaged)), Entry)


@given(st.binary(max_size=64))
def test_bytes_of_anything_are_an_entry_or_a_format_error(data: bytes) -> None:
    """Invariant 7."""
    with contextlib.suppress(FormatError, UnicodeDecodeError):
        assert isinstance(decode(data), Entry)
