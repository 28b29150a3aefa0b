"""The rights of the role that serves, table by table: `gateway migrate --grant-to` grants them, and a startup checks them.

The role owns nothing. It cannot change the schema, delete observations or change a place, except for its count.
"""

from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


class Right(NamedTuple):
    """A privilege on a table, or on one of its columns. Its text is that of a `GRANT`."""

    privilege: str
    table: str
    column: str = ""

    def __str__(self) -> str:
        columns = f" ({self.column})" if self.column else ""
        return f"{self.privilege}{columns} ON {self.table}"


RUNTIME_RIGHTS: Final = (
    Right("SELECT", "alembic_version"),
    Right("SELECT", "places"),
    Right("UPDATE", "places", "observation_count"),
    Right("SELECT", "observations"),
    Right("INSERT", "observations"),
    Right("SELECT", "outbox"),
    Right("INSERT", "outbox"),
    Right("UPDATE", "outbox"),
    Right("DELETE", "outbox"),
    Right("SELECT", "consumed_events"),
    Right("INSERT", "consumed_events"),
    Right("DELETE", "consumed_events"),
)

# ruff: noqa: S608 - the statements consist of constants

_TABLES = tuple(dict.fromkeys(right.table for right in RUNTIME_RIGHTS))
_MISSING = text(f"""
    SELECT current_user, privilege, table_name, column_name
    FROM (VALUES {", ".join(map(repr, map(tuple, RUNTIME_RIGHTS)))}) AS needed (privilege, table_name, column_name)
    WHERE NOT CASE column_name WHEN '' THEN has_table_privilege(table_name, privilege)
        ELSE has_column_privilege(table_name, column_name, privilege) END
""")
# A role that may act as an owner has all rights of the owner, and to revoke those of the owner itself would break the tables.
_IS_OWNER = text(f"""
    SELECT pg_has_role(role.oid, current_user, 'MEMBER')
        OR pg_has_role(role.oid, (SELECT datdba FROM pg_database WHERE datname = current_database()), 'MEMBER')
        OR pg_has_role(role.oid, (SELECT nspowner FROM pg_namespace WHERE nspname = current_schema()), 'MEMBER')
        OR EXISTS (
            SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename IN {_TABLES}
                AND pg_has_role(role.oid, tableowner, 'MEMBER')
        )
    FROM pg_roles AS role WHERE rolname = :role
""")
# The rights of the role beyond those: as a member of other roles, or because all roles have them.
_EXCESS = text(f"""
    SELECT privilege, table_name
    FROM unnest(ARRAY[{", ".join(map(repr, _TABLES))}]) AS table_name,
        unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
    WHERE has_table_privilege(:role, table_name, privilege)
        AND (privilege, table_name) NOT IN ({", ".join(repr(tuple(right)[:2]) for right in RUNTIME_RIGHTS if not right.column)})
""")
_PLACE = text("SELECT current_database(), current_schema()")


class RoleError(Exception):
    """The role of `--grant-to` cannot be used. The message gives the reason and the fix."""


async def check_role(connection: AsyncConnection, role: str) -> None:
    """Check that the role can be limited to rights, before anything is changed.

    Raises:
        RoleError: it does not exist, or it may act as the owner of the tables.
    """
    is_owner = await connection.scalar(_IS_OWNER, {"role": role})
    if is_owner is None:
        raise RoleError(f"the role {role} does not exist: create it with CREATE ROLE, or correct --grant-to")
    if is_owner:
        raise RoleError(
            f"the role {role} is a superuser, owns the database, its schema or tables, or is the user of the URL or a member of it, so that rights do not "
            "limit it: use a role of its own for --grant-to, and the URL of the owner"
        )


async def grant_rights(connection: AsyncConnection, role: str) -> None:
    """Grant exactly `RUNTIME_RIGHTS` to the role, and access to the database and the schema, in the transaction of `connection`.

    Other sessions see the rights before or after it, and nothing between.

    Raises:
        RoleError: the role has other rights as well, for example as a member of another role.
        sqlalchemy.exc.DBAPIError: the user of the connection does not own the tables.
    """
    quote = connection.dialect.identifier_preparer.quote_identifier
    database, schema = (await connection.execute(_PLACE)).one()
    for statement in (
        f"GRANT CONNECT ON DATABASE {quote(database)} TO {quote(role)}",
        f"GRANT USAGE ON SCHEMA {quote(schema)} TO {quote(role)}",
        f"REVOKE ALL ON {', '.join(_TABLES)} FROM {quote(role)}",
        *(f"GRANT {right} TO {quote(role)}" for right in RUNTIME_RIGHTS),
    ):
        await connection.exec_driver_sql(statement)
    if excess := (await connection.execute(_EXCESS, {"role": role})).all():
        rights = ", ".join(f"{privilege} ON {table}" for privilege, table in excess)
        raise RoleError(
            f"the role {role} has {rights} by other grants: revoke them, or use a role that is a member of no other"
        )


async def describe_missing_rights(connection: AsyncConnection) -> str | None:
    """Return which rights the user of the connection lacks, and the fix. None if it has all."""
    rows = (await connection.execute(_MISSING)).all()
    if not rows:
        return None
    user = rows[0][0]
    missing = ", ".join(str(Right(*right)) for _, *right in rows)
    return f"the user {user} lacks {missing}: run `gateway migrate --grant-to {user}` with the URL of the owner"
