"""The number of places that one call of the upstream may have. It adapts to what the upstream is able to process."""

import time

import structlog

from gateway.lifecycle import format_error

MAX_PLACES_PER_CALL = 50  # their coordinates have 1 kB in the URL
LIST_RETRY_INTERVAL = 60.0  # after that, an upstream that has refused a list gets one again

log = structlog.get_logger("gateway.briefs")


class PlacesPerCall:
    """The upper bound of the places in one call.

    - An upstream that refuses lists gets single places for `LIST_RETRY_INTERVAL`.
    - A list that times out may be too long, so the bound is halved. Each call that reaches it and succeeds raises it by one.
    """

    def __init__(self) -> None:
        self._bound = MAX_PLACES_PER_CALL
        self._refused_at: float | None = None

    @property
    def bound(self) -> int:
        if self._refused_at is not None and time.monotonic() - self._refused_at < LIST_RETRY_INTERVAL:
            return 1
        return self._bound

    def on_success(self, places: int) -> None:
        """Record that a call with this number of places has succeeded."""
        if places >= self._bound:
            self._bound = min(places + 1, MAX_PLACES_PER_CALL)
        if places > 1 and self._refused_at is not None:
            self._refused_at = None
            log.info("weather upstream accepts lists of places again")

    def on_timeout(self, places: int) -> None:
        """Record that a call with this number of places has timed out. That of a single place is no sign about lists."""
        if places > 1:
            self._bound = min(self._bound, places // 2)

    def on_refusal(self, error: Exception) -> None:
        """Record that the upstream has refused a list, although it has accepted each of its places."""
        if self._refused_at is None:
            log.warning("weather upstream refuses lists of places", error=format_error(error))
        self._refused_at = time.monotonic()
