"""Values to payloads and back, by the reader's annotation (semantics rows 37, 45; invariants 37, 38, 42)."""

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import re
import typing
import uuid
from random import Random
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.codecs import json as codec
from holdfast.codecs.payload import JSON, PAYLOAD_MAX_BYTES, TEXT, split
from holdfast.core.run import Value
from holdfast.errors import CodecError, FormatError

SURROGATE = "a\ud800b"
decode_any = codec.decoder(Any)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Size(enum.StrEnum):
    SMALL = "s"


@dataclasses.dataclass
class Line:
    name: str
    price: decimal.Decimal
    colour: Colour = Colour.RED


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    id: uuid.UUID
    lines: list[Line]
    at: dt.datetime | None = None
    notes: dict[str, set[int]] = dataclasses.field(default_factory=dict)


class Person(typing.TypedDict):
    name: str
    age: int | None


class Point(msgspec.Struct):
    x: float
    y: float = 0.0


class Tagged(msgspec.Struct, tag=True, rename="camel"):
    first_name: str
    parent: "Tagged | None" = None


class Pair(NamedTuple):
    left: int
    right: str


class Stranger: ...


class Metres(float): ...


UTC = dt.UTC
LINE = Line("a", decimal.Decimal("9.90"), Colour.BLUE)
ORDER = Order(uuid.UUID(int=7), [LINE, Line("b", decimal.Decimal(0))], dt.datetime(2024, 2, 29, tzinfo=UTC))
ROUND_TRIPS: list[tuple[object, object]] = [
    (None, None),
    (bool, True),
    (int, -5),
    (int, 2**200),
    (float, 0.1),
    (float, 1.0),
    (str, 'naïve 名前 🙂 \0 " \\ \u2028'),
    (str, SURROGATE),
    (bytes, b"\0\xff"),
    (bytearray, bytearray(b"ab")),
    (decimal.Decimal, decimal.Decimal("1.10")),
    (uuid.UUID, uuid.UUID(int=2**127)),
    (dt.datetime, dt.datetime(2024, 2, 29, 12, 30, 0, 123_456, tzinfo=UTC)),
    (dt.datetime, dt.datetime(1, 1, 1)),  # noqa: DTZ001 - a naive one comes back naive
    (dt.date, dt.date(9999, 12, 31)),
    (dt.time, dt.time(23, 59, 59, 1)),
    (dt.timedelta, dt.timedelta(days=-1, microseconds=1)),
    (Colour, Colour.RED),
    (Colour, Colour.BLUE),
    (Level, Level.HIGH),
    (Size, Size.SMALL),
    (list[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (Pair, Pair(1, "x")),
    (set[str], {"a", "b"}),
    (frozenset[int], frozenset({1, 2})),
    (dict[str, int], {"a": 1, "": 2}),
    (dict[int, str], {1: "a", -2: "b"}),
    (dict[uuid.UUID, Level], {uuid.UUID(int=1): Level.LOW}),
    (int | None, None),
    (int | None, 5),
    (int | str, "5"),
    (typing.Literal["a", 1], 1),
    (Line, LINE),
    (Order, ORDER),
    (Order, Order(uuid.UUID(int=0), [], notes={"x": {1, 2}})),
    (list[Order], [ORDER, ORDER]),
    (dict[str, list[Order] | None], {"a": [ORDER], "b": None}),
    (Person, {"name": "ann", "age": None}),
    (list[Person], [{"name": SURROGATE, "age": 3}]),
    (Point, Point(1.5)),
    (Tagged, Tagged("ann", Tagged(SURROGATE))),
    (dict[str, dict[str, Line]], {SURROGATE: {"x": Line(SURROGATE, decimal.Decimal(1))}}),
    (dict[int, set[str]], {1: {SURROGATE}}),
    (list[bytes | None], [b"\xff", None]),
]


@pytest.mark.parametrize(
    ("annotation", "value"), ROUND_TRIPS, ids=[ascii(annotation)[:40] for annotation, _ in ROUND_TRIPS]
)
def test_a_value_comes_back_equal_under_its_annotation(annotation: object, value: object) -> None:
    """Row 45, invariant 37."""
    payload = codec.encode(value)
    again = codec.decoder(annotation)(payload)
    assert again == value
    assert type(again) is type(value)
    assert codec.encode(again) == payload


def test_plain_values_come_back_without_an_annotation() -> None:
    value = {"a": [1, 2.5, "x", None, True, {"b": []}], "": {}}
    assert decode_any(codec.encode(value)) == value


def test_without_an_annotation_a_reader_gets_plain_types() -> None:
    """The payload never says which class to make (invariant 42)."""
    assert decode_any(codec.encode(Order(uuid.UUID(int=7), [LINE]))) == {
        "id": "00000000-0000-0000-0000-000000000007",
        "lines": [{"name": "a", "price": "9.90", "colour": "blue"}],
        "at": None,
        "notes": {},
    }


def test_a_payload_says_in_front_what_it_is() -> None:
    assert codec.encode({"a": "é"}) == 'json.1:{"a":"é"}'.encode()
    assert codec.encode({"a": SURROGATE}) == b'text.1:{"a":"a\\ud800b"}'
    assert codec.encode(None) == b"json.1:null"


def has_pair(value: str) -> bool:
    return re.search("[\ud800-\udbff][\udc00-\udfff]", value) is not None


TEXTS = st.text(st.characters(exclude_categories=()), max_size=6).filter(lambda text: not has_pair(text))
WHOLE = st.integers(-(10**40), 10**40) | st.sampled_from([2**63, -(2**63) - 1, 2**64, 2**53 + 1])
SCALARS = st.none() | st.booleans() | WHOLE | TEXTS | st.floats(allow_nan=False, allow_infinity=False)
JSON_LIKE = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(JSON_LIKE)
def test_whatever_json_can_say_comes_back_the_same(value: object) -> None:
    """Invariant 37: also lone surrogates, NUL, numbers beyond 64 bits and negative zero."""
    payload = codec.encode(value)
    again = decode_any(payload)
    assert repr(again) == repr(value)
    assert codec.encode(again) == payload
    assert codec.flatten(payload) == payload


@given(st.binary(max_size=30), WHOLE, st.decimals(allow_nan=False), st.datetimes(timezones=st.just(UTC)))
def test_typed_values_come_back_the_same(
    data: bytes, number: int, price: decimal.Decimal, at: dt.datetime
) -> None:
    """Invariant 37."""
    value = (data, number, price, at)
    again = codec.decoder(tuple[bytes, int, decimal.Decimal, dt.datetime])(codec.encode(value))
    assert again == value
    assert [type(each) for each in again] == [type(each) for each in value]


def test_equal_sets_are_equal_payloads() -> None:
    """Invariant 35: the same input is the same run, also if another process made the set."""
    assert {0, 8} == {8, 0}
    assert codec.encode({0, 8}) == codec.encode({8, 0})


class Tags(msgspec.Struct, frozen=True, rename="camel", tag=True):
    all_tags: object

    def __post_init__(self) -> None:
        assert isinstance(self.all_tags, set | frozenset | dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Basket:
    items: object
    _hidden: int = 1

    def __post_init__(self) -> None:
        assert isinstance(self.items, set | frozenset | dict)


class Group(enum.Enum):
    EVEN = frozenset({0, 8})


ORDERED: list[tuple[object, bytes]] = [
    ({8, 0}, b"json.1:[0,8]"),
    ({10, 9}, b"json.1:[10,9]"),
    ({"b", 1, None, "a"}, b'json.1:["a","b",1,null]'),
    ([({8, 0},)], b"json.1:[[[0,8]]]"),
    ({1: {"x": {8, 0}}}, b'json.1:{"1":{"x":[0,8]}}'),
    (frozenset({frozenset({8, 0}), frozenset({1})}), b"json.1:[[0,8],[1]]"),
    (Tags({8, 0}), b'json.1:{"type":"Tags","allTags":[0,8]}'),
    ({Tags(frozenset({8, 0})), 5}, b'json.1:[5,{"type":"Tags","allTags":[0,8]}]'),
    (Basket({"x": {8, 0}}), b'json.1:{"items":{"x":[0,8]},"_hidden":1}'),
    ([Group.EVEN], b"json.1:[[0,8]]"),
    ({SURROGATE, "b"}, b'text.1:["a\\ud800b","b"]'),
    ({"a": {("é", SURROGATE), ("é", "x")}}, b'text.1:{"a":[["\\u00e9","a\\ud800b"],["\\u00e9","x"]]}'),
]


@pytest.mark.parametrize(("value", "payload"), ORDERED, ids=[ascii(each[1])[:40] for each in ORDERED])
def test_a_set_is_written_in_the_order_of_its_items_json(value: object, payload: bytes) -> None:
    """Invariant 35: at any depth."""
    assert codec.encode(value) == payload


def test_a_value_is_as_it_was_after_it_was_encoded() -> None:
    value = {"a": [Basket({8, 0})], "b": Tags({8, 0})}
    codec.encode(value)
    assert value == {"a": [Basket({8, 0})], "b": Tags({8, 0})}


@given(st.frozensets(st.integers() | st.text(max_size=3), max_size=8), st.randoms())
def test_equal_sets_made_in_any_order_are_equal_payloads(items: frozenset[object], random: Random) -> None:
    """Invariant 35."""
    mixed = list(items)
    random.shuffle(mixed)
    again: set[object] = set()
    for item in mixed:
        again.add(item)
    assert codec.encode([again]) == codec.encode([items])


@pytest.mark.parametrize("value", ["\ud83d\ude42", {"\ud83d\ude42": 1, "🙂": 2}], ids=["value", "keys"])
def test_two_halves_of_a_character_stay_two_or_are_refused(value: object) -> None:
    """Invariant 37."""
    try:
        payload = codec.encode(value)
    except CodecError:
        return
    assert decode_any(payload) == value


# what is refused


def nested(depth: int) -> object:
    value: object = None
    for _ in range(depth):
        value = [value]
    return value


def looped() -> object:
    loop: list[object] = []
    loop.append(loop)
    return {"loop": loop}


REFUSED: list[tuple[str, object, str, str]] = [
    ("nan", math.nan, "$", "nan has no JSON form"),
    ("infinity", {"a": [1, math.inf]}, "$.a[1]", "inf has no JSON form"),
    ("minus infinity", ({"x": -math.inf},), "$[0].x", "-inf has no JSON form"),
    ("nan in a dataclass", [Line("a", math.nan)], "$[0].price", "nan has no JSON form"),  # type: ignore[arg-type]
    ("nan in a struct", {"p": Point(1.0, math.nan)}, "$.p.y", "nan has no JSON form"),
    ("nan in a named tuple", Pair(math.nan, ""), "$[0]", "nan has no JSON form"),  # type: ignore[arg-type]
    ("nan in a set", {math.nan}, "$[0]", "nan has no JSON form"),
    ("colliding keys", {"a": {1: "x", "1": "y"}}, "$.a.1", "two keys are the same text in JSON"),
    ("colliding enums", {Level.LOW: 1, Level.LOW.value + 0.0: 1, "1": 2}, "$.1", "two keys are the same"),
    ("object", {"a": {"b": Stranger()}}, "$.a.b", "Stranger"),
    ("float of its own", [Metres(1)], "$[0]", "Metres"),
    ("class", [Stranger], "$[0]", "type"),
    ("function", {"f": len}, "$.f", "builtin_function_or_method"),
    ("complex", [1j], "$[0]", "complex"),
    ("exception", [[ValueError("x")]], "$[0][0]", "ValueError"),
    ("generator", {"g": (n for n in [1])}, "$.g", "generator"),
    ("key", {"a": {(1, 2): "x"}}, "$.a", "key (1, 2)"),
    ("none as a key", {None: 1}, "$", "key None"),
    ("two halves", {"a": [Line("\ud83d\ude42", decimal.Decimal(1))]}, "$.a[0].name", "two surrogates"),
    ("two halves in a set", {"a": {"\ud83d\ude42", "x"}}, "$.a[0]", "two surrogates"),
    ("two halves in a key", {"a": {"\ud83d\ude42": 1}}, "$.a", "two surrogates"),
    ("endless", looped(), "$.loop" + "[0]" * 64, "nested deeper than 64"),
    ("deep", nested(66), "$" + "[0]" * 65, "nested deeper than 64"),
]


@pytest.mark.parametrize(
    ("value", "path", "reason"), [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_what_cannot_be_encoded_is_refused_with_its_path(value: object, path: str, reason: str) -> None:
    """Section 7 of the design, invariant 37."""
    with pytest.raises(CodecError) as caught:
        codec.encode(value)
    assert caught.value.path == path
    assert reason in caught.value.reason
    assert str(caught.value) == f"{caught.value.reason} - at `{path}`; {caught.value.fix}"


def test_a_value_is_nested_up_to_64_deep() -> None:
    assert decode_any(codec.encode(nested(64))) == nested(64)


def test_a_payload_is_up_to_2_mib() -> None:
    """Limits of section 9; invariant 38."""
    room = PAYLOAD_MAX_BYTES - len(JSON) - 2
    assert len(codec.encode("x" * room)) == PAYLOAD_MAX_BYTES == 2 * 1024 * 1024
    with pytest.raises(CodecError) as caught:
        codec.encode("x" * (room + 1))
    assert caught.value.path == "$"
    assert "2097153 bytes" in caught.value.reason
    assert "pass its address" in caught.value.fix


@pytest.mark.parametrize("value", [[10**5_000], [SURROGATE, 10**5_000]], ids=["json", "text"])
def test_a_number_of_too_many_digits_is_refused(value: object) -> None:
    with pytest.raises(CodecError, match="4300 digits"):
        codec.encode(value)


class Reading(enum.Enum):
    MISSING = math.nan


class Optional(msgspec.Struct):
    at: int | msgspec.UnsetType = msgspec.UNSET


def test_a_nan_that_is_the_value_of_an_enum_is_refused() -> None:
    with pytest.raises(CodecError):
        codec.encode(Reading.MISSING)


def test_an_unset_field_is_left_out() -> None:
    assert codec.decoder(Optional)(codec.encode(Optional())) == Optional()


@pytest.mark.parametrize("value", [MappingProxyType({}), Line], ids=["mapping", "class"])
def test_what_only_looks_like_a_known_type_is_refused_with_its_path(value: object) -> None:
    with pytest.raises(CodecError) as caught:
        codec.encode({"a": [value]})
    assert caught.value.path == "$.a[0]"


# what does not fit


MISFITS: list[tuple[object, bytes, str]] = [
    (int, b'json.1:"5"', "$"),
    (int, b"json.1:1.5", "$"),
    (Order, b'json.1:{"id":"x","lines":[]}', "$.id"),
    (list[Line], b'json.1:[{"name":"a","price":"1"},{"name":5,"price":"1"}]', "$[1].name"),
    (Person, b'json.1:{"name":"ann"}', "$"),
    (Colour, b'json.1:"green"', "$"),
    (dict[str, int], b'json.1:{"a":null}', "$[...]"),
    (int, b'text.1:"5"', "$"),
    (list[Line], b'text.1:[{"name":"\\ud800","price":"x"}]', "$[0].price"),
    (Stranger, b"json.1:{}", "$"),
    (int, b"json.1:", "$"),
    (int, b"json.1:{", "$"),
    (int, b"json.1:5 5", "$"),
    (float, b"json.1:NaN", "$"),
    (float, b"json.1:1e999", "$"),
    (Any, b"json.1:" + b"[" * 100_000, "$"),
]


@pytest.mark.parametrize(("annotation", "payload", "path"), MISFITS, ids=[ascii(m[1])[:40] for m in MISFITS])
def test_a_payload_that_does_not_fit_is_refused_with_the_path(
    annotation: object, payload: bytes, path: str
) -> None:
    """Row 45."""
    with pytest.raises(CodecError) as caught:
        codec.decoder(annotation)(payload)
    assert caught.value.path == path
    assert caught.value.reason


@pytest.mark.parametrize("payload", [b"text.1:{", b'text.1:"\xff"', b'json.1:"\xff"'], ids=repr)
def test_a_damaged_payload_is_a_codec_error(payload: bytes) -> None:
    """Invariant 7."""
    with pytest.raises(CodecError):
        decode_any(payload)


@pytest.mark.parametrize("payload", [b"text.1:NaN", b"text.1:-Infinity"], ids=repr)
def test_a_payload_that_could_not_have_been_written_is_refused(payload: bytes) -> None:
    with pytest.raises(CodecError):
        decode_any(payload)


@pytest.mark.parametrize("payload", [b"", b"json", b"json.1", b"json.2:5", b"zlib.1|json.1:x", b"\x80:", b":5"])
def test_an_unknown_envelope_is_a_format_error(payload: bytes) -> None:
    """Invariant 7."""
    with pytest.raises(FormatError) as caught:
        decode_any(payload)
    assert repr(payload[:40]) in caught.value.subject
    assert caught.value.fix


def test_an_envelope_is_split_off_at_its_first_colon() -> None:
    assert split(b'json.1:{"a":1}') == (JSON, b'{"a":1}')
    assert split(b"text.1:") == (TEXT, b"")


def test_an_annotation_that_nothing_can_be_decoded_into_is_refused() -> None:
    with pytest.raises(CodecError, match="annotation"):
        codec.decoder(dict[str, int] | list[int] | Line | Point)


def test_data_never_chooses_a_class() -> None:
    """Invariant 42."""
    payload = b'json.1:{"type":"Line","__class__":"Line","py/object":"os.system","$type":"x"}'
    assert type(decode_any(payload)) is dict
    assert set(map(type, decode_any(payload).values())) == {str}


def test_a_type_has_a_json_schema() -> None:
    assert json.loads(codec.schema([int])) == {"type": "integer"}
    assert json.loads(codec.schema([Line]))["$defs"]["Line"]["required"] == ["name", "price"]
    both = json.loads(codec.schema([int, Line]))
    assert both["allOf"] == [{"type": "integer"}, {"$ref": "#/$defs/Line"}]


def test_a_type_without_a_json_schema_takes_anything() -> None:
    assert codec.schema([Stranger]) == b"{}"


# values that a join has made

FLAT: list[tuple[Value, bytes]] = [
    (b"json.1:1", b"json.1:1"),
    (b"text.1:1", b"text.1:1"),
    ({}, b"json.1:{}"),
    ({"a": b"json.1:1", "b": b'json.1:"x"'}, b'json.1:{"a":1,"b":"x"}'),
    ({"a": {"b": {"c": b"json.1:null"}}, "d": b"json.1:[]"}, b'json.1:{"a":{"b":{"c":null}},"d":[]}'),
    ({'quo"te\\': b"json.1:1", "": b"json.1:2"}, b'json.1:{"quo\\"te\\\\":1,"":2}'),
    ({"名": b"json.1:1"}, b'json.1:{"\\u540d":1}'),
    ({"a": b"json.1:1", "b": b'text.1:"\\ud800"'}, b'text.1:{"a":1,"b":"\\ud800"}'),
    (
        {"a": {"b": b'text.1:"\\ud800"'}, "c": 'json.1:"é"'.encode()},
        'text.1:{"a":{"b":"\\ud800"},"c":"é"}'.encode(),
    ),
]


@pytest.mark.parametrize(("value", "payload"), FLAT, ids=range(len(FLAT)))
def test_a_joined_value_is_one_payload(value: Value, payload: bytes) -> None:
    """Row 38: a dict keyed by each branch's name."""
    assert codec.flatten(value) == payload


def plain(value: Value) -> object:
    if isinstance(value, bytes):
        return decode_any(value)
    return {name: plain(part) for name, part in value.items()}


@given(st.dictionaries(st.text(max_size=4), JSON_LIKE.map(codec.encode), max_size=3))
def test_a_joined_value_decodes_to_its_parts(value: dict[str, bytes]) -> None:
    assert repr(decode_any(codec.flatten(value))) == repr(plain(value))


def test_a_joined_value_decodes_by_annotation() -> None:
    value: Value = {"left": codec.encode(LINE), "right": codec.encode(Line(SURROGATE, decimal.Decimal(1)))}
    assert codec.decoder(dict[str, Line])(codec.flatten(value)) == {
        "left": LINE,
        "right": Line(SURROGATE, decimal.Decimal(1)),
    }


def test_a_joined_value_with_an_unknown_part_is_a_format_error() -> None:
    with pytest.raises(FormatError):
        codec.flatten({"a": {"b": b"zlib.1:x"}})


def test_payloads_are_json_for_everybody() -> None:
    for value in ({"a": [1, 2.5, None]}, SURROGATE, 2**70):
        _, data = split(codec.encode(value))
        assert json.loads(data) == value
