"""The deadline for a client to read its response."""

from asyncio import AbstractEventLoop, TimerHandle, Transport


class WriteDeadline:
    """Closes a connection whose client reads nothing.

    A slow client is not closed: the deadline starts again if the client has read a part of the response.
    """

    def __init__(self, transport: Transport, loop: AbstractEventLoop, timeout: float) -> None:
        """Do not start yet. The timeout is in seconds."""
        self._transport = transport
        self._loop = loop
        self._timeout = timeout
        self._timer: TimerHandle | None = None
        self._unsent_bytes = 0  # when the timer started

    def start(self) -> None:
        """Start the deadline, unless it runs."""
        if self._timer is None:
            self._unsent_bytes = self._transport.get_write_buffer_size()
            self._timer = self._loop.call_later(self._timeout, self._on_timeout)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self._transport.get_write_buffer_size() >= self._unsent_bytes:
            self._transport.abort()
        else:
            self.start()
