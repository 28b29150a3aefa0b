"""`gateway dev`: the gateway and its worker on private servers. Ctrl-C stops everything and removes all files."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx

from gateway.devstack.control import ServerControl
from gateway.devstack.control_socket import serve_control
from gateway.devstack.folder import Reporter
from gateway.devstack.output import Output, prefixed
from gateway.devstack.postgresql import RUNTIME_ROLE
from gateway.devstack.server import DevstackError, wait_for_exit
from gateway.devstack.stack import Devstack, devstack
from gateway.places.seed import seed
from gateway.process.listener import bind_socket, url_of
from gateway.process.signals import stop_signals
from gateway.schema.migrate import migrate

EXAMPLE = "/v1/places/2657896/brief"  # the brief of Zürich

START_TIMEOUT = 40.0  # above GATEWAY_STARTUP_TIMEOUT
STOP_TIMEOUT = 35.0  # above GATEWAY_SHUTDOWN_TIMEOUT
POLL_INTERVAL = 0.05
SIGNAL_STATUS = 128  # in a shell, the number of the signal is added to it

COLORS = {"gateway": "cyan", "worker": "magenta"}  # of the prefixes


async def dev(host: str, port: int, *, output: Output, debug: bool = False) -> int:
    """Serve until a stop signal, or until the gateway or the worker exits.

    Args:
        host: the address to listen on.
        port: the port to listen on, 0 for any free one.
        output: gets the lines of this process, the gateway and the worker.
        debug: pass `--debug` to the gateway and the worker.

    Returns:
        The exit status: 0 after a stop signal, otherwise that of the process that exited (see `first_exit_status`).

    Raises:
        BindError: the address is not available.
        DevstackError: a server is not available. None is left running.
    """
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(_serve(host, port, output, debug=debug))
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            serving.cancel()
            output.report("stopping: the gateway first, then the servers in reverse")

    for number in stop_signals():
        loop.add_signal_handler(number, stop)
    try:
        return await serving
    except asyncio.CancelledError:
        return 0


async def _serve(host: str, port: int, output: Output, *, debug: bool) -> int:
    started_at = time.monotonic()
    report = output.report
    options = ["--debug"] if debug else []
    async with AsyncExitStack() as stack:
        # It raises before the servers start, which takes seconds, and keeps the port for the gateway meanwhile.
        listener = stack.enter_context(bind_socket(host, port))
        url = url_of(listener)
        report(f"page: {url}/ (in a few seconds)")
        servers = await stack.enter_async_context(devstack(report=report))
        report(f"migrate: {await migrate(servers.postgresql.owner_url, grant_to=RUNTIME_ROLE)}")
        report(f"seed: {await seed(servers.postgresql.owner_url)}")
        control, control_path = ServerControl(servers.by_name, report=report), servers.folder / "control"
        await stack.enter_async_context(serve_control(control, control_path))
        # The worker is entered first and stops last, so it processes the events of the gateway's shutdown, too.
        worker = await stack.enter_async_context(_command("worker", ["worker", *options], servers, output))
        serve = ["serve-dev", str(listener.fileno()), str(control_path), *options]
        gateway = await stack.enter_async_context(_command("gateway", serve, servers, output, [listener.fileno()]))
        listener.close()  # otherwise clients could still connect after the gateway has ended
        if await wait_until_ready(f"{url}/readyz", gateway):
            with suppress(DevstackError):  # a system without `erl_call`, or a server that is suspended already
                await servers.rabbitmq.sync()  # its queues then survive a kill
            elapsed = time.monotonic() - started_at
            report(f"ready after {elapsed:.1f} s: {url}/\n\n    curl {url}{EXAMPLE}\n\nCtrl-C ends it.")
        return await first_exit_status({"gateway": gateway, "worker": worker}, report=report)


@asynccontextmanager
async def _command(
    name: str, command: Sequence[str], servers: Devstack, output: Output, descriptors: Sequence[int] = ()
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run a `gateway` command as a child process, which inherits the descriptors.

    It has its own session, so Ctrl-C does not reach it. All its output appears, with its name.
    """
    async with prefixed(name, COLORS[name], output) as child_output:
        with child_output.descriptor() as descriptor:
            process = subprocess.Popen(  # noqa: S603, ASYNC220 - it returns immediately
                [sys.executable, "-m", "gateway", *command],
                env=os.environ | servers.environment(),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                pass_fds=descriptors,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    if not await wait_for_exit(process, timeout=STOP_TIMEOUT):
                        raise DevstackError(f"{name} was killed: still running {STOP_TIMEOUT:g} s after SIGTERM")
                finally:
                    process.kill()
                    process.wait()


async def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the gateway is ready. Return False if it exits instead; it prints the reason itself.

    Raises:
        DevstackError: it is not ready after `START_TIMEOUT` seconds.
    """
    try:
        async with asyncio.timeout(START_TIMEOUT), httpx.AsyncClient(trust_env=False) as client:
            while process.poll() is None:
                with suppress(httpx.TransportError):
                    if (await client.get(url)).is_success:
                        return True
                await asyncio.sleep(POLL_INTERVAL)
    except TimeoutError:
        raise DevstackError(f"gateway is not ready after {START_TIMEOUT:g} s; its output has the reason") from None
    return False


async def first_exit_status(processes: Mapping[str, subprocess.Popen[bytes]], *, report: Reporter) -> int:
    """Wait until a process exits, and report its name. Its log may not have the reason, for example after a SIGKILL.

    Returns:
        Its exit status. If a signal has killed it, that is 128 and the number of the signal, as in a shell.
    """
    while True:
        for name, process in processes.items():
            status = process.poll()
            if status is None:
                continue
            if status < 0:
                report(f"{name} was killed by signal {-status} ({signal.strsignal(-status)}): stopping the others")
                return SIGNAL_STATUS - status
            report(f"{name} exited with status {status}: stopping the others")
            return status
        await asyncio.sleep(POLL_INTERVAL)
