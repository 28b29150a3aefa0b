"""`faultlab` and `gateway.lifecycle` can be copied under another name and need only the standard library."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPY = "copied"
EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```\n\n```text\n(?P<output>.*?)```", re.DOTALL)


def copy_package(package: str, folder: Path) -> None:
    shutil.copytree(ROOT / package, folder / COPY, ignore=shutil.ignore_patterns("__pycache__"))


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a new interpreter in `folder`, without the environment's packages: this project is one of them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-S", "-W", "error", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def without_numbers(text: str) -> str:
    """Replace times and line numbers of the standard library, which differ from one run or version to the next."""
    return re.sub(r"\d+\.\d+ s|(?<=asyncio/tasks\.py:)\d+", "N", text)


@pytest.mark.parametrize("package", ["faultlab", "gateway/lifecycle"])
def test_copied_package_runs_its_example(package: str, tmp_path: Path) -> None:
    """The example of the package's README runs with a copy of the package, and prints what the README shows."""
    example = EXAMPLE.search((ROOT / package / "README.md").read_text())
    assert example is not None
    import_line = f"from {package.replace('/', '.')} import"
    assert import_line in example["code"]
    copy_package(package, tmp_path)
    (tmp_path / "example.py").write_text(example["code"].replace(import_line, f"from {COPY} import"))

    done = run_python(tmp_path, "example.py")

    assert (done.returncode, done.stderr) == (0, "")
    assert without_numbers(done.stdout) == without_numbers(example["output"])


def test_copied_command_checks_an_app(tmp_path: Path) -> None:
    """`python -m` works with a copy as well, and its own frames are not shown as the location of an injection."""
    copy_package("faultlab", tmp_path)
    (tmp_path / "service.py").write_text(
        "import asyncio\n"
        "tasks = []\n"
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    tasks.append(asyncio.create_task(asyncio.sleep(60), name='forgotten'))\n"
        "    await send({'type': 'lifespan.startup.complete'})\n"
        "    await receive()\n"
        "    tasks.pop().cancel()\n"
        "    await send({'type': 'lifespan.shutdown.complete'})\n"
    )

    done = run_python(tmp_path, "-m", COPY, "service:app")

    assert (done.returncode, done.stderr) == (1, "")
    assert "no fault: started and stopped 2 times: no leaks" in done.stdout
    assert "acquired at service.py:5 app" in done.stdout
    assert "its next step" in done.stdout
    assert f"{COPY}/" not in done.stdout
