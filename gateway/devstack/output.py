"""The output of `gateway dev`: its own lines, and those of its child processes with a prefix."""

import asyncio
import os
import queue
import select
import termios
import threading
import tty
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Self

import typer

MAX_WAITING_LINES = 10_000
MAX_LINE_BYTES = 65_536  # longer lines are split
FLUSH_TIMEOUT = 1.0  # seconds without progress at the end, or for the last output of a child that has ended
READ_SIZE = 65_536

PREFIX_WIDTH = len("gateway")
DEFAULT_COLUMNS = 80
MIN_COLUMNS = 40


class Output:
    """Writes lines to a descriptor, in a thread: a reader that does not read blocks neither its callers nor their children.

    Lines wait for the reader. Beyond `MAX_WAITING_LINES` they are dropped and counted. Lines for a closed terminal are lost.

    Attributes:
        columns: the width of the terminal, in characters; None if the descriptor is no terminal.
    """

    def __init__(self, descriptor: int) -> None:
        self.columns = _columns(descriptor)
        self._descriptor = descriptor
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_waiting, name="output", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all lines are written, unless the reader has stopped reading."""
        self._report_dropped()
        self._waiting.put(None)
        waiting = -1
        while self._thread.is_alive() and self._waiting.qsize() != waiting:
            waiting = self._waiting.qsize()
            self._thread.join(FLUSH_TIMEOUT)

    def report(self, line: str) -> None:
        """Write a line, or several."""
        self.write(line.encode() + b"\n")

    def write(self, line: bytes) -> None:
        """Write a line that ends with a line break."""
        if self._waiting.qsize() >= MAX_WAITING_LINES:
            self._dropped += 1
            return
        self._report_dropped()
        self._waiting.put(line)

    def _report_dropped(self) -> None:
        if self._dropped:
            self._waiting.put(f"({self._dropped} lines were dropped, because the output was not read)\n".encode())
            self._dropped = 0

    def _write_waiting(self) -> None:
        while (line := self._waiting.get()) is not None:
            with suppress(OSError):  # the terminal has been closed
                self._write_line(line)

    def _write_line(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except BlockingIOError:  # another program has made the terminal non-blocking
                select.select([], [self._descriptor], [])


class ChildOutput:
    """Reads the output of a child process, and calls a function with each of its lines.

    Until `close()`, an event loop reads it, so that the child never waits for a reader.
    """

    def __init__(self, on_line: Callable[[bytes], None], *, columns: int | None = None) -> None:
        """Open a pipe, or a terminal of this width, on which programs write in colours."""
        self._on_line = on_line
        self._partial = b""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._reading, self._writing = os.pipe() if columns is None else _open_terminal(columns)
        os.set_blocking(self._reading, False)
        self._loop.add_reader(self._reading, self._read)

    @contextmanager
    def descriptor(self) -> Generator[int]:
        """Yield the descriptor for the child's output. After the block only the child has it, so its exit ends the output."""
        try:
            yield self._writing
        finally:
            os.close(self._writing)

    async def close(self) -> None:
        """Read what the child has written, and stop reading."""
        try:
            await asyncio.wait({self._ended}, timeout=FLUSH_TIMEOUT)  # a process that the child left may still write
        finally:
            self._loop.remove_reader(self._reading)
            os.close(self._reading)
            self._end_line()

    def _read(self) -> None:
        try:
            data = os.read(self._reading, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:  # the end of a terminal
            data = b""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._on_line(line + b"\n")
        if len(self._partial) > MAX_LINE_BYTES:
            self._end_line()
        if not data:
            self._loop.remove_reader(self._reading)
            self._ended.set_result(None)

    def _end_line(self) -> None:
        if self._partial:
            self._on_line(self._partial + b"\n")
            self._partial = b""


@asynccontextmanager
async def prefixed(name: str, color: str, output: Output) -> AsyncGenerator[ChildOutput]:
    """Write the lines of a child process to `output`, with its name as the prefix of each.

    The child writes to a terminal if `output` is one, so it chooses the same format as without the prefix. Its width is
    less by the prefix.
    """
    prefix = f"{name:{PREFIX_WIDTH}} | "
    columns = None if output.columns is None else max(output.columns - len(prefix), MIN_COLUMNS)
    styled = (prefix if columns is None else typer.style(prefix, fg=color)).encode()
    child = ChildOutput(lambda line: output.write(styled + line), columns=columns)
    try:
        yield child
    finally:
        await child.close()


def _columns(descriptor: int) -> int | None:
    try:
        return os.get_terminal_size(descriptor).columns or DEFAULT_COLUMNS  # 0 if unknown
    except OSError:
        return None


def _open_terminal(columns: int) -> tuple[int, int]:
    """Open a terminal that changes nothing. Return the descriptors for reading its output and for the program."""
    reading, writing = os.openpty()
    tty.setraw(writing)  # otherwise each line break becomes two characters
    termios.tcsetwinsize(writing, (24, columns))
    return reading, writing
