"""With a million sleeping runs, every statement that runs often finds its rows by an index."""

# ruff: noqa: T201 - a measurement is printed, not asserted

import re
import statistics
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

from holdfast.stores.postgres import group, inbox, journal, leases, queries, removal
from holdfast.stores.postgres.store import PostgresStore
from holdfast.stores.records import Applied
from holdfast.testing.clock import VirtualClock
from holdfast.testing.contract.place import ME, append, applied, insert_held, new_run
from tests.postgres_server import ServerClock, migrated_schema, portal, server_url

RUNS = 1_000_000
KEPT = 250_000
AT_MS = 1_700_000_000_000
CLAIM_TARGET_MS = 1.0

_FILL = """
insert into "{schema}".runs (key, id, status, workflow, fingerprint, queue, worker, tags, input_digest, epoch,
    position, priority, parent_incarnation, due_at_ms, created_at_ms, updated_at_ms)
select nextval('"{schema}".run_keys'), 'run-' || n, 'suspended', 'order', 'mark-1', 'default', null, '[]',
    '\\x00', 1, 1, 3, 0, {at_ms} + 60000 + n, {at_ms}, {at_ms}
from generate_series(1, {runs}) as n
"""

# Runs that are over, all of them for less long than they are to be kept.
_KEEP = """
insert into "{schema}".runs (key, id, status, workflow, fingerprint, queue, worker, tags, input_digest, epoch,
    position, priority, parent_incarnation, parent_key, created_at_ms, updated_at_ms)
select nextval('"{schema}".run_keys'), 'kept-' || n, 'completed', 'order', 'mark-1', 'default', null, '[]',
    '\\x00', 1, 2, 3, 1, n, {at_ms}, {at_ms} - n
from generate_series(1, {kept}) as n
"""
_UPDATES = "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where schemaname = $1 and relname = 'runs'"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def schema() -> str:
    name = migrated_schema()
    ServerClock(name, AT_MS)
    fill = _FILL.format(schema=name, at_ms=AT_MS, runs=RUNS)
    keep = _KEEP.format(schema=name, at_ms=AT_MS, kept=KEPT)
    portal().execute(fill, keep, f'analyze "{name}".runs', timeout_s=300)
    return name


@asynccontextmanager
async def opened(schema: str) -> AsyncGenerator[PostgresStore]:
    store = PostgresStore(server_url(), schema=schema, clock=VirtualClock(), hints=False)
    await store.open()
    try:
        await store.register(ME)
        yield store
    finally:
        await store.close()


# Statements, and the indexes that must serve them.
STATEMENTS: dict[str, tuple[str, set[str]]] = {
    "bare": (journal._BARE, {"runs_pkey"}),
    "step": (journal._STEP, {"runs_pkey"}),
    "many": (journal._MANY, {"runs_pkey"}),
    "group": (group._STATEMENT, {"runs_pkey", "workers_pkey", "inbox_pkey", "message_ids_pkey"}),
    "stored": (group._STORED, {"runs_pkey", "message_ids_pkey"}),
    "journal": (journal._READ, {"journal_pkey"}),
    "inbox": (inbox._READ, {"inbox_pkey"}),
    "keys of ids": (inbox._KEYS, {"runs_id_key"}),
    "claim": (leases.claim_statement(100), {"runs_due", "runs_suspect", "runs_pkey", "workers_pkey"}),
    "claim one": (leases.CLAIM_ONE, {"runs_id_key", "runs_pkey", "workers_pkey"}),
    "held": (leases.HELD, {"runs_held"}),
    "counts": (leases._COUNTS, {"runs_held"}),
    "workers": (leases._WORKERS, {"workers_pkey"}),
    "release": (leases._RELEASE, {"runs_pkey"}),
    "free": (leases.FREE, {"runs_held", "runs_pkey"}),
    "orphaned": (leases._ORPHANED, {"runs_held"}),
    "renew": (leases.RENEW, {"workers_pkey"}),
    "find": (queries._FIND_RUN, {"runs_id_key"}),
    "load": (queries._LOAD, {"snapshots_pkey", "journal_pkey", "inbox_pkey"}),
    "pending": (inbox._PENDING, {"inbox_pkey"}),
    "lock replaced": (removal._LOCK_REPLACED, {"runs_pkey", "workers_pkey"}),
    "replace": (removal._REPLACE, {"runs_pkey"}),
    "empty": (removal._EMPTY, {"journal_pkey", "inbox_pkey", "message_ids_pkey", "snapshots_pkey"}),
    "empty but inbox": (removal._EMPTY_BUT_INBOX, {"journal_pkey", "snapshots_pkey"}),
    "remove": (removal._REMOVE, {"runs_pkey"}),
    "lock parent": (removal.LOCK_PARENT, {"runs_pkey"}),
    "lock deleted": (removal.LOCK_DELETED, {"runs_pkey"}),
    "lock swept": (removal.LOCK_SWEPT, {"runs_swept", "runs_pkey"}),
    "live parents": (removal.LIVE_PARENTS, {"runs_pkey"}),
    "save snapshot": (queries._SAVE_SNAPSHOT, {"runs_pkey"}),
}
ENTIRE = re.compile(r"Seq Scan on (runs|journal|inbox|message_ids|snapshots)\b")
WALK = re.compile(r"(?:Index|Index Only) Scan(?: Backward)? using (\w+) on|Bitmap Index Scan on (\w+)")


