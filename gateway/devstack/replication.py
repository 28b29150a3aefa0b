"""A PostgreSQL primary and its streaming standby, for tests of a switchover."""

from pathlib import Path

from gateway.devstack import ports
from gateway.devstack.folder import Reporter, silent
from gateway.devstack.postgresql import PostgreSQLServer, find_postgresql_program


class PrimaryServer(PostgreSQLServer):
    """A PostgreSQL from which a standby can stream."""

    settings = PostgreSQLServer.settings | {
        "wal_level": "replica",
        "max_wal_senders": "4",
        "wal_keep_size": "256MB",  # for a standby that was down for a while
    }

    def demote(self, primary: "PrimaryServer | None" = None) -> None:
        """Make it a standby, of `primary` or of no server: it is read-only after its next start. It must not be running."""
        self.write("data/standby.signal", "")
        if primary is not None:
            with (self.folder / "data/postgresql.auto.conf").open("a") as settings:
                settings.write(f"primary_conninfo = '{primary.replication_source}'\n")  # the last line of a name counts

    @property
    def replication_source(self) -> str:
        """The connection string for a standby."""
        return f"host={ports.LOOPBACK} port={self.port} user=postgres password={self.superuser_password}"

    async def promote(self) -> None:
        """Make a standby a primary; return when it accepts writes."""
        async with self.superuser() as connection:
            await connection.execute("SELECT pg_promote()")

    async def has_streaming_standby(self) -> bool:
        """Return whether a standby has received everything."""
        async with self.superuser() as connection:
            return bool(
                await connection.fetchval(
                    "SELECT count(*) > 0 FROM pg_stat_replication "
                    "WHERE state = 'streaming' AND sent_lsn >= pg_current_wal_lsn()"
                )
            )


class StandbyServer(PrimaryServer):
    """A streaming standby, which is read-only until `promote()`. It has the users and the databases of its primary."""

    name = "PostgreSQL standby"

    def __init__(self, folder: Path, primary: PrimaryServer, *, report: Reporter = silent) -> None:
        """Define a standby. Its primary must be running when it is entered."""
        super().__init__(folder, report=report)
        self._primary = primary
        self.password = primary.password
        self.owner_password = primary.owner_password
        self.superuser_password = primary.superuser_password

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PGPASSWORD": self.superuser_password}

    async def prepare(self) -> None:
        """Copy the data of the primary."""
        await self.run(
            find_postgresql_program("pg_basebackup"),
            f"--pgdata={self.folder / 'data'}",
            f"--dbname=host={ports.LOOPBACK} port={self._primary.port} user=postgres",
            "--checkpoint=fast",
            "--write-recovery-conf",
            "--no-sync",
        )

    async def initialize(self) -> None:
        """Create nothing: the standby has what its primary has."""
