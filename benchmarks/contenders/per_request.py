"""The anti-pattern: each request opens its own clients, uses them once and closes them. Only the model is loaded once."""

import aio_pika
import httpx
from fastapi import FastAPI
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.contenders.sequence import BriefOut, assemble_brief, load_model
from gateway.settings import Settings

app = FastAPI()
settings = Settings()
model = load_model(settings)


@app.get("/v1/places/{place_id}/brief")
async def get_brief(place_id: int) -> BriefOut:
    engine = create_async_engine(settings.database.url.get_secret_value())
    try:
        async with (
            AsyncSession(engine, expire_on_commit=False) as session,
            httpx.AsyncClient(base_url=settings.http.weather_url.get_secret_value()) as http,
            Redis.from_url(settings.redis.url.get_secret_value()) as redis,
            await aio_pika.connect_robust(settings.rabbitmq.url.get_secret_value()) as rabbitmq,
        ):
            exchange = await (await rabbitmq.channel()).get_exchange("gateway.events")
            return await assemble_brief(
                place_id, session=session, http=http, redis=redis, exchange=exchange, model=model
            )
    finally:
        await engine.dispose()
