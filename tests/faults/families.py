"""The families of faults: each is one file of tests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One family, as docs/faults/README.md presents it.

    Attributes:
        name: two words.
        module: the file of its tests, without `.py`.
        injected: what is injected.
        where: at which points.
        first_test: the test to read first.
        sample: the test whose timeline the page shows, as in its id after the name of the file.
        caption: the description of that timeline.
    """

    name: str
    module: str
    injected: str
    where: str
    first_test: str
    sample: str
    caption: str

    @property
    def file(self) -> str:
        """The path of its tests."""
        return f"tests/faults/{self.module}.py"

    @property
    def sample_id(self) -> str:
        return f"{self.file}::{self.sample}"

    @property
    def image(self) -> str:
        """The file name of the timeline."""
        return f"{self.name.replace(' ', '-')}.svg"


FAMILIES = [
    Family(
        "cancellation",
        "test_cancellation",
        "`task.cancel()`: once, twice, at every later point",
        "each loop iteration and each task step of a startup and of a teardown; asyncio and uvloop",
        "test_cancelled_at_every_point",
        "test_cancelled_at_every_point[once-loop iteration, asyncio-startup]",
        "The startup is cancelled while RabbitMQ connects: the three entries before it exit in reverse order.",
    ),
    Family(
        "deadline",
        "test_deadlines",
        "the start or stop timeout of the current entry expires",
        "the same points",
        "test_stop_deadline_expires_at_every_point",
        "test_stop_deadline_expires_at_every_point[loop iteration, asyncio]",
        "The stop timeout of RabbitMQ expires: RabbitMQ is aborted, and the three entries before it exit.",
    ),
    Family(
        "forced shutdown",
        "test_forced_shutdown",
        "`stack.abort()`, as after a second stop signal",
        "the same points of a startup, a rollback and a teardown",
        "test_forced_during_teardown",
        "test_forced_during_teardown[loop iteration, asyncio]",
        "The shutdown is forced while RabbitMQ exits: the four entries that are still open are aborted.",
    ),
    Family(
        "wire fault",
        "test_wire_faults",
        "reset, refuse, close, black hole, truncate, garbage, byte at a time",
        "each message between the gateway and a server",
        "test_rollback_closes_in_reverse_order",
        "test_stop_with_wire_fault[rabbitmq-Connection.Close-black hole]",
        "The last message to RabbitMQ is lost: RabbitMQ is aborted after its stop timeout of 0.2 s, and the three entries "
        "before it exit.",
    ),
    Family(
        "double fault",
        "test_double_faults",
        "one entry raises, hangs or cancels itself, and then another one does",
        "each pair of entries, in the startup, in the rollback and in the teardown",
        "test_failed_start_then_failed_stop",
        "test_cancelled_start_then_failed_stop[raises-redis-model]",
        "The startup is cancelled while the model is loaded, and then the exit of Redis raises an error: the other entries "
        "exit.",
    ),
    Family(
        "server rejection",
        "test_server_rejections",
        "wrong password, no such database, too many clients, loading, read-only, blocked",
        "the startup; some while serving",
        "test_rejected_url",
        "TestRabbitMQ::test_forbidden_vhost",
        "RabbitMQ refuses the virtual host: the three entries before it exit in reverse order.",
    ),
    Family(
        "server outage",
        "test_server_outages",
        "SIGSTOP, SIGKILL or a restart of a server",
        "the startup and the teardown",
        "test_paused_server_delays_only_its_own_stop",
        "test_paused_server_delays_only_its_own_stop[database-aborted]",
        "PostgreSQL is suspended before the teardown: the database is aborted after its stop timeout of 0.5 s, and the "
        "other entries exit.",
    ),
    Family(
        "process limit",
        "test_process_limits",
        "no file descriptor, a broken model file, a crashed worker",
        "the startup; while serving",
        "test_crashed_entry",
        "test_crashed_entry[relay]",
        "The relay crashes while the gateway serves: the other entries exit.",
    ),
    Family(
        "signal",
        "test_signals",
        "SIGTERM or SIGINT, once or twice, to a real process",
        "each phase and each entry",
        "test_while_an_entry_stops",
        "test_while_an_entry_stops[SIGTERM once-rabbitmq]",
        "After SIGTERM, RabbitMQ hangs while it exits: it is aborted after its stop timeout of 0.3 s, and the three entries "
        "before it exit.",
    ),
    Family(
        "random schedule",
        "test_random_schedules",
        "starts, stops, cancellations and wire faults, in any order (hypothesis)",
        "between the steps of the schedule",
        "test_random_schedule",
        "test_random_schedule[1]",
        "One of the runs: its servers are broken and recovered in any order.",
    ),
]
BY_MODULE = {family.module: family for family in FAMILIES}
