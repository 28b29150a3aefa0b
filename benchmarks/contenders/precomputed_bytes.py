"""A ceiling: a plain FastAPI route with precomputed bytes. The first request for a place makes them, the others reuse them."""

import orjson
from fastapi import FastAPI, Request, Response

from gateway.lifespan import lifespan
from gateway.settings import read_settings

app = FastAPI(lifespan=lifespan)
app.state.settings = read_settings()

_precomputed: dict[int, bytes] = {}


@app.get("/v1/places/{place_id}/brief")
async def get_brief(place_id: int, request: Request) -> Response:
    """Send precomputed bytes: the only cost is that of the framework and of the bytes on the wire."""
    if place_id not in _precomputed:
        brief = await request.state.services.briefs.get(place_id)
        _precomputed[place_id] = orjson.dumps(brief, option=orjson.OPT_UTC_Z)
    return Response(_precomputed[place_id], media_type="application/json")
