"""The workflow: check an order, set its stock aside and charge the card side by side, pack, ship.

                 .-> reserve -.
    validate --->|            |---> pack ---> ship
                 '-> charge  -'

The steps are ordinary functions. Holdfast records the output of each before the next one begins;
that is all that makes the flow durable, and nothing in the functions has to know of it. One rule
comes with it: a process can die after a body has done its work and before that is recorded, and
then the body runs once more. So everything that reaches the outside carries the step's idempotency
key, by which the outside knows it again.
"""

import asyncio
import time
from decimal import Decimal

from examples.orders.model import Order, Parcel, Payment, Ready, Reservation, Shipment
from examples.orders.world import BusyError, Request, world
from holdfast import Flow, Retry, get_task_context, task

PRODUCTS = frozenset(
    {
        "BIKE-BELL-01",
        "BIKE-LOCK-03",
        "BIKE-PUMP-02",
        "BOOK-SEA-11",
        "BOOK-TREE-07",
        "CUP-ENAMEL-BLUE",
        "CUP-ENAMEL-RED",
        "INK-BLACK-50",
        "KETTLE-1L",
        "KNIFE-PARING",
        "LAMP-DESK-A",
        "LAMP-FLOOR-B",
        "MUG-STONE-4",
        "NOTEBOOK-A5-DOT",
        "PAN-IRON-24",
        "PEN-FOUNTAIN-M",
        "RUG-WOOL-120",
        "SCARF-LINEN",
        "TEA-ASSAM-250",
        "TEA-SENCHA-100",
        "TENT-2P",
        "TOWEL-WAFFLE",
        "VASE-CLEAR-S",
        "WATER-BOTTLE-07",
    }
)

UNTIL_IT_ANSWERS = Retry(
    error_equals=(TimeoutError, BusyError), max_retries=5, base_delay="50ms", max_delay="1s"
)
"""For trouble that passes. Any other error ends the run as failed, at once."""


class InvalidOrderError(Exception):
    """An order that cannot be right, whoever looks at it and whenever."""


@task
def validate(order: Order) -> Order:
    """Let through only orders that can be right: nothing else ever reaches warehouse or bank."""
    with asking(order.id) as catalogue:
        time.sleep(catalogue.way_s)
        problem = problem_of(order)
        if problem is not None:
            raise InvalidOrderError(problem)
        catalogue.apply(f"accept {len(order.lines)} lines")
    return order


@task(retry=UNTIL_IT_ANSWERS)
async def reserve(order: Order) -> Reservation:
    """Set the pieces aside in the warehouse."""
    pieces = sum(line.quantity for line in order.lines)
    with asking(order.id) as warehouse:
        await asyncio.sleep(warehouse.way_s)
        reference = warehouse.apply(f"reserve {pieces} pieces")
        await asyncio.sleep(warehouse.way_s)
    return Reservation(order.id, pieces, order.address, reference)


@task(retry=UNTIL_IT_ANSWERS)
async def charge(order: Order) -> Payment:
    """Take the money. A bank that did not answer may have it: the key makes asking again safe."""
    with asking(order.id) as bank:
        await asyncio.sleep(bank.way_s)
        reference = bank.apply(f"charge {order.total} {order.currency} to {order.customer}")
        await asyncio.sleep(bank.way_s)
    return Payment(order.id, order.total, order.currency, order.email, reference)


@task(retry=UNTIL_IT_ANSWERS)
def pack(ready: Ready) -> Parcel:
    """Put the reserved and paid pieces into a parcel; begins when both branches are done."""
    reservation, payment = ready.reserve, ready.charge
    with asking(reservation.order_id) as packers:
        time.sleep(packers.way_s)
        reference = packers.apply(f"pack {reservation.reference}, paid by {payment.reference}")
        time.sleep(packers.way_s)
    return Parcel(reservation.order_id, reservation.pieces, reservation.address, payment.email, reference)


@task(retry=UNTIL_IT_ANSWERS)
async def ship(parcel: Parcel) -> Shipment:
    """Hand the parcel to the carrier; what this returns is the output of the whole run."""
    city = parcel.address.city
    with asking(parcel.order_id) as carrier:
        await asyncio.sleep(carrier.way_s)
        tracking = carrier.apply(f"carry {parcel.reference} to {city}")
        await asyncio.sleep(carrier.way_s)
    return Shipment(parcel.order_id, f"carrier of {parcel.address.country}", tracking, parcel.email)


orders = Flow("orders").then(validate).fork().branch(reserve).branch(charge).join(pack).then(ship)


def asking(order_id: str) -> Request:
    """Open a request to the outside that carries this step's idempotency key.

    The key is the same for every attempt of this step of this run, also after a crash, and for
    nothing else.
    """
    context = get_task_context()
    if context is None:
        raise RuntimeError("this is no step of a run: call it from a task")
    return world().request(order_id, context)


def problem_of(order: Order) -> str | None:
    """Say what is wrong with an order, or return None."""
    if not order.lines:
        return "it has no lines"
    for number, line in enumerate(order.lines, start=1):
        if line.quantity < 1:
            return f"line {number} asks for {line.quantity} pieces of {line.sku}"
        if line.sku not in PRODUCTS:
            return f"line {number} names {line.sku}, which we do not sell"
    total = sum((line.quantity * line.unit_price for line in order.lines), start=Decimal(0))
    if total != order.total:
        return f"its lines come to {total}, and it says {order.total} {order.currency}"
    return None
