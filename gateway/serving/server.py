"""`gateway serve`: the process that serves the app over HTTP, drains at a stop signal, and stops in a limited time."""

import asyncio
import gc
from collections.abc import Callable
from socket import socket
from typing import Any

import structlog
from fastapi import FastAPI

from gateway.api.failed_responses import FailedResponses
from gateway.api.health import EVENTS_PATH, OPERATION_PATHS
from gateway.lifecycle import LifecycleStack
from gateway.process.exit_status import ExitStatus
from gateway.process.listener import enable_address_reuse, listens_on_loopback, url_of
from gateway.process.runner import ProcessResult, ProcessRunner, run_process
from gateway.serving.admission import Admission
from gateway.serving.http_limits import HttpLimits, OnRejected, allow_connections
from gateway.serving.lifespan_manager import LifespanManager, StatefulApp
from gateway.serving.uvicorn_server import UvicornServer
from gateway.settings import Settings

REQUEST_CLEANUP_TIMEOUT = 3.0  # for cancelled requests, before the resources that they use are released

# uvloop accepts one connection of a listening socket in each iteration of the event loop. Under load, iterations take
# milliseconds, and thousands of new connections would wait for seconds.
ACCEPTS_PER_ITERATION = 16

# Of the timeout of a brief: responses that take longer are slow. The rest is for variation, and for the way to the client.
SLOW_SHARE = 0.375

# For the streams to send the end of the teardown. It is the last step of the shutdown, and must not exceed its timeout.
STREAM_TIMEOUT = 0.5
STREAM_SHARE = 0.05  # of the shutdown timeout

log = structlog.get_logger("gateway.server")


def serve(
    app: FastAPI,
    listener: socket,
    settings: Settings,
    *,
    root_path: str = "",
    on_started: Callable[[LifecycleStack], object] | None = None,
) -> ProcessResult:
    """Serve the app until a signal stops it or an entry crashes. Return the exit status and the error.

    Args:
        app: its lifespan stores its stack in `app.state.stack`. The responses that the server sends without the app, and those to
            cancelled requests, are recorded in `app.state.failed_responses`, if there is one. `app.state.exit_status` is a future
            with the exit status.
        listener: a bound socket; it is closed at the end.
        settings: the timeouts of the shutdown, and the limits of the HTTP server.
        root_path: the prefix of all paths that a proxy removes.
        on_started: called after the startup, before the first request.
    """
    app.state.on_loopback = listens_on_loopback(listener)  # without API keys, only a loopback listener accepts writes
    failed_responses: FailedResponses = getattr(app.state, "failed_responses", None) or FailedResponses()
    lifespan = LifespanManager(app)

    async def body(process: ProcessRunner) -> None:
        app.state.exit_status = exit_status = asyncio.get_running_loop().create_future()
        if on_started is not None:
            on_started(process.stack)
        server = await _serve_requests(
            StatefulApp(app, lifespan.state, failed_responses),
            listener,
            settings,
            process,
            root_path=root_path,
            on_rejected=failed_responses.record_rejection,
        )

        async def end_streams(status: ExitStatus) -> None:
            exit_status.set_result(status)
            await server.end_streams(min(STREAM_TIMEOUT, settings.shutdown_timeout * STREAM_SHARE))

        process.on_stopped = end_streams

    with listener:
        return run_process(
            lifespan,
            body,
            get_stack=lambda: getattr(app.state, "stack", None),
            shutdown_timeout=settings.shutdown_timeout,
        )


async def _serve_requests(
    app: StatefulApp,
    listener: socket,
    settings: Settings,
    process: ProcessRunner,
    *,
    root_path: str,
    on_rejected: OnRejected,
) -> UvicornServer:
    """Serve requests until the shutdown, drain, and finish or cancel the requests in flight.

    Returns:
        The server, which may still have streams.
    """
    limits = HttpLimits(
        settings.max_head_bytes,
        settings.head_timeout,
        allow_connections(settings.max_connections),
        on_rejected=on_rejected,
        admission=Admission(settings.max_requests, settings.brief_timeout * SLOW_SHARE),
        exempt_paths=frozenset(root_path + path for path in OPERATION_PATHS),
        stream_paths=frozenset({root_path + EVENTS_PATH}),
        cors_origins=settings.cors_origins,
    )

    def log_listening() -> None:
        log.info(
            "serving",
            url=url_of(listener),
            shutdown_timeout_s=settings.shutdown_timeout,
            max_connections=limits.max_connections,
            max_requests=settings.max_requests,
        )

    server = UvicornServer(
        app,
        limits=limits,
        keep_alive_timeout=settings.keep_alive_seconds,
        graceful_timeout=settings.graceful_seconds,
        root_path=root_path,
        trusted_proxies=[str(network) for network in settings.trusted_proxies],
        on_listening=log_listening,
    )
    process.signals.forced.add_done_callback(lambda _: server.force_stop())
    enable_address_reuse(listener)
    gc.freeze()  # the objects of the startup stay until the end, so the garbage collector need not visit them
    listeners = [listener, *(listener.dup() for _ in range(ACCEPTS_PER_ITERATION - 1))]
    serving = asyncio.create_task(server.serve(listeners))  # it closes them
    await process.wait_for_shutdown(serving)

    if process.signals.requested.done():
        log.info("draining", drain_s=settings.drain_seconds)  # not ready, but still serving
        early_ends: set[asyncio.Future[Any]] = {process.signals.forced, process.stack.failure}
        await asyncio.wait(early_ends, timeout=settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
    server.stop()
    await serving
    if cancelled := server.requests:
        log.warning("requests cancelled", requests=len(cancelled))
        await asyncio.wait(cancelled, timeout=REQUEST_CLEANUP_TIMEOUT)
    return server
