"""What the owner of a file can drive, as it has written it into the file, for whoever asks."""

import json
import sqlite3

from holdfast.stores.records import WorkerRecord
from holdfast.stores.sqlite.ownership import Owner, is_alive, owner_of, this_process


def set_worker(connection: sqlite3.Connection, worker: WorkerRecord | None) -> None:
    """Replace what was known of the owner by what the owner says, or by nothing."""
    connection.execute("delete from workers")
    if worker is not None:
        me = this_process()
        connection.execute(
            "insert into workers (id, workflows, pid, host) values (?, ?, ?, ?)",
            (worker.id, json.dumps(worker.workflows), me.pid, me.host),
        )


def alive(connection: sqlite3.Connection, path: str, *, owns: bool) -> list[WorkerRecord]:
    """The owner, if it lives.

    Of another process is believed what `<path>-owner` says: the row counts while that names the process which
    wrote the row, and this process is not known to be dead. So an owner on another host, or in another
    container, is reported until the next one opens the file, also if it was killed: nobody here can tell.
    """
    found = connection.execute("select id, workflows, pid, host from workers").fetchall()
    owner = None if owns else owner_of(path)
    return [
        WorkerRecord(worker, tuple(json.loads(workflows)))
        for worker, workflows, pid, host in found
        if owns or (owner is not None and owner == Owner(pid, host) and is_alive(owner))
    ]
