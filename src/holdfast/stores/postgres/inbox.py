"""Messages of runs: read here, stored by `group`, gone when an append consumes them until one returns them."""

from collections.abc import Sequence

from holdfast.stores.postgres.connection import Address, Connection
from holdfast.stores.records import InboxRow

# Served by the primary key of inbox, which is the order.
_READ = """
select seq, kind, name, id, payload, at_ms from {schema}.inbox where run = $1 and seq > $2 order by seq
"""
# Asked before the statement that writes: an id keeps its key while its run is there, `replace` included. A run
# that is deleted and started again meanwhile has another key, so what was meant for it reaches nobody. The rows
# are not locked here, so the order of locks stays that of the keys. Served by the unique index on ids.
_KEYS = "select id, key from {schema}.runs where id = any($1::text[])"
# Served by the same as `_READ`.
_PENDING = "select count(*) from {schema}.inbox where run = $1"


async def keys_of(connection: Connection, address: Address, ids: Sequence[str]) -> dict[str, int]:
    """The keys of those ids that are there."""
    return {row[0]: row[1] for row in await connection.fetch(address.sql(_KEYS), ids)}


async def read_inbox(connection: Connection, address: Address, key: int, after: int) -> list[InboxRow]:
    """Messages after a number, in order."""
    rows = await connection.fetch(address.sql(_READ), key, after)
    return [InboxRow(*row) for row in rows]


async def pending(connection: Connection, address: Address, key: int) -> int:
    """How many messages are there."""
    row = await connection.fetchrow(address.sql(_PENDING), key)
    assert row is not None
    return int(row[0])
