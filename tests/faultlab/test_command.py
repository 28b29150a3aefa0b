"""`python -m faultlab` as a person runs it: what it says of apps that cannot be tested, and its exit status."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.faultlab.examining import Examine

ROOT = Path(__file__).parents[2]


def write(folder: Path, lifespan: str) -> None:
    """Write an app with this lifespan into `folder`, as module `service`."""
    (folder / "service.py").write_text(
        dedent("""\
            import asyncio, socket, sys, time
            from contextlib import asynccontextmanager
            from fastapi import FastAPI

            @asynccontextmanager
            async def lifespan(app):
            """)
        + "".join(f"    {line}\n" for line in lifespan.splitlines())
        + "\napp = FastAPI(lifespan=lifespan)\n"
    )


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-m", "faultlab", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_app_that_gives_everything_back_is_cleared_whatever_it_prints(tmp_path: Path) -> None:
    write(tmp_path, "print('hello')\nyield\nprint('goodbye', file=sys.stderr)")
    done = run(tmp_path, "service:app")

    assert (done.returncode, done.stderr) == (0, "")
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == ["nothing is left behind"] * 4


def test_a_leak_is_told_with_its_place_and_its_story(tmp_path: Path) -> None:
    write(tmp_path, "app.sock = socket.socket()\nyield\nawait asyncio.sleep(0)\napp.sock.close()")
    done = run(tmp_path, "service:app")
    told = [line.strip() for line in done.stdout.partition("teardown:")[2].splitlines()]

    assert (done.returncode, done.stderr) == (1, "")
    assert told[2:5] == ["socket that is not connected", "acquired at service.py:7 lifespan", "timeline of tick 1"]
    assert [line.partition(" ms  ")[2].split("  ")[0] for line in told[5:8]] == ["acquired", "cancelled", "still held"]


def test_steps_can_be_counted_instead_of_ticks(tmp_path: Path) -> None:
    write(tmp_path, "yield")
    done = run(tmp_path, "service:app", "--points", "steps")

    assert done.returncode == 0
    assert "startup: cancelled at" in done.stdout
    assert "steps: nothing is left behind" in done.stdout


def test_what_is_open_after_the_import_is_told(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(
        "import socket\nfrom fastapi import FastAPI\nheld = socket.socket()\napp = FastAPI()\n"
    )
    done = run(tmp_path, "service:app")

    assert done.returncode == 1
    assert "acquired at service.py:3 <module>" in done.stdout.partition("no fault")[0]


@pytest.mark.parametrize(
    ("lifespan", "said"),
    [
        (
            "raise ValueError('no')\nyield",
            "service:app: it does not start even without a fault: lifespan.startup: ValueError: no",
        ),
        (
            "await asyncio.Event().wait()\nyield",
            "it does not start even without a fault: it has not ended within 0.5 s",
        ),
        ("time.sleep(60)\nyield", "the app has blocked the event loop for 0.5 s, at service.py:7 lifespan"),
        ("sys.exit(7)\nyield", "service:app ended the process: SystemExit(7)"),
    ],
)
def test_an_app_that_cannot_be_tested_is_told_in_one_line(tmp_path: Path, lifespan: str, said: str) -> None:
    write(tmp_path, lifespan)
    done = run(tmp_path, "service:app", "--limit", "0.5")

    assert done.returncode == 2
    assert done.stderr.startswith("faultlab: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_shutdown_that_hangs_is_convicted(tmp_path: Path) -> None:
    write(tmp_path, "yield\nif not app.state._state:\n    app.state.hung = True\n    await asyncio.Event().wait()")
    done = run(tmp_path, "service:app", "--limit", "0.5")

    assert (done.returncode, done.stderr) == (1, "")
    assert "it has not ended within 0.5 s" in done.stdout.partition("startup:")[0]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("service", "'service' is not package.module:name"),
        ("nowhere:app", "there is no module nowhere (looked for from the current folder)"),
        ("json:app", "json has no app"),
        (
            "json:JSONDecoder",
            "json:JSONDecoder is no ASGI app, and returns none: what it returns is of type JSONDecoder",
        ),
        ("json:__name__", "json:__name__ is no ASGI app: it is of type str"),
        ("json:load", "json:load is no ASGI app: one takes a scope and two functions, receive and send"),
    ],
)
def test_what_is_no_app_is_wrong_usage(examine: Examine, target: str, said: str) -> None:
    examined = examine(target)

    assert (examined.status, examined.errors) == (2, f"faultlab: {said}\n")


def test_a_server_that_cannot_be_asked_is_told_without_its_password(examine: Examine, urls: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    wrong = {
        "postgresql://gateway:s3cr3t@127.0.0.1:1/x": "postgresql://127.0.0.1:1",
        urls["POSTGRESQL_URL"].replace("gateway:", "gateway:s3cr3t"): "password authentication failed",
        urls["REDIS_URL"].replace("gateway:", "gateway:s3cr3t"): "invalid username-password pair",
        f"amqp://gateway:s3cr3t@127.0.0.1:{port}/": "Connection refused",
        "postgresql://gateway:p@s3cr3t:5432x/y": "--watch takes URLs",
        "mysql://gateway:s3cr3t@localhost/": "--watch takes URLs",
    }
    for url, said in wrong.items():
        examined = examine("tests.faultlab.specimens.tutorial:harmless", "--watch", url)

        assert examined.status == 2
        assert said in examined.errors
        assert examined.errors.count("\n") == 1
        assert "s3cr3t" not in examined.output + examined.errors


def test_a_driver_that_is_missing_is_told(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    examined = examine("tests.faultlab.specimens.tutorial:harmless", "--watch", "postgresql://127.0.0.1:1/x")

    assert examined.status == 2
    assert "--watch postgresql://127.0.0.1:1: that needs `pip install asyncpg`" in examined.errors
