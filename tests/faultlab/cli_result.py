"""The result of `python -m faultlab`."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class CliResult:
    """The output of the command and its exit status."""

    status: int
    output: str
    errors: str

    def phase(self, title: str) -> str:
        """Return the output of the phase whose line begins with `title`."""
        lines = self.output.splitlines()
        first = next(at for at, line in enumerate(lines) if line.startswith(title))
        last = next((at for at in range(first + 1, len(lines)) if not lines[at].startswith(" ")), len(lines))
        return "\n".join(lines[first:last])


Check = Callable[..., CliResult]
