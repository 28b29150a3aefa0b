"""A roof: a plain route of FastAPI that has the bytes of each brief at hand, once they were asked for."""

import orjson
from fastapi import FastAPI, Request, Response

from gateway.lifespan import lifespan
from gateway.settings import read_settings

app = FastAPI(lifespan=lifespan)
app.state.settings = read_settings()

_at_hand: dict[int, bytes] = {}


@app.get("/v1/places/{place_id}/brief")
async def brief(place_id: int, request: Request) -> Response:
    """Of what a brief costs it has nothing but the framework and the bytes on the wire."""
    if place_id not in _at_hand:
        put_together = await request.state.services.briefs.get(place_id)
        _at_hand[place_id] = orjson.dumps(put_together, option=orjson.OPT_UTC_Z)
    return Response(_at_hand[place_id], media_type="application/json")
