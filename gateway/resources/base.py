"""`Resource`, the base class for the entries of a lifespan, and functions that enter it and retry its startup."""

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

import stamina

from gateway.lifecycle import LifecycleStack
from gateway.network.tls import TLSFileError, client_context
from gateway.settings import ResourceSettings, ServerSettings, variable_name

T = TypeVar("T")
Entered_co = TypeVar("Entered_co", covariant=True)

WORKER_START_TIMEOUT = 1.0
WORKER_STOP_TIMEOUT = 3.0

TEARDOWN_SHARE = 0.9  # of the shutdown timeout; the rest is for aborting entries that exceed it


class PermanentError(Exception):
    """A retry would not help. The message names the setting and the fix, and contains no secret."""


class DegradedError(Exception):
    """A health check found that the resource works only in part, such as a database that is read-only.

    It makes readiness `degraded`, and never `unavailable`: no load balancer should remove a process because of it.
    """


class Resource(ABC, Generic[Entered_co]):
    """Something that is opened once per process and shared, or a background worker that uses such resources.

    The constructor opens nothing. The lifecycle core enters and exits `open()` once, each with a timeout.

    Attributes:
        name: its name in settings, journal and errors.
        start_timeout: seconds for entering.
        stop_timeout: seconds for exiting.
    """

    name: str

    def __init__(self, timeouts: ResourceSettings | None = None) -> None:
        """Without `timeouts`, use those of a background worker, which waits for no server when it is entered."""
        self.start_timeout = timeouts.start_timeout if timeouts else WORKER_START_TIMEOUT
        self.stop_timeout = timeouts.stop_timeout if timeouts else WORKER_STOP_TIMEOUT

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Entered_co]:
        """Acquire, verify, yield the value that others use, release.

        Raises:
            PermanentError: a retry would not help.
        """

    def abort(self) -> None:
        """Close the transports immediately, without waiting. Called if the release failed or took too long."""

    async def check(self) -> str | None:
        """Return a detail, or None, if the resource works now. Raise an error if it does not."""
        return None


def tls_context(
    name: str, settings: ServerSettings, *, verify: bool = True, check_hostname: bool = True
) -> ssl.SSLContext:
    """Return the context for connections to the server of the resource `name`; see `client_context`.

    Raises:
        PermanentError: a file of the settings cannot be used. The message names its variable.
    """
    try:
        return client_context(settings.tls_files, verify=verify, check_hostname=check_hostname)
    except TLSFileError as error:
        raise PermanentError(f"{variable_name(name, error.field)}: {error}") from error


async def enter_resource(stack: LifecycleStack, resource: Resource[T]) -> T:
    """Enter `resource` under its name, with its timeouts, its `abort` and its health check."""
    return await stack.enter(
        resource.name,
        resource.open(),
        start_timeout=resource.start_timeout,
        stop_timeout=resource.stop_timeout,
        abort=resource.abort,
        check=resource.check,
    )


async def retry_transient(attempt: Callable[[], Awaitable[T]], *, is_transient: Callable[[Exception], bool]) -> T:
    """Await `attempt()` until it succeeds, with backoff and jitter, as long as its errors are transient.

    The number of attempts is not limited: the start timeout of the entry ends them. That cancellation has the last
    error as its cause, so that the timeout error can name it.
    """
    last_error: Exception | None = None
    try:
        async for retry in stamina.retry_context(
            on=is_transient, attempts=None, timeout=None, wait_initial=0.05, wait_max=1.0, wait_jitter=0.05
        ):
            with retry:
                try:
                    return await attempt()
                except Exception as error:
                    last_error = error
                    raise
    except asyncio.CancelledError as cancelled:
        raise cancelled from last_error
    raise AssertionError("unreachable: the loop ends by returning or raising")
