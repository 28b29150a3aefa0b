"""`python -m faultlab` from the outside: its output and its exit status, also for apps that cannot be checked."""

import logging
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent, indent

import pytest

from faultlab.__main__ import main
from tests.faultlab.cli_result import Check

ROOT = Path(__file__).parents[2]


def write_app(folder: Path, lifespan: str, after: str = "") -> None:
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
        + indent(dedent(lifespan), "    ")
        + "\napp = FastAPI(lifespan=lifespan)\n"
        + dedent(after)
    )


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "faultlab", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_correct_app_passes_whatever_it_prints(tmp_path: Path) -> None:
    """An app that releases everything has no leaks, and its own output is not shown."""
    write_app(tmp_path, "print('hello')\nyield\nprint('stopped', file=sys.stderr)")
    done = run(tmp_path, "service:app")

    assert (done.returncode, done.stderr) == (0, "")
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == ["no leaks"] * 4


def test_leak_has_location_and_timeline(tmp_path: Path) -> None:
    """A leak is printed with the line that acquired it, and with the timeline of the run."""
    write_app(tmp_path, "app.sock = socket.socket()\nyield\nawait asyncio.sleep(0)\napp.sock.close()")
    done = run(tmp_path, "service:app")
    title, *lines = done.stdout[done.stdout.index("teardown:") :].splitlines()
    lines = [line.strip() for line in lines]

    assert (done.returncode, done.stderr) == (1, "")
    assert re.fullmatch(r"teardown: cancelled at (\d+) ticks: leaks at \d of \1", title)
    assert lines[1:4] == ["socket that is not connected", "acquired at service.py:9 lifespan", "timeline of tick 1"]
    assert [line.partition(" ms  ")[2].split("  ")[0] for line in lines[4:7]] == ["acquired", "cancelled", "still open"]


def test_injection_at_task_steps(tmp_path: Path) -> None:
    """`--points steps` injects at the steps of tasks instead of the iterations of the loop."""
    write_app(tmp_path, "yield")
    done = run(tmp_path, "service:app", "--points", "steps")

    assert done.returncode == 0
    assert "startup: cancelled at" in done.stdout
    assert "steps: no leaks" in done.stdout


def test_leak_of_the_import(tmp_path: Path) -> None:
    """A socket that the import leaves open is a leak, with its location."""
    (tmp_path / "service.py").write_text(
        "import socket\nfrom fastapi import FastAPI\nopen_socket = socket.socket()\napp = FastAPI()\n"
    )
    done = run(tmp_path, "service:app")

    assert done.returncode == 1
    assert done.stdout.startswith("import: leaks\n    socket")
    assert "acquired at service.py:3 <module>" in done.stdout.partition("no fault")[0]


DOES_NOT_START = "service:app does not start, even without a fault: "


