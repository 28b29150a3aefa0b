"""A program for the tests: the gateway's server, around an app one of whose entries dies when it is asked to."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway.lifecycle import Journal, LifecycleStack
from gateway.logs import configure_logging, log_event
from gateway.process.listener import bind_socket
from gateway.serving.server import serve
from gateway.settings import Settings

die = asyncio.Event()


@asynccontextmanager
async def worker() -> AsyncGenerator[None]:
    async def work() -> None:
        await die.wait()
        raise RuntimeError("the worker broke")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(work())
        yield
        task.cancel()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack(journal=Journal(listener=log_event)) as stack:
        app.state.stack = stack
        await stack.enter("worker", worker(), start_timeout=1, stop_timeout=1)
        stack.mark_started()
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/die")
async def kill_the_worker() -> None:
    die.set()


configure_logging()
sys.exit(serve(app, bind_socket("127.0.0.1", 0), Settings())[0])
