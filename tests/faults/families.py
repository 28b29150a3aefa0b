"""The families of faults: each is one file of tests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One family, as README.md and the report present it.

    Attributes:
        name: two words.
        module: the file of its tests, without `.py`.
        injected: what is injected.
        where: at which points.
        claim: what the tests prove.
        sample: part of the id of the test whose timeline the report shows, or "".
    """

    name: str
    module: str
    injected: str
    where: str
    claim: str
    sample: str = ""


FAMILIES = [
    Family(
        "cancellation",
        "test_cancellation",
        "`task.cancel()`: once, twice, at every later point",
        "each loop iteration and each task step of a startup and of a teardown; asyncio and uvloop",
        "The cancellation arrives, every entry exits in reverse order, nothing leaks, and the next run is clean.",
        "test_cancelled_at_every_point[startup-once-loop iteration",
    ),
    Family(
        "deadline",
        "test_deadlines",
        "the start or stop timeout of the current entry expires",
        "the same points",
        "The startup fails for that entry, or that entry is aborted; the others are released in reverse order.",
        "test_stop_deadline_expires_at_every_point[loop iteration",
    ),
    Family(
        "forced shutdown",
        "test_forced_shutdown",
        "`stack.abort()`, as after a second stop signal",
        "the same points of a startup, a rollback and a teardown",
        "Every open entry is aborted, the latest first, and each is reported.",
        "test_forced_during_teardown[loop iteration",
    ),
    Family(
        "wire fault",
        "test_wire_faults",
        "reset, refuse, close, black hole, truncate, garbage, byte at a time",
        "each message between the gateway and a server",
        "The startup fails for that resource or reconnects; every other connection is closed gracefully.",
        "test_stop_with_wire_fault[rabbitmq-Connection.Close-black hole",
    ),
    Family(
        "double fault",
        "test_double_faults",
        "one entry raises, hangs or cancels itself, and then another one does",
        "each pair of entries, in the startup, in the rollback and in the teardown",
        "The others are released in reverse order, and both errors are reported.",
        "test_cancelled_start_then_failed_stop[raises-redis-model",
    ),
    Family(
        "server rejection",
        "test_server_rejections",
        "wrong password, no such database, too many clients, loading, read-only, blocked, ...",
        "the startup; some while serving",
        "A permanent error fails at once and names the fix; a transient one is retried until the start timeout.",
        "test_forbidden_vhost",
    ),
    Family(
        "server outage",
        "test_server_outages",
        "SIGSTOP, SIGKILL or a restart of a server",
        "the startup and the teardown",
        "The server costs the timeout of its own resource at most; every other entry exits.",
        "test_paused_server_delays_only_its_own_stop[redis",
    ),
    Family(
        "process limit",
        "test_process_limits",
        "no file descriptor, a broken model file, a crashed worker",
        "the startup; while serving",
        "The startup fails and closes all that it opened; a crash ends readiness.",
        "test_crashed_entry[relay",
    ),
    Family(
        "signal",
        "test_signals",
        "SIGTERM or SIGINT, once or twice, to a real process",
        "each phase and each entry",
        "The exit status, the order of the release and the fate of a request in flight.",
        "test_while_an_entry_stops[SIGTERM once-redis",
    ),
    Family(
        "random schedule",
        "test_random_schedules",
        "all of it, in any order (hypothesis)",
        "-",
        "After any schedule, everything is released, and the next run is clean.",
    ),
]
BY_MODULE = {family.module: family for family in FAMILIES}
