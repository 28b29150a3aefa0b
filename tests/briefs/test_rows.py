"""What is read for a brief: how PostgreSQL goes about it."""

from sqlalchemy import text

from gateway.briefs import rows
from gateway.devstack.stack import Devstack
from gateway.resources.database import DatabaseEngine
from gateway.settings import DatabaseSettings

FIVE_FOR_SOME = text("""
    INSERT INTO observations (place_id, temperature_c, condition)
    SELECT id, 12.5, 'rain' FROM (SELECT id FROM places ORDER BY id LIMIT 1000) AS some_places, generate_series(1, 5)
""")


async def test_the_latest_observations_are_read_off_an_index_without_sorting(servers: Devstack) -> None:
    """Also where most places have no more than are asked for: one of them may have a hundred thousand."""
    async with (
        DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "rows").open() as engine,
        engine.connect() as connection,
    ):
        await connection.execute(FIVE_FOR_SOME)
        await connection.execute(text("ANALYZE observations"))
        asked = rows._PLACES_WITH_OBSERVATIONS.replace("$1::INTEGER[]", "$1")
        await connection.exec_driver_sql(f"PREPARE asked(int[]) AS {asked}")
        plan = await connection.exec_driver_sql("EXPLAIN (COSTS OFF) EXECUTE asked('{2657896}')")
        nodes = "\n".join(line for (line,) in plan)
        await connection.rollback()

    assert "Index Scan Backward using ix_observations_place_id_created_at_id on observations" in nodes
    assert "Index Scan using pk_places on places" in nodes
    assert "Sort" not in nodes
