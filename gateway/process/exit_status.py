"""The exit statuses of the `gateway` command."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """The exit statuses of the `gateway` command. For invalid options, typer exits with 2.

    Attributes:
        OK: the command succeeded, or the process stopped cleanly after a stop signal.
        CRASHED: an entry crashed.
        CHECK_FAILED: `gateway check` found a resource that does not work.
        START_FAILED: the startup failed or a stop signal cancelled it, the settings are invalid, or a command failed.
        UNCLEAN: the release of an entry failed or was aborted, or the shutdown took too long.
        FORCED: a second stop signal forced the shutdown.
        INTERRUPTED: a stop signal ended `check`, `migrate` or `seed`.
    """

    OK = 0
    CRASHED = 1
    CHECK_FAILED = CRASHED
    START_FAILED = 3
    UNCLEAN = 4
    FORCED = 130
    INTERRUPTED = FORCED
