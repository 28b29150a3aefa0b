"""The output of `gateway dev`: complete lines of each child with its name, and no reader that blocks a child."""

import asyncio
import os
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from gateway.devstack import output as output_module
from gateway.devstack.output import MAX_LINE_BYTES, ChildOutput, Output, prefixed
from gateway.devstack.server import wait_for_exit
from tests.support.waiting import TIMEOUT


class Reader:
    """Reads a descriptor in a thread from `start()` on."""

    def __init__(self, descriptor: int) -> None:
        self.data = b""
        self._descriptor = descriptor
        self._thread = threading.Thread(target=self._read)

    def start(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError):  # the end of a terminal
            while data := os.read(self._descriptor, 65536):
                self.data += data

    def lines(self) -> list[str]:
        """Wait for the end of the output, and return its lines."""
        self._thread.join(TIMEOUT)
        return self.data.decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The descriptors of a pipe for reading and writing. A test may close them."""
    ends = os.pipe()
    yield ends
    for descriptor in ends:
        with suppress(OSError):
            os.close(descriptor)


async def run(code: str, child_output: ChildOutput) -> None:
    """Run Python code in a child process to its end."""
    with child_output.descriptor() as descriptor:
        process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own code; it returns immediately
            [sys.executable, "-c", code], stdout=descriptor, stderr=descriptor
        )
    try:
        assert await wait_for_exit(process, timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()


async def test_all_lines_have_the_prefix(pipe: tuple[int, int]) -> None:
    """Each line of both streams has the name of the child. None is lost when the child exits, even one without a line break."""
    reading, writing = pipe
    reader = Reader(reading)
    reader.start()
    with Output(writing) as output:
        output.report("first")
        async with prefixed("worker", "magenta", output) as child_output:
            await run(
                "import sys\n"
                "for number in range(9_000): print(number, file=sys.stderr if number % 2 else sys.stdout, flush=True)\n"
                "print('end', end='')",
                child_output,
            )
        output.report("last")
    os.close(writing)

    assert reader.lines() == ["first", *(f"worker  | {number}" for number in range(9_000)), "worker  | end", "last"]


async def test_child_of_a_terminal_has_a_terminal() -> None:
    """If the output is a terminal, so is that of the child: it is narrower by the prefix, and changes no line break."""
    reading, writing = os.openpty()
    termios.tcsetwinsize(writing, (50, 133))
    reader = Reader(reading)
    reader.start()
    with Output(writing) as output:
        async with prefixed("gateway", "cyan", output) as child_output:
            await run("import os; print(os.isatty(1), os.isatty(2), os.get_terminal_size().columns)", child_output)
    os.close(writing)
    lines = reader.lines()
    os.close(reading)

    assert lines == ["\x1b[36mgateway | \x1b[0mTrue True 123"]


async def test_child_of_a_pipe_has_no_terminal(pipe: tuple[int, int]) -> None:
    """If the output is no terminal, neither is that of the child, and the prefix has no colour."""
    reading, writing = pipe
    reader = Reader(reading)
    reader.start()
    with Output(writing) as output:
        async with prefixed("gateway", "cyan", output) as child_output:
            await run("import os; print(os.isatty(1), os.isatty(2))", child_output)
    os.close(writing)

    assert reader.lines() == ["gateway | False False"]


async def test_unread_output_blocks_no_child(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A child whose output is not read runs to its end. Later the reader gets as many lines as may wait, and their number."""
    monkeypatch.setattr(output_module, "MAX_WAITING_LINES", 2_000)
    reading, writing = pipe
    reader = Reader(reading)
    with Output(writing) as output:
        async with prefixed("gateway", "cyan", output) as child_output:
            await run("for number in range(20_000): print(number, 'x' * 100)", child_output)
        reader.start()
    os.close(writing)
    output_lines = reader.lines()

    notes = [
        re.fullmatch(r"\((\d+) lines were dropped, because the output was not read\)", line) for line in output_lines
    ]
    dropped = [int(note[1]) for note in notes if note is not None]
    numbers = [int(line.split()[2]) for line, note in zip(output_lines, notes, strict=True) if note is None]
    assert notes[-1] is not None
    assert len(numbers) >= 2_000
    assert len(numbers) + sum(dropped) == 20_000
    assert numbers == sorted(set(numbers))


def test_end_without_a_reader(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The end does not wait forever for a reader that has stopped reading."""
    monkeypatch.setattr(output_module, "FLUSH_TIMEOUT", 0.05)
    _, writing = pipe
    with Output(writing) as output:
        for _ in range(1_000):
            output.report("x" * 1_000)

    os.close(pipe[0])  # ends the thread, which would otherwise write to the pipe of the next test
    output._thread.join(TIMEOUT)


def test_descriptor_that_does_not_block(pipe: tuple[int, int]) -> None:
    """If another program has made a terminal non-blocking, no line is lost while the terminal is full."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writing, b"\n" * 4096)
    reader = Reader(reading)
    lines = [f"{number} {'x' * 1_000}" for number in range(1_000)]
    with Output(writing) as output:
        for line in lines:
            output.report(line)
        reader.start()
    os.close(writing)

    assert [line for line in reader.lines() if line] == lines


def test_closed_terminal(pipe: tuple[int, int]) -> None:
    """Lines for a terminal that has been closed are lost, without an error."""
    reading, writing = pipe
    os.close(reading)
    with Output(writing) as output:
        output.report("line")


async def test_long_lines_are_split() -> None:
    """A line that never ends is passed on in parts, so that it takes no more and more memory."""
    lines: list[bytes] = []
    child_output = ChildOutput(lines.append)
    await run(f"print('x' * {10 * MAX_LINE_BYTES}, end='')", child_output)
    await child_output.close()

    assert b"".join(lines).replace(b"\n", b"") == b"x" * 10 * MAX_LINE_BYTES
    assert max(map(len, lines)) < 3 * MAX_LINE_BYTES


async def test_output_that_another_process_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that the child left, and that keeps its output open, does not delay the end for long."""
    monkeypatch.setattr(output_module, "FLUSH_TIMEOUT", 0.2)
    lines: list[bytes] = []
    child_output = ChildOutput(lines.append)
    with child_output.descriptor() as descriptor:
        kept = os.dup(descriptor)
        os.write(descriptor, b"line\npart of a line")

    await asyncio.wait_for(child_output.close(), TIMEOUT)

    os.close(kept)
    assert lines == [b"line\n", b"part of a line\n"]
