"""The schema in the database: which format it has, and bringing it to this version's.

Nothing here runs by itself but where it is asked for: a worker that starts does not change a database that
others use. A migration is one transaction, and one at a time by an advisory lock.
"""

import contextlib
from collections.abc import AsyncGenerator
from importlib import resources

import msgspec

from holdfast.errors import FormatError
from holdfast.stores.postgres.connection import Address, Connection, connect, opening

FORMAT_OLDEST = 1
"""The oldest format that this version works with; while a fleet is deployed, both sides of a migration run."""
DEFAULT_SCHEMA = "holdfast"
_ONE_AT_A_TIME = "select pg_advisory_xact_lock(hashtextextended($1, 0))"
_HAS_SCHEMA = "select 1 from pg_catalog.pg_namespace where nspname = $1"
# Asked of the catalog: selecting from a table that is not there is an error.
_HAS_FORMAT = "select to_regclass($1) is not null"
_FORMAT = "select version from {schema}.format"
_CREATE = "create schema {schema}"
MIGRATION_S = 3_600.0
"""A migration may write a large table anew, and nobody is helped by giving up at half of it."""
_UNHURRIED = "set local statement_timeout = 0"


class FormatStatus(msgspec.Struct, frozen=True):
    """Formats of a database and of this version.

    Attributes:
        found: In the database; 0 where there is none yet.
        oldest: That this version works with.
        known: That this version migrates to.
    """

    found: int
    oldest: int
    known: int


async def migrate(url: str, schema: str = DEFAULT_SCHEMA) -> FormatStatus:
    """Bring the schema to this version's format, creating it where it does not exist.

    Returns:
        The formats afterwards.

    Raises:
        FormatError: It has a newer format; nothing was changed.
        StoreConnectError: It cannot be reached, or the user has not the rights.
        StoreUnavailableError: What was done is whole formats; asking again goes on from there.
    """
    address = Address(url, schema=schema)
    async with _connected(address) as connection:
        for version in range(1, len(_migrations()) + 1):
            async with connection.transaction():
                await connection.execute(_UNHURRIED)
                await connection.execute(_ONE_AT_A_TIME, f"holdfast.{address.schema}", timeout=MIGRATION_S)
                if await _found(connection, address) < version:
                    if await connection.fetchrow(_HAS_SCHEMA, address.schema) is None:
                        await connection.execute(address.sql(_CREATE))
                    await connection.execute(address.sql(_script(version)), timeout=MIGRATION_S)
        return await check(connection, address)


async def status(url: str, schema: str = DEFAULT_SCHEMA) -> FormatStatus:
    """Tell which format the database has; changes nothing.

    Raises:
        StoreConnectError: It cannot be reached.
        StoreUnavailableError: No answer; asking again may work.
    """
    address = Address(url, schema=schema)
    async with _connected(address) as connection:
        return FormatStatus(await _found(connection, address), FORMAT_OLDEST, len(_migrations()))


def sql(schema: str = DEFAULT_SCHEMA, from_format: int = 0) -> str:
    """The text of the migrations behind `from_format`, for those whose database is changed by other hands."""
    address = Address("", schema=schema)
    scripts = [f"{_CREATE};\n"] if from_format == 0 else []
    scripts += [_script(version) for version in range(from_format + 1, len(_migrations()) + 1)]
    return address.sql("\n".join(["begin;\n", *scripts, "commit;\n"]))


async def check(connection: Connection, address: Address) -> FormatStatus:
    """Find out whether this version can work with what is there.

    Raises:
        FormatError: No schema of ours, too old or too new; it was not touched.
    """
    found, known = await _found(connection, address), len(_migrations())
    if found == 0:
        raise FormatError(
            subject=address.url,
            reason=f"there is no schema {address.schema!r} of Holdfast in this database",
            fix="create it with `holdfast db migrate`",
        )
    if found < FORMAT_OLDEST:
        raise FormatError(
            subject=address.url,
            reason=f"written in format {found}, this version knows {FORMAT_OLDEST} to {known}",
            fix="bring it up to date with `holdfast db migrate`",
        )
    if found > known:
        raise FormatError(
            subject=address.url,
            reason=f"written in format {found}, this version knows up to {known}",
            fix="install the version of Holdfast that wrote it, or a later one",
        )
    return FormatStatus(found, FORMAT_OLDEST, known)


@contextlib.asynccontextmanager
async def _connected(address: Address) -> AsyncGenerator[Connection]:
    with opening(address.url):
        connection = await connect(address)
        try:
            yield connection
        finally:
            await connection.close(timeout=1)


async def _found(connection: Connection, address: Address) -> int:
    row = await connection.fetchrow(_HAS_FORMAT, address.sql("{schema}.format"))
    if row is None or not row[0]:
        return 0
    row = await connection.fetchrow(address.sql(_FORMAT))
    return 0 if row is None else int(row[0])


def _script(version: int) -> str:
    return f"{_migrations()[version - 1]}\nupdate {{schema}}.format set version = {version};\n"


def _migrations() -> list[str]:
    folder = resources.files("holdfast.stores.postgres") / "migrations"
    names = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return [(folder / name).read_text(encoding="utf-8") for name in names]
