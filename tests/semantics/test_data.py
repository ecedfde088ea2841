"""Row 45: what goes from step to step is typed by the annotation of the step that reads it."""

import enum
import uuid
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypedDict

import msgspec
import pytest

from holdfast import Flow
from holdfast.errors import CodecError, InputError, TaskError
from tests.semantics.places import Place, entries, kinds


class Color(enum.Enum):
    RED = "red"


@dataclass
class Item:
    name: str
    price: Decimal
    count: int = 1


@dataclass
class Order:
    id: int
    items: list[Item]
    placed: datetime
    color: Color | None = None
    notes: dict[str, str] = field(default_factory=dict)


class Address(TypedDict):
    street: str
    number: int


class Parcel(msgspec.Struct):
    address: Address
    weights: tuple[float, ...]


ORDER = Order(7, [Item("pen", Decimal("1.10"), 2)], datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), Color.RED)


async def test_a_dataclass_arrives_as_a_dataclass_sync_and_async(place: Place) -> None:
    """Row 45."""

    async def check(order: Order) -> Order:
        assert order == ORDER
        return order

    def price(order: Order) -> Item:
        assert order == ORDER
        return order.items[0]

    assert await place.run(Flow("order").then(check).then(price), ORDER) == Item("pen", Decimal("1.10"), 2)


async def test_plain_data_fits_an_annotation_it_could_come_from(place: Place) -> None:
    """Row 45."""

    def first(order: Order) -> str:
        return order.items[0].name

    value = {
        "id": 1,
        "items": [{"name": "ink", "price": "3.5"}],
        "placed": "2026-01-02T03:04:05Z",
    }
    assert await place.run(Flow("order").then(first), value) == "ink"


async def test_typed_dicts_structs_lists_and_optional_ones_are_typed(place: Place) -> None:
    """Row 45."""

    def pack(address: Address) -> Parcel:
        return Parcel(address, (1.5, 2.0))

    def unpack(parcel: Parcel | None) -> list[Address | None]:
        assert isinstance(parcel, Parcel)
        assert parcel.weights == (1.5, 2.0)
        return [parcel.address, None]

    def last(addresses: list[Address | None]) -> Address | None:
        return addresses[0]

    flow = Flow("post").then(pack).then(unpack).then(last)
    assert await place.run(flow, {"street": "Long", "number": 3}) == {"street": "Long", "number": 3}


async def test_a_reader_without_annotation_gets_plain_json(place: Place) -> None:
    """Row 45."""

    def look(order) -> list[str]:  # type: ignore[no-untyped-def]  # noqa: ANN001 - the case
        assert isinstance(order, dict)
        return sorted(order)

    assert await place.run(Flow("order").then(look), ORDER) == ["color", "id", "items", "notes", "placed"]


VALUES = [
    (uuid.UUID(int=5), uuid.UUID),
    (date(2026, 2, 3), date),
    (timedelta(seconds=90), timedelta),
    (b"\x00\xff", bytes),
    ({1, 2}, set[int]),
    ((1, "a"), tuple[int, str]),
    ({1: "a"}, dict[int, str]),
    (2**60, int),
    (0.1, float),
    ("a\x00b", str),
    ("\ud800", str),
    ({"a": ["\udfff"]}, dict[str, list[str]]),
    (None, None),
]


@pytest.mark.parametrize(("value", "annotation"), VALUES, ids=lambda value: repr(value)[:30])
async def test_a_value_comes_back_as_it_went_in(place: Place, value: object, annotation: Any) -> None:  # noqa: ANN401 - a type
    """Row 45."""

    def keep(given: Any) -> Any:  # noqa: ANN401 - set below
        assert given == value
        return given

    keep.__annotations__ = {"given": annotation, "return": annotation}
    flow = Flow("keep").then(keep)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, value, id="run-1")
        assert await handle.result() == value
    async with place.engine(flow) as engine:
        assert await (await engine.get("run-1")).result() == value


