"""A circuit breaker that probes in the background."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from gateway.concurrency import failed_future

T = TypeVar("T")

FAILURE_THRESHOLD = 5  # failures in a row that open the circuit

# Seconds between two probes. A probe may take one second, so calls resume within two seconds after a recovery.
PROBE_INTERVAL = 0.5


class CircuitOpenError(Exception):
    """The call was rejected, because the backend kept failing. Its cause is the latest failure."""


class CircuitBreaker:
    """Passes calls on until too many in a row have failed. Then it rejects calls, and probes the backend until one succeeds.

    A call is passed as a function that starts it and returns its future.

    The probes run in the background, not in a request. A request that probes would have to wait for a backend that is
    probably still down. Meanwhile, all others would be rejected, even after a recovery.

    Attributes:
        is_open: calls are rejected at present.
    """

    def __init__(
        self,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        *,
        is_failure: Callable[[Exception], bool] = lambda _: True,
        is_inconclusive: Callable[[Exception], bool] = lambda _: False,
    ) -> None:
        """Create a breaker that is closed.

        Args:
            spawn: runs the probes in the background (see `TaskPool.spawn`).
            is_failure: returns whether an error is a failure of the backend. Other errors count as success, because the
                backend has responded.
            is_inconclusive: returns whether an error is no sign of the state of the backend, neither good nor bad. An example is
                the timeout of a call for which the gateway was too busy.
        """
        self.is_open = False
        self._spawn = spawn
        self._is_failure = is_failure
        self._is_inconclusive = is_inconclusive
        self._failures = 0
        self._latest_failure: Exception | None = None
        self._probe_call: Callable[[], asyncio.Future[Any]] | None = None
        self._is_probing = False

    def call(
        self, call: Callable[[], "asyncio.Future[T]"], *, probe: Callable[[], "asyncio.Future[Any]"] | None = None
    ) -> "asyncio.Future[T]":
        """Start a call, and return its future. The future raises `CircuitOpenError` if the call was rejected.

        Args:
            call: the call.
            probe: probes the backend instead of the call if that fails or is rejected. None: the call itself.
        """
        if self.is_open:
            return failed_future(self.reject(probe or call))
        return self._attempt(call, probe or call)

    def reject(self, probe: Callable[[], "asyncio.Future[Any]"]) -> CircuitOpenError:
        """Return the error for the caller of a rejected call, which is the next probe.

        The probe is not always the same call, because one call may fail even if the backend has recovered.
        """
        self._probe_call = probe
        error = CircuitOpenError("it kept failing, so it is not called for now")
        error.__cause__ = self._latest_failure
        return error

    def _attempt(
        self, call: Callable[[], "asyncio.Future[T]"], probe: Callable[[], "asyncio.Future[Any]"]
    ) -> "asyncio.Future[T]":
        result = call()
        result.add_done_callback(partial(self._on_result, probe))
        return result

    def _on_result(self, probe: Callable[[], "asyncio.Future[Any]"], result: "asyncio.Future[Any]") -> None:
        if result.cancelled():
            return  # by its caller, which is no sign of the state of the backend
        error = result.exception()
        if isinstance(error, Exception) and self._is_inconclusive(error):
            return
        if isinstance(error, Exception) and self._is_failure(error):
            self._latest_failure = error
            self._record_failure(probe)
        else:
            self._failures = 0
            self._latest_failure = None
            self.is_open = False

    def _record_failure(self, probe: Callable[[], "asyncio.Future[Any]"]) -> None:
        self._failures += 1
        if self._failures >= FAILURE_THRESHOLD and not self.is_open:
            self.is_open = True
            self._probe_call = probe
            if not self._is_probing:  # a call from before may have closed the circuit while the probe slept
                self._is_probing = True
                self._spawn(self._probe())

    async def _probe(self) -> None:
        """Probe with the call that was rejected last until one succeeds."""
        try:
            while self.is_open:
                await asyncio.sleep(PROBE_INTERVAL * random.uniform(0.8, 1))  # noqa: S311 - jitter is no secret
                if self._probe_call is not None:
                    await asyncio.wait({self._attempt(self._probe_call, self._probe_call)})
        finally:
            self._is_probing = False