@pytest.mark.parametrize(
    ("lifespan", "message"),
    [
        ("raise ValueError('no')\nyield", f"{DOES_NOT_START}lifespan.startup: ValueError('no')"),
        ("await asyncio.Event().wait()\nyield", f"{DOES_NOT_START}the run did not end within 0.5 s"),
        ("time.sleep(60)\nyield", "the app has blocked the event loop for 0.5 s, at service.py:9 lifespan"),
        ("sys.exit(7)\nyield", "service:app ended the process: SystemExit(7)"),
        (
            "async with asyncio.TaskGroup():\n    raise ValueError('the reason')\nyield",
            "[ValueError('the reason')])",
        ),
        (
            "raise asyncio.CancelledError\nyield",
            f"{DOES_NOT_START}lifespan.startup: the app raised CancelledError",
        ),
        (
            "await asyncio.sleep(0.01)\nassert 1 > 2, 'the assertion'\nyield",
            f"{DOES_NOT_START}lifespan.startup: AssertionError('the assertion')",
        ),
    ],
)
def test_app_that_does_not_start_is_one_line(tmp_path: Path, lifespan: str, message: str) -> None:
    """An app that cannot be checked is neither a leak nor a pass: status 2, and the reason in one line."""
    write_app(tmp_path, lifespan)
    done = run(tmp_path, "service:app", "--limit", "0.5")

    assert done.returncode == 2
    assert done.stderr.startswith("faultlab: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert done.stdout in ("", "import: no leaks\n")


def test_failure_of_a_later_run_is_no_pass(tmp_path: Path) -> None:
    """A run that fails before the fault is injected ends the check with status 2, although the baseline passed."""
    write_app(
        tmp_path,
        """\
        sys.starts = getattr(sys, "starts", 0) + 1
        if sys.starts > 2:
            raise ValueError("third start")
        yield""",
    )
    done = run(tmp_path, "service:app")

    assert done.returncode == 2
    assert re.fullmatch(
        r"faultlab: service:app failed without a fault, after the startup was disturbed \d+ times: "
        r"lifespan.startup: ValueError\('third start'\)\n",
        done.stderr,
    )
    assert done.stdout == "import: no leaks\nno fault: started and stopped 2 times: no leaks\n"


def test_leaks_before_a_failed_run_are_printed(tmp_path: Path) -> None:
    """If a run without an injection fails, the leaks of the runs before it are printed first."""
    write_app(
        tmp_path,
        """\
        sys.starts = getattr(sys, "starts", 0) + 1
        if sys.starts > 4:
            raise ValueError("fifth start")
        sys.sockets = [*getattr(sys, "sockets", []), socket.socket()]
        await asyncio.sleep(0)
        sys.sockets.pop().close()
        yield""",
    )
    done = run(tmp_path, "service:app")

    assert done.returncode == 2
    assert "socket that is not connected" in done.stdout[done.stdout.index("startup:") :]
    assert done.stderr.startswith("faultlab: service:app failed without a fault, after the startup was disturbed ")
    assert "ValueError('fifth start')" in done.stderr


@pytest.mark.parametrize(
    ("handler", "reason"),
    [("raise asyncio.CancelledError", "CancelledError()"), ("raise ValueError('no')", "ValueError('no')")],
)
def test_request_that_fails_without_a_fault(tmp_path: Path, handler: str, reason: str) -> None:
    """A request that fails without a fault cannot be tested: status 2, and the reason in one line."""
    write_app(tmp_path, "yield", after=f"async def fail():\n    {handler}\napp.get('/')(fail)\n")
    done = run(tmp_path, "service:app", "--request", "/")

    assert done.returncode == 2
    assert done.stderr == f"faultlab: service:app does not serve GET /, even without a fault: {reason}\n"


def test_hanging_shutdown_is_detected(tmp_path: Path) -> None:
    """A stop that does not end within the limit is an error, even without a fault."""
    write_app(tmp_path, "yield\nif not app.state._state:\n    app.state.hung = True\n    await asyncio.Event().wait()")
    done = run(tmp_path, "service:app", "--limit", "0.5")

    assert (done.returncode, done.stderr) == (1, "")
    assert "errors at 1 of 2" in done.stdout.partition("startup:")[0]
    assert "error: the run did not end within 0.5 s" in done.stdout.partition("startup:")[0]


@pytest.mark.parametrize("error", ["ValueError('no')", "asyncio.CancelledError()"])
def test_failed_shutdown_is_detected(tmp_path: Path, error: str) -> None:
    """A stop that fails without a fault is an error and not a leak, also if it raises CancelledError by itself."""
    write_app(tmp_path, f"yield\nraise {error}")
    done = run(tmp_path, "service:app")
    reason = "the app raised CancelledError" if "Cancelled" in error else error

    assert (done.returncode, done.stderr) == (1, "")
    assert "no fault: started and stopped 2 times: errors at 2 of 2\n" in done.stdout
    assert f"    error: lifespan.shutdown: {reason}\n" in done.stdout


NOT_LEAKS = {
    "an idle thread of anyio": "await run_in_threadpool(time.sleep, 0)\nyield",
    "an idle thread of the app's own default executor": (
        "asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(thread_name_prefix='own'))\n"
        "await asyncio.to_thread(time.sleep, 0)\nyield"
    ),
    "output that needs a descriptor": "faulthandler.enable()\nsys.stdout.reconfigure(line_buffering=True)\nyield",
    "a current folder that was removed": (
        "gone, before = tempfile.mkdtemp(), os.getcwd()\nos.chdir(gone)\nos.rmdir(gone)\n"
        "try:\n    open('/dev/null').close()\n    await asyncio.sleep(0)\nfinally:\n    os.chdir(before)\nyield"
    ),
}


@pytest.mark.parametrize("lifespan", NOT_LEAKS.values(), ids=NOT_LEAKS)
def test_no_leak_is_reported(tmp_path: Path, lifespan: str) -> None:
    """Resources that belong to the event loop or to a library, and unusual environments, are not reported."""
    write_app(tmp_path, lifespan)
    done = run(tmp_path, "service:app")

    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_endless_threads_are_reported(tmp_path: Path) -> None:
    """Threads that never end are leaks, and they do not keep the command from ending."""
    write_app(
        tmp_path,
        """\
        if not hasattr(sys, 'first'):
            sys.first = threading.Thread(target=time.sleep, args=(90,), name='endless')
            sys.first.start()
            app.state.busy = asyncio.get_running_loop().run_in_executor(None, time.sleep, 90)
        yield""",
    )
    done = run(tmp_path, "service:app")

    assert (done.returncode, done.stderr) == (1, "")
    assert "thread endless" in done.stdout
    assert "thread asyncio_..." in done.stdout


def test_unnamed_threads_share_a_report(tmp_path: Path, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads with generated names are the same leak at every point."""
    end_threads = threading.Event()
    monkeypatch.setattr(sys, "end_threads", end_threads, raising=False)
    write_app(tmp_path, "threading.Thread(target=sys.end_threads.wait, daemon=True).start()\nyield")
    monkeypatch.syspath_prepend(tmp_path)
    result = check("service:app", settle=0.01)
    monkeypatch.delitem(sys.modules, "service")
    end_threads.set()

    assert result.phase("no fault").count("thread Thread-...") == 1
    assert result.phase("teardown").count("thread Thread-...") == 1


def test_exception_handler_of_the_app_hides_nothing(tmp_path: Path) -> None:
    """Errors that no task awaits are reported, even if the app has set an exception handler that ignores them."""
    write_app(
        tmp_path,
        "loop = asyncio.get_running_loop()\nloop.set_exception_handler(lambda loop, context: None)\n"
        "loop.create_future().set_exception(ValueError('ignored'))\nyield",
    )
    done = run(tmp_path, "service:app")

    assert done.returncode == 1
    assert "never retrieved (ValueError('ignored'))" in done.stdout.partition("startup:")[0]


def test_factory_may_create_tasks(tmp_path: Path) -> None:
    """A task that the app's factory creates does not disturb the check."""
    write_app(
        tmp_path,
        "yield",
        after="def create_app():\n    asyncio.ensure_future(asyncio.sleep(0))\n    return app\n",
    )
    done = run(tmp_path, "service:create_app")

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def app(): raise ValueError('no')", "service:app fails to return an app: ValueError: no"),
        (
            "class Lazy:\n    @property\n    def app(self): raise ValueError('no')\nlazy = Lazy()",
            "reading service:lazy.app fails: ValueError: no",
        ),
        ("def app(): raise KeyboardInterrupt", "interrupted"),
        (
            "import asyncio\ndef app(): raise asyncio.CancelledError",
            "service:app fails to return an app: CancelledError",
        ),
        ("import asyncio\nraise asyncio.CancelledError", "importing service fails: CancelledError"),
    ],
)
def test_target_that_raises_is_one_line(tmp_path: Path, code: str, message: str) -> None:
    """An import, a property or a factory that raises ends the command with the reason in one line."""
    (tmp_path / "service.py").write_text(code)
    done = run(tmp_path, "service:lazy.app" if "lazy" in code else "service:app")

    assert (done.returncode, done.stderr) == (130 if message == "interrupted" else 2, f"faultlab: {message}\n")


