"""The entry point for Alembic's commands. It uses the connection from `gateway.schema.migrate`.

It reads no settings and does not configure logging.
"""
# ruff: noqa: INP001 - Alembic runs the files of this folder by their path; it is not a package

from alembic import context

from gateway.schema.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
