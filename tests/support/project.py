"""The metadata of the project in pyproject.toml."""

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def supported_pythons() -> list[str]:
    """Return the minor versions of Python that the classifiers name, oldest first."""
    return re.findall(r"Python :: (\d+\.\d+)", "\n".join(PROJECT["classifiers"]))