async def plan_of(store: PostgresStore, statement: str) -> list[str]:
    """The plan for any values, which is the one that is kept."""
    parameters = max(map(int, re.findall(r"\$(\d+)", statement)), default=0)
    values = ", ".join(["null"] * parameters)
    async with store._reads.connection() as connection:
        await connection.execute("prepare measured as " + store._address.sql(statement))
        rows = await connection.fetch(
            f"explain (costs off) execute measured{f'({values})' if parameters else ''}"
        )
        await connection.execute("deallocate measured")
    return [str(row[0]).strip() for row in rows]


def walks(plan: Sequence[str]) -> list[tuple[str, bool]]:
    """Indexes used, and whether only a part of each is walked."""
    found = []
    for line, following in zip(plan, [*plan[1:], ""], strict=True):
        match = WALK.search(line)
        if match is not None:
            found.append((match[1] or match[2], following.startswith("Index Cond")))
    return found


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_is_served_by_its_indexes(schema: str, name: str) -> None:
    statement, indexes = STATEMENTS[name]
    async with opened(schema) as store:
        plan = await plan_of(store, statement)
    text = "\n".join(plan)
    assert ENTIRE.search(text) is None, text
    # Sorted by due time would mean that all sleepers were read first.
    assert not re.search(r"Sort Key: \w+\.due_at_ms$", text, re.MULTILINE), text
    used = walks(plan)
    assert indexes <= {index for index, _ in used}, text
    entire = {
        index for index, is_part in used if not is_part and index.startswith(("runs", "journal", "inbox"))
    }
    # The first holder of all is the first row of `runs_held`.
    assert entire <= ({"runs_held"} if name == "orphaned" else set()), text


async def test_a_claim_beside_a_million_sleepers_takes_about_a_millisecond(
    schema: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workflows = ["order", "invoice", "parcel"]
    async with opened(schema) as store:
        spent: list[float] = []
        for _ in range(200):
            begun = time.perf_counter()
            claimed = await store.claim(ME, workflows=workflows, limit=100)
            spent.append((time.perf_counter() - begun) * 1_000)
            assert not claimed.runs
            assert claimed.next_due_at_ms == AT_MS + 60_001
    with capsys.disabled():
        print(f"\nclaim beside {RUNS:,} sleepers: {statistics.median(spent):.2f} ms, best {min(spent):.2f} ms")


async def test_due_runs_among_a_million_sleepers_are_found_at_once(
    schema: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(schema) as store:
        await store.commit([new_run(f"due-{n}", workflow="invoice") for n in range(50)])
        begun = time.perf_counter()
        claimed = await store.claim(ME, workflows=["order", "invoice"], limit=100)
        spent = (time.perf_counter() - begun) * 1_000
        assert [run.id for run in claimed.runs] == [f"due-{n}" for n in range(50)]
    with capsys.disabled():
        print(f"\nclaim of 50 beside {RUNS:,} sleepers, first call: {spent:.2f} ms")


async def test_a_sweep_beside_many_runs_that_are_kept_finds_at_once_what_is_old(
    schema: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(schema) as store:
        keys = [
            outcome.key
            for outcome in await store.commit([new_run(f"old-{n}", over="completed") for n in range(50)])
            if isinstance(outcome, Applied)
        ]
        portal().execute(f'update "{schema}".runs set updated_at_ms = 1, worker = null where key >= {keys[0]}')  # noqa: S608
        begun = time.perf_counter()
        swept = [
            await store.sweep("order", "completed", before_ms=AT_MS - KEPT, limit=limit) for limit in (30, 100)
        ]
        assert swept == [30, 20]
        assert await store.sweep("order", "completed", before_ms=AT_MS - KEPT, limit=100) == 0
        spent = (time.perf_counter() - begun) * 1_000
    with capsys.disabled():
        print(f"\nthree sweeps beside {KEPT:,} runs that are kept, first call: {spent:.2f} ms")


async def test_a_step_writes_to_no_index_of_runs() -> None:
    schema = migrated_schema()
    async with opened(schema) as store:
        key = await insert_held(store, "steps")
        for position in range(1, 201):
            await applied(store, append(key, position=position))
        async with store._writes.connection() as connection:
            await connection.execute("select pg_stat_force_next_flush()")
            row = await connection.fetchrow(_UPDATES, schema)
    assert row is not None
    updates, heap_only = row
    # A page is full now and then.
    assert updates == 200
    assert heap_only > 190
