"""`python -m faultlab` as a person runs it: what it says of apps that cannot be tested, and its exit status."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from faultlab.__main__ import main
from tests.faultlab.cli_result import Examine

ROOT = Path(__file__).parents[2]


def write(folder: Path, lifespan: str) -> None:
    """Write an app with this lifespan into `folder`, as module `service`."""
    (folder / "service.py").write_text(
        dedent("""\
            import asyncio, faulthandler, os, socket, sys, tempfile, threading, time
            from concurrent.futures import ThreadPoolExecutor
            from contextlib import asynccontextmanager
            from fastapi import FastAPI
            from starlette.concurrency import run_in_threadpool

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
    assert told[2:5] == ["socket that is not connected", "acquired at service.py:9 lifespan", "timeline of tick 1"]
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
            "service:app: it does not start even without a fault: lifespan.startup: ValueError('no')",
        ),
        (
            "await asyncio.Event().wait()\nyield",
            "it does not start even without a fault: it has not ended within 0.5 s",
        ),
        ("time.sleep(60)\nyield", "the app has blocked the event loop for 0.5 s, at service.py:9 lifespan"),
        ("sys.exit(7)\nyield", "service:app ended the process: SystemExit(7)"),
        (
            "async with asyncio.TaskGroup():\n    raise ValueError('the reason')\nyield",
            "[ValueError('the reason')])",
        ),
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


INNOCENT = {
    "a thread of anyio that waits for work": "await run_in_threadpool(time.sleep, 0)\nyield",
    "a thread of an executor of its own that waits for work": (
        "asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix='own'))\n"
        "await asyncio.to_thread(time.sleep, 0)\nyield"
    ),
    "output with a descriptor": "faulthandler.enable()\nsys.stdout.reconfigure(line_buffering=True)\nyield",
    "a folder that is gone": (
        "gone, before = tempfile.mkdtemp(), os.getcwd()\nos.chdir(gone)\nos.rmdir(gone)\n"
        "open('/dev/null').close()\nawait asyncio.sleep(0)\nos.chdir(before)\nyield"
    ),
}


@pytest.mark.parametrize("lifespan", INNOCENT.values(), ids=INNOCENT)
def test_what_is_no_leak_is_not_convicted(tmp_path: Path, lifespan: str) -> None:
    write(tmp_path, lifespan)
    done = run(tmp_path, "service:app")

    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_a_thread_that_never_ends_is_convicted_and_does_not_keep_the_command_from_its_end(tmp_path: Path) -> None:
    write(
        tmp_path,
        "if not hasattr(sys, 'first'):\n"
        "    sys.first = threading.Thread(target=time.sleep, args=(90,), name='unending')\n"
        "    sys.first.start()\n"
        "    app.state.busy = asyncio.get_running_loop().run_in_executor(None, time.sleep, 90)\n"
        "yield",
    )
    done = run(tmp_path, "service:app")

    assert (done.returncode, done.stderr) == (1, "")
    assert "thread unending" in done.stdout
    assert "thread asyncio_..." in done.stdout


def test_threads_without_a_name_of_their_own_are_the_same_guilt(
    tmp_path: Path, examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\nyield")
    monkeypatch.syspath_prepend(tmp_path)
    examined = examine("service:app", settle=0.01)
    monkeypatch.delitem(sys.modules, "service")

    assert examined.phase("no fault").count("thread Thread-...") == 1
    assert examined.phase("teardown").count("thread Thread-...") == 1


def test_an_exception_handler_of_the_apps_own_hides_nothing(tmp_path: Path) -> None:
    write(
        tmp_path,
        "loop = asyncio.get_running_loop()\nloop.set_exception_handler(lambda loop, context: None)\n"
        "loop.create_future().set_exception(ValueError('unheard'))\nyield",
    )
    done = run(tmp_path, "service:app")

    assert done.returncode == 1
    assert "never retrieved (ValueError('unheard'))" in done.stdout.partition("startup:")[0]


def test_a_task_that_the_factory_makes_does_not_disturb(tmp_path: Path) -> None:
    write(tmp_path, "yield")
    with (tmp_path / "service.py").open("a") as file:
        file.write("def make():\n    asyncio.ensure_future(asyncio.sleep(0))\n    return app\n")
    done = run(tmp_path, "service:make")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def app(): raise ValueError('no')", "service:app makes no app: ValueError: no"),
        (
            "class Lazy:\n    @property\n    def app(self): raise ValueError('no')\nlazy = Lazy()",
            "service:lazy.app cannot be had: ValueError: no",
        ),
        ("def app(): raise KeyboardInterrupt", "interrupted"),
    ],
)
def test_what_raises_in_place_of_an_app_is_told_in_one_line(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "service.py").write_text(code)
    done = run(tmp_path, "service:lazy.app" if "lazy" in code else "service:app")

    assert (done.returncode, done.stderr) == (130 if said == "interrupted" else 2, f"faultlab: {said}\n")


def test_a_mistake_of_the_lab_is_no_guilt_of_the_app(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("faultlab.__main__.LIVES")
    examined = examine("tests.faultlab.broken_apps.tutorial:harmless")

    assert examined.status == 2
    assert "NameError" in examined.errors


def test_who_reads_only_the_head_is_told_no_more(tmp_path: Path) -> None:
    write(tmp_path, "yield")
    with subprocess.Popen(
        [sys.executable, "-m", "faultlab", "service:app"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        assert process.stderr.read() == b""


@pytest.mark.parametrize("limit", ["nan", "inf", "0", "-5", "soon"])
def test_a_limit_is_a_number_of_seconds(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["service:app", "--limit", limit])

    assert exited.value.code == 2
    assert "a number of seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["redis://gateway:s3cr3t@localhost"],
        ["gateway:s3cr3t@localhost"],
        ["json:load", "redis://gateway:s3cr3t@localhost"],
        ["json:load", "--wacht=redis://gateway:s3cr3t@localhost"],
    ],
)
def test_an_url_in_the_wrong_place_is_not_repeated(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(arguments)
    except SystemExit as exited:
        status = int(exited.code or 0)
    printed = capsys.readouterr()

    assert status == 2
    assert "s3cr3t" not in printed.out + printed.err


def test_logging_is_as_it_was_afterwards(examine: Examine) -> None:
    examine("tests.faultlab.broken_apps.tutorial:harmless")

    assert logging.root.manager.disable == logging.NOTSET


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
        "amqp://gateway:s3cr3t@a..b/": "label empty",
        "mysql://gateway:s3cr3t@localhost/": "--watch takes URLs",
    }
    for url, said in wrong.items():
        examined = examine("tests.faultlab.broken_apps.tutorial:harmless", "--watch", url)

        assert examined.status == 2
        assert said in examined.errors
        assert examined.errors.count("\n") == 1
        assert "s3cr3t" not in examined.output + examined.errors


def test_a_driver_that_is_missing_is_told(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    examined = examine("tests.faultlab.broken_apps.tutorial:harmless", "--watch", "postgresql://127.0.0.1:1/x")

    assert examined.status == 2
    assert "--watch postgresql://127.0.0.1:1: that needs `pip install asyncpg`" in examined.errors


def test_a_cancellation_that_becomes_another_error_is_convicted(tmp_path: Path) -> None:
    write(
        tmp_path,
        dedent("""\
            yield
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                raise RuntimeError("not in peace") from None"""),
    )
    done = run(tmp_path, "service:app")

    assert done.returncode == 1
    assert "it was cancelled, and ended with another error: RuntimeError('not in peace')" in done.stdout
