"""A ceiling: the first example of FastAPI's own documentation, with its return type, which makes it faster."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
async def root() -> dict[str, str]:
    return {"message": "Hello World"}