async def test_what_a_step_gets_is_a_copy(place: Place) -> None:
    """Row 45."""
    given = {"list": [1]}

    def change(value: dict[str, list[int]]) -> dict[str, list[int]]:
        value["list"].append(2)
        return value

    assert await place.run(Flow("order").then(change), given) == {"list": [1, 2]}
    assert given == {"list": [1]}


async def test_input_that_does_not_fit_names_step_and_field(place: Place) -> None:
    """Row 45."""

    def check(order: Order) -> int:
        return order.id

    flow = Flow("order").then(check)
    bad = {"id": 1, "items": [{"name": "ink", "price": []}], "placed": "2026-01-02T03:04:05Z"}
    async with place.engine(flow) as engine:
        with pytest.raises(InputError) as caught:
            await engine.start(flow, bad, id="order-1")
        assert (caught.value.workflow, caught.value.step) == ("order", "check")
        assert "$.items[0].price" in str(caught.value)
        with pytest.raises(InputError, match=r"check.*missing required field `id`"):
            await engine.start(flow, {}, id="order-1")
        assert await engine.list() == []


async def test_input_is_checked_for_every_branch_of_a_first_fork(place: Place) -> None:
    """Row 45."""

    def one(x: int) -> int:
        return x

    def two(x: str) -> str:
        return x

    flow = Flow("order").fork().branch(one).branch(two).join(dict)
    async with place.engine(flow) as engine:
        with pytest.raises(InputError, match="step 'two'"):
            await engine.start(flow, 5)


async def test_input_that_cannot_be_encoded_names_its_place(place: Place) -> None:
    """Row 45."""

    def look(value: Any) -> str:  # noqa: ANN401 - the case
        return str(value)

    flow = Flow("order").then(look)
    async with place.engine(flow) as engine:
        for bad, path in (
            (float("nan"), "$"),
            ({"a": [1, float("inf")]}, "$.a[1]"),
            ({"a": object()}, "$.a"),
            ({1: "a", "1": "b"}, "$.1"),
            ("x" * (2 * 1024 * 1024), "$"),
        ):
            with pytest.raises(InputError) as caught:
                await engine.start(flow, bad)
            assert f"`{path}`" in str(caught.value)
        assert await engine.list() == []


async def test_data_that_does_not_fit_between_steps_fails_the_second_at_once(place: Place) -> None:
    """Row 45."""

    def first(x: int) -> dict[str, Any]:
        return {"street": "Long", "number": f"{x}"}

    def second(address: Address) -> int:
        return address["number"]

    flow = Flow("order").then(first).then(second)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 3)
        with pytest.raises(TaskError) as caught:
            await handle.result()
        failure = caught.value.failure
        assert (failure.type, failure.step) == ("CodecError", "second")
        assert "`$.number`" in failure.message
        assert await kinds(handle) == ["RunStarted", "StepCompleted", "RunFailed"]


async def test_output_that_cannot_be_encoded_fails_the_step_at_once(place: Place) -> None:
    """Row 45."""
    calls = 0
    for bad, path in (({"a": [0, object()]}, "$.a[1]"), ([float("nan")], "$[0]"), (Item, "$")):
        for is_async in (False, True):

            def give() -> object:
                nonlocal calls
                calls += 1
                return bad  # noqa: B023 - called within this turn

            async def give_async() -> object:
                return give()

            flow = Flow("order").then(give_async if is_async else give, name="give")
            async with place.engine(flow) as engine:
                handle = await engine.start(flow)
                with pytest.raises(TaskError) as caught:
                    await handle.result()
                failure = caught.value.failure
                assert (failure.type, failure.step) == ("CodecError", "give")
                assert f"`{path}`" in failure.message
                assert await kinds(handle) == ["RunStarted", "RunFailed"]
    assert calls == 6


async def test_output_of_another_type_than_annotated_is_an_error_that_says_where(place: Place) -> None:
    """Row 45."""

    def give(_x: int) -> int:
        return "text"  # type: ignore[return-value] - the case

    flow = Flow("order").then(give)
    async with place.engine(flow) as engine:
        handle = await engine.start(flow, 1, id="order-1")
        with pytest.raises((CodecError, TaskError), match=r"order-1.*int"):
            await handle.result()
        assert len(await entries(handle)) >= 2
