"""What Alembic runs for every command: use the connection that `gateway.schema.migrate` brings, and nothing else.

It reads no settings and leaves logging alone.
"""
# ruff: noqa: INP001 - Alembic runs this folder's files by their path; it is no package

from alembic import context

from gateway.schema.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
