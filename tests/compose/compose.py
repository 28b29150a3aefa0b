"""Bringing the stack up and down as people do: with `docker compose`, or with what GATEWAY_COMPOSE names.

A command whose last word ends with `compose` takes what `docker compose` takes, and runs in the folder of compose.yaml.
Any other takes that folder after its verb: `up FOLDER OPTION...` builds, starts and waits for health, `down FOLDER
OPTION...` ends it, and `exec FOLDER VERB ARGUMENT...` is for all other verbs.
"""

import os
import secrets
import shlex
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD_WITHIN = 1800
"""Seconds for bringing the stack up, images included: a first time downloads all of them."""
RUN_WITHIN = 180
"""Seconds for anything else."""


class Compose:
    """One stack, of a name and on ports of its own, so that one that is up already is left alone."""

    def __init__(self) -> None:
        self._command = shlex.split(os.environ.get("GATEWAY_COMPOSE", "docker compose"))
        self._is_compose = self._command[-1].endswith("compose")
        self.port, management_port = _free_ports(2)
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("STACK_")} | {
            "COMPOSE_PROJECT_NAME": f"gateway-test-{secrets.token_hex(3)}",
            "STACK_PORT": str(self.port),
            "STACK_MANAGEMENT_PORT": str(management_port),
        }

    def up(self, *options: str) -> None:
        """Build, start, and wait until all is healthy."""
        ours = ["up", "--build", "--wait"] if self._is_compose else ["up", str(ROOT)]
        self._run([*ours, *options], within=BUILD_WITHIN)

    def down(self) -> None:
        """End it all, volumes included."""
        ours = ["down"] if self._is_compose else ["down", str(ROOT)]
        self._run([*ours, "--volumes", "--remove-orphans"], within=RUN_WITHIN)

    def run(self, verb: str, *arguments: str) -> str:
        """Any other verb of compose. Return what it printed."""
        ours = [] if self._is_compose else ["exec", str(ROOT)]
        return self._run([*ours, verb, *arguments], within=RUN_WITHIN)

    def _run(self, arguments: list[str], *, within: float) -> str:
        process = subprocess.Popen(  # noqa: S603 - the command is the developer's own
            [*self._command, *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                printed, _ = process.communicate(timeout=within)
            except BaseException:
                # With all that it started: what still brings the stack up must not do so while it is taken down.
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert process.returncode == 0, f"{arguments} ended with {process.returncode}:\n{printed[-8000:]}"
        return printed


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