def test_error_of_the_command_is_no_leak(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of the command itself has status 2 and a traceback; it is not attributed to the app."""
    monkeypatch.delattr("faultlab.__main__.BASELINE_RUNS")
    result = check("tests.faultlab.broken_apps.tutorial:harmless")

    assert result.status == 2
    assert "NameError" in result.errors


def test_closed_output_pipe_is_no_error(tmp_path: Path) -> None:
    """If the reader of the output has ended, as with `| head`, the command ends without a message."""
    write_app(tmp_path, "yield")
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
def test_limit_is_a_number_of_seconds(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Other values of `--limit` are wrong usage."""
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
def test_misplaced_url_is_not_quoted(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A URL in the wrong place is wrong usage, and the message does not contain its password."""
    try:
        status = main(arguments)
    except SystemExit as exited:
        status = int(exited.code or 0)
    printed = capsys.readouterr()

    assert status == 2
    assert "s3cr3t" not in printed.out + printed.err


def test_logging_is_restored(check: Check) -> None:
    """The command disables logging only while the app runs."""
    check("tests.faultlab.broken_apps.tutorial:harmless")

    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("service", "'service' is not of the form package.module:name"),
        ("nowhere:app", "no module named nowhere (searched from the current folder)"),
        ("json:app", "json has no attribute app"),
        ("json:JSONDecoder", "json:JSONDecoder is not an ASGI app and does not return one: it returns a JSONDecoder"),
        ("json:__name__", "json:__name__ is not an ASGI app: its type is str"),
        ("json:load", "json:load is not an ASGI app: it does not accept the arguments scope, receive and send"),
    ],
)
def test_target_that_is_not_an_app(check: Check, target: str, message: str) -> None:
    """A target that is not an app has status 2, and the reason in one line."""
    result = check(target)

    assert (result.status, result.errors) == (2, f"faultlab: {message}\n")


def test_unusable_server_has_no_password_in_message(check: Check, urls: dict[str, str]) -> None:
    """A server that cannot be watched has status 2, and the reason in one line without the password."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    messages = {
        "postgresql://gateway:s3cr3t@127.0.0.1:1/x": "postgresql://127.0.0.1:1",
        urls["POSTGRESQL_URL"].replace("gateway:", "gateway:s3cr3t"): "password authentication failed",
        urls["REDIS_URL"].replace("gateway:", "gateway:s3cr3t"): "invalid username-password pair",
        f"amqp://gateway:s3cr3t@127.0.0.1:{port}/": "Connection refused",
        "postgresql://gateway:p@s3cr3t:5432x/y": "--watch takes URLs",
        "amqp://gateway:s3cr3t@a..b/": "label empty",
        "mysql://gateway:s3cr3t@localhost/": "--watch takes URLs",
    }
    for url, message in messages.items():
        result = check("tests.faultlab.broken_apps.tutorial:harmless", "--watch", url)

        assert result.status == 2
        assert message in result.errors
        assert result.errors.count("\n") == 1
        assert "s3cr3t" not in result.output + result.errors


def test_missing_driver_is_named(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """To watch PostgreSQL without asyncpg has status 2, and the message names the package to install."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    result = check("tests.faultlab.broken_apps.tutorial:harmless", "--watch", "postgresql://127.0.0.1:1/x")

    assert result.status == 2
    assert "--watch postgresql://127.0.0.1:1: that needs `pip install asyncpg`" in result.errors


def test_cancellation_turned_into_another_error(tmp_path: Path) -> None:
    """A lifespan that raises another error when it is cancelled is reported."""
    write_app(
        tmp_path,
        """\
        yield
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            raise RuntimeError("interrupted") from None""",
    )
    done = run(tmp_path, "service:app")

    assert done.returncode == 1
    assert "error: the lifespan was cancelled and raised another error: RuntimeError('interrupted')" in done.stdout


@pytest.mark.parametrize("option", ["--points {}", "--partition={}", "--unknown={}", "--unknown{}"])
def test_usage_error_has_no_password(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error about an option that was given a URL does not repeat the user and the password."""
    with pytest.raises(SystemExit):
        main([*option.format("redis://user:secret@host/0").split(), "service:app"])

    assert "secret" not in capsys.readouterr().err
