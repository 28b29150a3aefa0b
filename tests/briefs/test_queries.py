"""What is read for a brief: how PostgreSQL goes about it."""

import json

from sqlalchemy import text

from gateway.briefs import queries
from gateway.briefs.models import Reason
from gateway.devstack.stack import Devstack
from gateway.places.queries import Place
from gateway.resources.database import DatabaseEngine
from gateway.resources.reading import DatabaseReader
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
        # The plan depends on the rows that are there: take those of other tests away until the rollback.
        await connection.execute(text("TRUNCATE observations CASCADE"))
        await connection.execute(FIVE_FOR_SOME)
        await connection.execute(text("ANALYZE observations"))
        asked = queries._PLACES_WITH_OBSERVATIONS.replace("$1::INTEGER[]", "$1")
        await connection.exec_driver_sql(f"PREPARE asked(int[]) AS {asked}")
        plan = await connection.exec_driver_sql("EXPLAIN (COSTS OFF) EXECUTE asked('{2657896}')")
        nodes = "\n".join(line for (line,) in plan)
        await connection.rollback()

    assert "Index Scan Backward using ix_observations_place_id_created_at_id on observations" in nodes
    assert "Index Scan using pk_places on places" in nodes
    assert "Sort" not in nodes


async def test_a_row_that_was_spoiled_by_hand_is_nothing_to_the_other_places(servers: Devstack) -> None:
    spoiled, other = 2657896, 2661552
    report = "INSERT INTO observations (place_id, temperature_c, condition, created_at) VALUES ($1, 1, 'rain', $2)"
    async with servers.postgresql.superuser("gateway") as superuser:
        await superuser.execute(report.replace("$2", "'infinity'"), spoiled)
        try:
            async with DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "rows").open() as engine:
                reader = DatabaseReader(engine)
                known = await queries.fetch_places_with_observations(reader, [spoiled, other])
                await reader.close()
        finally:
            await superuser.execute("DELETE FROM observations WHERE created_at = 'infinity'")

    assert known[spoiled].reason is Reason.ERROR
    assert known[spoiled].observations is None
    assert known[other].observations is not None


async def test_a_long_text_is_read_and_not_remembered() -> None:
    place = Place(1, "Bern", "Bern", "CH", "BE", 46.9, 7.4, 1, "Europe/Zurich", 0)
    note = "x" * queries.MAX_PARSE_CACHE_CHARS
    observation = {"id": 1, "place_id": 1, "temperature_c": 1, "condition": "rain", "note": note}
    latest = json.dumps([observation | {"created_at": "2026-11-28T00:00:00+00:00"}])
    before = queries._parse_cached.cache_info()
    known = queries._to_record(place, latest)

    assert known.observations is not None
    assert known.observations[0].note == note
    assert queries._parse_cached.cache_info() == before
