"""Databases for the tests of this directory."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgres_server import fresh_schema, migrated_schema, server_url, with_schema

Database = tuple[str, str]
"""URL with our options, and schema."""


@pytest.fixture
def postgres_database() -> Callable[[], Database]:
    """Makes a database for a test: a schema of its own on the server of all tests."""

    def make() -> Database:
        schema = migrated_schema()
        return with_schema(server_url(), schema), schema

    return make


@pytest.fixture
def own_postgres() -> Iterator[Callable[[], tuple[Database, Callable[[], None], Callable[[], None]]]]:
    """Makes a server for one test, with the means to stop it at once and to start it again."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="holdfast-postgres-") as directory:
        warnings.simplefilter("ignore")
        from pgserver import get_server  # noqa: PLC0415 - its import looks around
        from pgserver._commands import pg_ctl  # noqa: PLC0415 - nothing public stops a server so

        server = get_server(Path(directory))

        def stop() -> None:
            pg_ctl(["-w", "-m", "immediate", "stop"], pgdata=server.pgdata, user=server.system_user)

        def make() -> tuple[Database, Callable[[], None], Callable[[], None]]:
            schema = fresh_schema()
            url = with_schema(server.get_uri(), schema)
            return (f"{url}&migrate=on", schema), stop, server.ensure_postgres_running

        try:
            yield make
        finally:
            server.cleanup()
