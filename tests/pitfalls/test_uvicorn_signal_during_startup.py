"""uvicorn: a stop signal during the startup does not interrupt it."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from tests.end_to_end.harness import Process

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    try:
        print("starting", flush=True)
        await asyncio.Event().wait()  # a server that does not respond
        yield
    finally:
        print("released", flush=True)


def broken() -> None:
    uvicorn.run(FastAPI(lifespan=lifespan), port=0)


async def fixed() -> None:
    app = FastAPI()
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(lifespan(app)))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, starting.cancel)
        await starting
        await uvicorn.Server(uvicorn.Config(app, lifespan="off", port=0)).serve()


@pytest.fixture
def program(request: pytest.FixtureRequest, tmp_path: Path, devstack_folder: Path) -> Iterator[Process]:
    """Run the parameter's code in another process."""
    code = f"import asyncio; from tests.pitfalls.{Path(__file__).stem} import broken, fixed; {request.param}"
    process = Process(tmp_path, {"PYTHONPATH": str(ROOT)}, "-c", code, stack_folder=devstack_folder)
    yield process
    process.kill()


@pytest.mark.parametrize("program", ["broken()"], indirect=True)
async def test_startup_ignores_signals(program: Process) -> None:
    """After SIGTERM and SIGINT the startup goes on, and nothing is released."""
    await program.wait_for_output("starting")
    program.send_signal(signal.SIGTERM)
    program.send_signal(signal.SIGINT)

    with pytest.raises(
        AssertionError, match="the process has ended"
    ):  # otherwise fixed upstream: a signal ends the startup
        await program.exit_status(timeout=1)
    assert "released" not in program.output


@pytest.mark.parametrize("program", ["asyncio.run(fixed())"], indirect=True)
async def test_startup_task_can_be_cancelled(program: Process) -> None:
    """A startup in a task of its own is cancelled by the signal handler and releases what it has."""
    await program.wait_for_output("starting")
    program.send_signal(signal.SIGTERM)

    assert await program.exit_status() != 0
    assert "released" in program.output
