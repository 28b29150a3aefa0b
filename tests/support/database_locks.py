"""The locks of a database for which its sessions wait."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


async def is_waiting_for_lock(database: AsyncEngine) -> bool:
    """Return whether a session of the database waits for a lock of another one."""
    async with database.connect() as connection:
        return bool(await connection.scalar(_WAITING))
