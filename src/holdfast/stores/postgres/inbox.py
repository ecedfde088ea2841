"""Messages of runs: read here, stored by `group`, gone when an append consumes them."""

from holdfast.stores.postgres.connection import Address, Connection
from holdfast.stores.records import InboxRow

# Served by the primary key of inbox, which is the order.
_READ = """
select seq, kind, name, id, payload, at_ms from {schema}.inbox where run = $1 and seq > $2 order by seq
"""
# Served by the same.
_PENDING = "select count(*) from {schema}.inbox where run = $1"


async def read_inbox(connection: Connection, address: Address, key: int, after: int) -> list[InboxRow]:
    """Messages after a number, in order."""
    rows = await connection.fetch(address.sql(_READ), key, after)
    return [InboxRow(*row) for row in rows]


async def pending(connection: Connection, address: Address, key: int) -> int:
    """How many messages are there."""
    row = await connection.fetchrow(address.sql(_PENDING), key)
    assert row is not None
    return int(row[0])
