"""Starts and stops the compose stack with `docker compose`, or with the command in GATEWAY_COMPOSE.

A command whose last word ends with `compose` takes the arguments of `docker compose`, and runs in the folder of
compose.yaml. Any other command takes that folder after its verb: `up FOLDER OPTION...` builds, starts and waits until all
services are healthy, `down FOLDER OPTION...` stops and removes them, and `exec FOLDER VERB ARGUMENT...` runs any other verb.
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
UP_TIMEOUT = 1800.0  # the first start downloads and builds all images
RUN_TIMEOUT = 180.0


class Compose:
    """A stack with a name and ports of its own, so that it does not affect a running stack."""

    def __init__(self) -> None:
        self._command = shlex.split(os.environ.get("GATEWAY_COMPOSE", "docker compose"))
        self._is_compose = self._command[-1].endswith("compose")
        self.port, self.management_port = _free_ports(2)
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("STACK_")} | {
            "COMPOSE_PROJECT_NAME": f"gateway-test-{secrets.token_hex(3)}",
            "STACK_PORT": str(self.port),
            "STACK_MANAGEMENT_PORT": str(self.management_port),
        }

    def up(self, *options: str) -> None:
        """Build and start the stack; return when all services are healthy."""
        verb = ["up", "--build", "--wait"] if self._is_compose else ["up", str(ROOT)]
        self._run([*verb, *options], timeout=UP_TIMEOUT)

    def down(self) -> None:
        """Stop and remove the stack with its volumes."""
        verb = ["down"] if self._is_compose else ["down", str(ROOT)]
        self._run([*verb, "--volumes", "--remove-orphans"], timeout=RUN_TIMEOUT)

    def run(self, verb: str, *arguments: str) -> str:
        """Run any other verb of compose; return its output."""
        prefix = [] if self._is_compose else ["exec", str(ROOT)]
        return self._run([*prefix, verb, *arguments], timeout=RUN_TIMEOUT)

    def _run(self, arguments: list[str], *, timeout: float) -> str:
        process = subprocess.Popen(  # noqa: S603 - the developer's own command
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
                output, _ = process.communicate(timeout=timeout)
            except BaseException:
                # Kill its children, too: they must not start services while the stack is taken down.
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert process.returncode == 0, f"{arguments} exited with {process.returncode}:\n{output[-8000:]}"
        return output


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]
