"""The time for which a thread wanted to run."""

import subprocess
import sys
import time

from gateway.process.cpu_demand import runnable_time

# Shares one CPU with another process for half a second, and prints the elapsed time, the runnable time and the CPU time.
SHARE_A_CPU = """
import os, time
from gateway.process.cpu_demand import runnable_time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = os.fork()
if other == 0:
    while os.getppid() != 1:
        pass
    os._exit(0)
before = time.monotonic(), runnable_time(), time.thread_time()
while time.monotonic() < before[0] + 0.5:
    pass
print(*(after - start for after, start in zip((time.monotonic(), runnable_time(), time.thread_time()), before)))
os.kill(other, 9)
os.waitpid(other, 0)
"""


def test_thread_that_waits_for_a_cpu() -> None:
    """A busy thread is runnable all the time, also while another process has its CPU."""
    command = [sys.executable, "-c", SHARE_A_CPU]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout  # noqa: S603 - our own command
    elapsed, runnable, cpu = map(float, output.split())

    assert runnable > 0.9 * elapsed
    assert cpu < 0.8 * elapsed


def test_idle_thread() -> None:
    """A thread that sleeps is not runnable."""
    before = runnable_time()
    time.sleep(0.2)

    assert runnable_time() - before < 0.1
