"""uvicorn: it binds its port after the startup, so a port in use is reported only then."""

import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    print("started")
    yield


def broken(port: int) -> None:
    uvicorn.run(FastAPI(lifespan=lifespan), port=port)


def fixed(port: int) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        uvicorn.Server(uvicorn.Config(FastAPI(lifespan=lifespan))).run(sockets=[listener])


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def run(code: str) -> "subprocess.CompletedProcess[str]":
    code = f"from tests.pitfalls.{Path(__file__).stem} import broken, fixed; {code}"
    return subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


def test_port_in_use_is_found_after_startup(port_in_use: int) -> None:
    """The whole startup runs before the bind fails."""
    done = run(f"broken({port_in_use})")

    assert done.returncode != 0
    assert "address already in use" in done.stderr
    assert "started" in done.stdout, "fixed upstream: uvicorn binds its port first"


def test_bind_before_startup_fails_early(port_in_use: int) -> None:
    """If the program binds first, nothing is started."""
    done = run(f"fixed({port_in_use})")

    assert done.returncode != 0
    assert "Address already in use" in done.stderr
    assert "started" not in done.stdout
