"""Entries to bytes and back (invariants 5 and 7); today's bytes are kept in tests/golden."""

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
    Arrival,
    BranchJoined,
    Entry,
    Failure,
    RetryScheduled,
    RunCompleted,
    RunFailed,
    RunStarted,
    StepCompleted,
)
from holdfast.errors import FormatError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "entries_v1.json"
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
EXAMPLES: dict[str, Entry] = {
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

TEXT = st.sampled_from(["", "main", "a\0b", "naïve", "名前", "🙂", "x" * 300])
COUNTS = st.integers(0, 2**63 - 1)
PAYLOADS = st.binary(max_size=16)
ARRIVALS = st.builds(Arrival, TEXT, TEXT, COUNTS, st.sampled_from(["task", "join"]), st.none() | TEXT)
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
    st.builds(RunStarted, TEXT, TEXT, PAYLOADS, SEVERAL),
    st.builds(
        StepCompleted,
        TEXT,
        TEXT,
        COUNTS,
        COUNTS,
        PAYLOADS,
        SEVERAL,
        st.dictionaries(TEXT, PAYLOADS, max_size=3),
    ),
    st.builds(RetryScheduled, TEXT, TEXT, COUNTS, COUNTS, COUNTS, TEXT, FAILURES),
    st.builds(BranchJoined, TEXT, TEXT, COUNTS, NAMES, SEVERAL),
    st.builds(RunCompleted, TEXT),
    st.builds(RunFailed, TEXT, TEXT, COUNTS, COUNTS, FAILURES),
)


def decode(data: bytes) -> Entry:
    return decode_entry(data, run_id="order-42", position=7)


def golden() -> dict[str, bytes]:
    return {name: bytes.fromhex(data) for name, data in json.loads(GOLDEN.read_text("utf-8")).items()}


def fields(entry: Entry) -> list[object]:
    """An entry as the array it is stored as."""
    return msgspec.msgpack.decode(encode_entry(entry), type=list[object])


def test_every_type_of_entry_has_an_example() -> None:
    assert set(EXAMPLES) == {kind.__name__ for kind in typing.get_args(Entry)}
    assert {name: type(entry).__name__ for name, entry in EXAMPLES.items()} == {name: name for name in EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_today_writes_the_golden_bytes(name: str) -> None:
    """Invariant 5. A changed format needs a new file of golden bytes; this one stays and stays readable."""
    assert encode_entry(EXAMPLES[name]).hex() == golden()[name].hex()


@pytest.mark.parametrize("name", golden())
def test_today_reads_the_golden_bytes(name: str) -> None:
    """Invariant 5."""
    assert decode(golden()[name]) == EXAMPLES[name]


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
    newer_arrival = ["reserve", "reserve", 1, "task", "main", "new"]
    refusal(msgspec.msgpack.encode([name, *started[:-1], [newer_arrival]]))
    failed = fields(EXAMPLES["RunFailed"])
    newer_failure: list[object] = ["E", "", [], "", None, [], None, "", "new"]
    refusal(msgspec.msgpack.encode([*failed[:-1], newer_failure]))


def test_an_entry_that_stops_before_its_last_default_is_an_older_one() -> None:
    """New fields go to the end and have defaults, so an older journal is read for ever."""
    older = fields(EXAMPLES["StepCompleted"])[:-1]
    entry = decode(msgspec.msgpack.encode(older))
    assert isinstance(entry, StepCompleted)
    assert entry.sets == {}


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
        b'["RunCompleted","main"]',
    ],
    ids=range(16),
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
    refusal(head + link * 100_000 + b"\xc0" + b"\xa0" * 100_000)


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
