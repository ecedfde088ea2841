"""`holdfast db` as a user meets it."""

import asyncio
import json
import subprocess
import sys

import asyncpg
import pytest

from tests.postgres_server import fresh_schema, server_url, with_schema

DEADLINE_S = 30.0


def holdfast(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "holdfast.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture
def url() -> str:
    """Of an empty schema that is not there yet."""
    return with_schema(server_url(), fresh_schema())


def test_migrating_makes_the_tables_and_can_be_repeated(url: str) -> None:
    before = holdfast("db", "status", "--db", url, "--json")
    assert before.returncode == 1
    assert json.loads(before.stdout) == {"found": 0, "oldest": 1, "known": 2}
    for _ in range(2):
        done = holdfast("db", "migrate", "--db", url, "--json")
        assert (done.returncode, json.loads(done.stdout)["found"]) == (0, 2), done.stderr
    after = holdfast("db", "status", "--db", url)
    assert (after.returncode, after.stdout) == (0, "")
    assert after.stderr == "the tables have format 2; this version knows 1 to 2\n"


def test_the_printed_sql_makes_the_same_tables(url: str) -> None:
    printed = holdfast("db", "print-sql", "--db", url)
    assert printed.returncode == 0, printed.stderr

    async def carry_out() -> None:
        connection = await asyncpg.connect(server_url())
        await connection.execute(printed.stdout)
        await connection.close()

    asyncio.run(carry_out())
    assert holdfast("db", "status", "--db", url).returncode == 0


def test_a_database_without_our_tables_is_not_made_by_the_way(url: str) -> None:
    refused = holdfast("list", "--db", url)
    assert refused.returncode == 2
    assert "holdfast db migrate" in refused.stderr
    assert holdfast("db", "status", "--db", url).returncode == 1


def test_what_is_no_postgresql_database_is_told_so() -> None:
    refused = holdfast("db", "migrate", "--db", "sqlite:///runs.db")
    assert refused.returncode == 2
    assert "a SQLite file needs none of this" in refused.stderr


def test_a_server_that_is_not_there_is_told_without_the_password() -> None:
    refused = holdfast("db", "status", "--db", "postgresql://ann:secret@localhost:1/orders")
    assert refused.returncode == 2
    assert "ann@localhost:1/orders" in refused.stderr
    assert "secret" not in refused.stderr + refused.stdout
