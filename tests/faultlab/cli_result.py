"""What `python -m faultlab` has to say of an app."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class CliResult:
    """What the command printed, and its exit status."""

    status: int
    output: str
    errors: str

    def phase(self, name: str) -> str:
        """What it printed of one phase."""
        lines = self.output.splitlines()
        first = next(at for at, line in enumerate(lines) if line.startswith(name))
        last = next((at for at in range(first + 1, len(lines)) if not lines[at].startswith(" ")), len(lines))
        return "\n".join(lines[first:last])


Examine = Callable[..., CliResult]
