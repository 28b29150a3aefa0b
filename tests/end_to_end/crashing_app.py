"""A program for the tests: the gateway's server, with an app that has an entry to crash."""

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
from tests.lifecycle.fakes import enter_worker

crash = asyncio.Event()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack(journal=Journal(listeners=[log_event])) as stack:
        app.state.stack = stack
        await enter_worker(stack, crash)
        stack.mark_started()
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/crash")
async def crash_worker() -> None:
    crash.set()


configure_logging()
sys.exit(serve(app, bind_socket("127.0.0.1", 0), Settings()).status)
