"""What the steps hand to one another: ordinary dataclasses, which Holdfast stores as JSON."""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

import msgspec

ORDERS_FILE = Path(__file__).with_name("orders.json")


@dataclass(frozen=True)
class Address:
    """Where a parcel goes."""

    street: str
    city: str
    postcode: str
    country: str


@dataclass(frozen=True)
class Line:
    """One product of an order; the price is per piece, in the order's currency."""

    sku: str
    quantity: int
    unit_price: Decimal


@dataclass(frozen=True)
class Order:
    """What a customer sent; nothing of it is checked yet."""

    id: str
    customer: str
    email: str
    address: Address
    currency: str
    lines: tuple[Line, ...]
    total: Decimal


@dataclass(frozen=True)
class Reservation:
    """Stock set aside in a warehouse. It lapses by itself if no parcel collects it."""

    order_id: str
    pieces: int
    address: Address
    reference: str


@dataclass(frozen=True)
class Payment:
    """Money taken from a card."""

    order_id: str
    amount: Decimal
    currency: str
    email: str
    reference: str


@dataclass(frozen=True)
class Ready:
    """What the join passes on: the output of each branch, by the branch's name."""

    reserve: Reservation
    charge: Payment


@dataclass(frozen=True)
class Parcel:
    """A box that waits for the carrier."""

    order_id: str
    pieces: int
    address: Address
    email: str
    reference: str


@dataclass(frozen=True)
class Shipment:
    """A parcel on its way: what the whole flow returns."""

    order_id: str
    carrier: str
    tracking: str
    email: str


@dataclass(frozen=True)
class Fault:
    """What the pretended outside does to one step of one order, on its first `times` attempts.

    `unreachable`: the request never arrives. `silent`: it is carried out, and the answer is lost.
    `busy`: come back later. `declined`: the bank says no, however often it is asked.
    """

    step: str
    kind: Literal["unreachable", "silent", "busy", "declined"]
    times: int = 1


@dataclass(frozen=True)
class OrdersFile:
    """The content of `orders.json`: orders by the customers, and faults by order id."""

    orders: tuple[Order, ...]
    faults: dict[str, Fault]


def read_orders() -> OrdersFile:
    """Read the 200 orders."""
    return msgspec.json.decode(ORDERS_FILE.read_bytes(), type=OrdersFile)
