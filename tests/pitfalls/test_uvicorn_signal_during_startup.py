"""uvicorn: a stop signal that comes during the startup does not interrupt it."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from tests.end_to_end.running import Process

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    try:
        print("starting", flush=True)
        await asyncio.Event().wait()  # a server that says nothing
        yield
    finally:
        print("given back", flush=True)


def naive() -> None:
    uvicorn.run(FastAPI(lifespan=lifespan), port=0)


async def cure() -> None:
    app = FastAPI()
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(stack.enter_async_context(lifespan(app)))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, starting.cancel)
        await starting
        await uvicorn.Server(uvicorn.Config(app, lifespan="off", port=0)).serve()


@pytest.fixture
def program(request: pytest.FixtureRequest, tmp_path: Path, devstack_folder: Path) -> Iterator[Process]:
    """A process of its own that runs the code given."""
    code = f"import asyncio; from tests.pitfalls.{Path(__file__).stem} import naive, cure; {request.param}"
    process = Process(tmp_path, {"PYTHONPATH": str(ROOT)}, "-c", code, ends_with=devstack_folder)
    yield process
    process.end()


@pytest.mark.parametrize("program", ["naive()"], indirect=True)
async def test_it_goes_on_and_only_sigkill_ends_it(program: Process) -> None:
    await program.said("starting")
    program.send(signal.SIGTERM)
    program.send(signal.SIGINT)

    with pytest.raises(AssertionError, match="the process ends"):  # else a signal ends uvicorn's startup by now
        await program.status(limit=1)
    assert "given back" not in program.output


@pytest.mark.parametrize("program", ["asyncio.run(cure())"], indirect=True)
async def test_who_starts_in_a_task_can_cancel_it(program: Process) -> None:
    await program.said("starting")
    program.send(signal.SIGTERM)

    assert await program.status() != 0
    assert "given back" in program.output
