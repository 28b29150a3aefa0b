"""Each server answers under its URL, and does with it what a test may ask for."""

import asyncpg
import httpx
import redis.asyncio as redis_client
from aio_pika import connect

from gateway.devstack.postgresql import PostgreSQL
from gateway.devstack.rabbitmq import RabbitMQ
from gateway.devstack.redis import Redis
from gateway.devstack.weather import Weather


async def test_postgresql_answers(postgresql_server: PostgreSQL) -> None:
    connection = await asyncpg.connect(postgresql_server.url.replace("+asyncpg", ""))
    try:
        assert await connection.fetchval("SELECT current_user || '@' || current_database()") == "gateway@gateway"
    finally:
        await connection.close()


async def test_redis_answers(redis_server: Redis) -> None:
    async with redis_client.Redis.from_url(redis_server.url) as client:
        assert await client.ping()


async def test_rabbitmq_answers(rabbitmq_server: RabbitMQ) -> None:
    async with await connect(rabbitmq_server.url) as connection:
        channel = await connection.channel()
        assert (await channel.declare_queue("here", exclusive=True)).name == "here"


async def test_weather_answers(weather: Weather) -> None:
    async with httpx.AsyncClient(base_url=weather.url) as client:
        response = await client.get("/v1/forecast", params={"latitude": 47.37, "longitude": 8.55})
    assert response.status_code == 200
