"""The tables in PostgreSQL, their migrations, and the revision of a database."""

from typing import Final

DEFAULT_LOCK_WAIT: Final = 300.0  # seconds that each step of a migration or seed waits for the locks of other sessions
