"""uvicorn: it takes its port after the startup, so a port that somebody has is found out last."""

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


def naive(port: int) -> None:
    uvicorn.run(FastAPI(lifespan=lifespan), port=port)


def cure(port: int) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        uvicorn.Server(uvicorn.Config(FastAPI(lifespan=lifespan))).run(sockets=[listener])


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def run(code: str) -> "subprocess.CompletedProcess[str]":
    code = f"from tests.pitfalls.{Path(__file__).stem} import naive, cure; {code}"
    return subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


def test_everything_is_started_before_it_fails(taken: int) -> None:
    done = run(f"naive({taken})")

    assert done.returncode != 0
    assert "address already in use" in done.stderr
    assert "started" in done.stdout, "uvicorn looks at the port first by now"


def test_who_binds_first_starts_nothing(taken: int) -> None:
    done = run(f"cure({taken})")

    assert done.returncode != 0
    assert "Address already in use" in done.stderr
    assert "started" not in done.stdout
