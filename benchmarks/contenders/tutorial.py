"""The lifespan of many tutorials: clients opened once, sequential awaits, an ORM, a response model and no cache."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import httpx
from fastapi import FastAPI
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from benchmarks.contenders.sequence import BriefOut, assemble_brief, load_model
from gateway.settings import Settings


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = Settings()
    app.state.http = httpx.AsyncClient(base_url=settings.http.weather_url.get_secret_value())
    engine = create_async_engine(settings.database.url.get_secret_value())
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    app.state.redis = Redis.from_url(settings.redis.url.get_secret_value())
    rabbitmq = await aio_pika.connect_robust(settings.rabbitmq.url.get_secret_value())
    app.state.exchange = await (await rabbitmq.channel()).get_exchange("gateway.events")
    app.state.model = load_model(settings)
    yield
    await rabbitmq.close()
    await app.state.redis.aclose()
    await engine.dispose()
    await app.state.http.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/v1/places/{place_id}/brief")
async def get_brief(place_id: int) -> BriefOut:
    async with app.state.sessions() as session:
        return await assemble_brief(
            place_id,
            session=session,
            http=app.state.http,
            redis=app.state.redis,
            exchange=app.state.exchange,
            model=app.state.model,
        )
