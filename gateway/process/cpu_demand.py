"""The time for which a thread wanted to run, whether it had a CPU or not."""

from pathlib import Path
from time import thread_time

# Nanoseconds on a CPU, nanoseconds in the queue for one, and the number of runs.
_SCHEDSTAT = Path("/proc/thread-self/schedstat")


def runnable_time() -> float:
    """Return the seconds that this thread was on a CPU or waited for one, since it started.

    Other processes, or the limit of a container, may leave a busy thread little CPU time. Systems other than Linux return the CPU time
    alone.
    """
    try:
        running, waiting, _ = map(int, _SCHEDSTAT.read_text().split())
    except (OSError, ValueError):
        return thread_time()
    return (running + waiting) / 1e9 or thread_time()
