"""Messages of runs: stored once per id, numbered under the run's row, gone when an append consumes them.

One that is gone is there again, under its old number, when a later append returns it.
"""

import sqlite3
from collections.abc import Sequence

import msgspec

from holdfast.stores.records import ENDED, Applied, Fenced, InboxRow, Message, Outcome, Over

# Counting and waking are one update of the run's row, and the number is the message's place in the inbox. Only
# an unheld run becomes due: a holder learns of messages by what its next commit returns. Served by the key.
_COUNT = """
update runs set messages_sent = messages_sent + 1,
    due_at_ms = case when worker is null and instr(?, ',' || status || ',') then ? else due_at_ms end
where key = ? returning messages_sent
"""
# Served by the table's key, and by the unique index on ids.
_BY_KEY = "select key, incarnation, messages_sent, status from runs where key = ?"
_BY_ID = "select key, incarnation, messages_sent, status from runs where id = ?"
_IS_KNOWN = "select 1 from message_ids where run = ? and id = ?"
_INSERT = "insert into inbox (run, seq, kind, name, id, payload, at_ms) values (?, ?, ?, ?, ?, ?, ?)"
# Where the append is repeated they are there, and stay as they are.
_PUT_BACK = _INSERT + " on conflict do nothing"


def send(connection: sqlite3.Connection, message: Message, at_ms: int) -> Outcome:
    """Store a message inside the open transaction.

    Returns:
        `Applied`, also where it was there; `Fenced` where the run is gone or another incarnation of it lives;
        `Over` where the run takes no message any more.
    """
    statement, whose = (_BY_ID, message.run_id) if message.run_id else (_BY_KEY, message.run_key)
    found = connection.execute(statement, (whose,)).fetchone()
    if found is None or message.incarnation not in {None, found[1]}:
        return Fenced()
    key, _, messages_sent, status = found
    if status in ENDED:
        is_known = connection.execute(_IS_KNOWN, (key, message.id)).fetchone() is not None
        return Applied(at_ms, key, messages_sent) if is_known else Over(status)
    stored = connection.execute(
        "insert into message_ids (run, id) values (?, ?) on conflict do nothing returning run",
        (key, message.id),
    ).fetchone()
    if stored is None:
        return Applied(at_ms, key, messages_sent)
    wakes = f",{','.join(message.wakes)},"
    seq = int(connection.execute(_COUNT, (wakes, at_ms, key)).fetchone()[0])
    connection.execute(_INSERT, (key, seq, message.kind, message.name, message.id, message.payload, at_ms))
    return Applied(at_ms, key, seq)


def consume(connection: sqlite3.Connection, key: int, seqs: Sequence[int]) -> None:
    """Remove messages that entries of the same transaction have used up."""
    connection.executemany("delete from inbox where run = ? and seq = ?", [(key, seq) for seq in seqs])


def put_back(connection: sqlite3.Connection, key: int, rows: Sequence[InboxRow]) -> None:
    """Store messages as they were before they were consumed; nobody is woken, and none is counted again."""
    connection.executemany(_PUT_BACK, [(key, *msgspec.structs.astuple(row)) for row in rows])


def read_inbox(connection: sqlite3.Connection, key: int, after: int) -> list[InboxRow]:
    """Messages after a number, in order. Served by the inbox's own order."""
    rows = connection.execute(
        "select seq, kind, name, id, payload, at_ms from inbox where run = ? and seq > ? order by seq",
        (key, after),
    )
    return [InboxRow(*row) for row in rows]


def pending(connection: sqlite3.Connection, key: int) -> int:
    """How many messages are not consumed. Served by the inbox's own order."""
    return int(connection.execute("select count(*) from inbox where run = ?", (key,)).fetchone()[0])
