"""Rules of the architecture that an import contract cannot express."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts

from gateway.api import observations, predictions
from gateway.app import create_app
from gateway.settings import Settings

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "gateway").rglob("*.py")
    if "migrations" not in path.parts and path.name != "__main__.py"
)


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports. Relative ones begin with a dot, as in the source."""
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        "." * node.level + (node.module or "") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }


@pytest.mark.parametrize("path", sorted((ROOT / "gateway" / "lifecycle").glob("*.py")), ids=lambda path: path.name)
def test_core_imports(path: Path) -> None:
    """The core imports only the standard library and, by relative imports, its own modules."""
    own = re.compile(r"\.[a-z_]+")
    foreign = {
        name for name in imports(path) if name.split(".")[0] not in sys.stdlib_module_names and not own.fullmatch(name)
    }
    assert foreign == set()


def test_body_limits() -> None:
    """Every route that reads a body limits its size."""
    routes = iter_route_contexts(create_app(Settings()).routes)
    assert {route.path: route.max_body_size for route in routes if getattr(route, "body_field", None)} == {
        "/v1/places/{place_id}/observations": observations.MAX_BODY_BYTES,
        "/v1/predictions": predictions.MAX_BODY_BYTES,
    }


# Imports all modules in a fresh process, and prints the files, threads and variables that this opened, started or read.
_IMPORT_ALL = """
import importlib, os, sys, threading

reads = set()
class Environment(type(os.environ)):
    def __getitem__(self, name):
        reads.add(name)
        return super().__getitem__(name)

def open_files():
    links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}
    # libffi 3.5 has its own file open after the first callback of ctypes, which a library creates.
    return {link for link in links.values() if not link.startswith("/proc") and "/libffi.so." not in link}

os.environ.__class__ = Environment
before, threads = open_files(), len(os.listdir("/proc/self/task"))
for name in sys.argv[1:]:
    importlib.import_module(name)
print("opened:", sorted(open_files() - before))
print("threads:", len(os.listdir("/proc/self/task")) - threads)
print("read:", sorted(name for name in reads if isinstance(name, str) and name.startswith("GATEWAY_")))
"""


def fresh_process(code: str, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - the code is above
        [sys.executable, "-W", "error", "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_have_no_side_effects() -> None:
    """Importing all modules opens no file, starts no thread and reads no setting."""
    assert fresh_process(_IMPORT_ALL, *MODULES).splitlines() == ["opened: []", "threads: 0", "read: []"]


_MODULES_AFTER = "import importlib, sys; importlib.import_module(sys.argv[1]); print(*sys.modules)"


@cache
def modules_after_import_of(module: str) -> set[str]:
    return set(fresh_process(_MODULES_AFTER, module).split())


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("gateway.app", "alembic"),
        ("gateway.worker", "fastapi"),
        ("gateway.worker", "starlette"),
        ("gateway.app", "onnxruntime"),
        ("gateway.app", "gateway.devstack"),
        ("gateway.schema.migrate", "fastapi"),
        ("gateway.places.seed", "fastapi"),
        ("gateway.lifecycle", "pydantic"),
    ],
)
def test_module_is_not_imported(module: str, absent: str) -> None:
    """A module does not import expensive packages that it does not need, not even indirectly."""
    assert absent not in modules_after_import_of(module)


_SERVE = """
import gc
from gateway.cli import app
generations = []
gc.callbacks.append(lambda phase, info: generations.append(info["generation"]))
status = app(["serve", "--host", "203.0.113.1"], standalone_mode=False)
print("status", status)
print("full collections", generations.count(2))
print("enabled", gc.isenabled())
print("frozen", gc.get_freeze_count() > 100_000)
"""


def test_serve_imports_without_garbage_collections() -> None:
    """`gateway serve` freezes what it imported, and collects garbage again afterwards. No full collection delays the imports."""
    # The address does not belong to this machine, so that the command ends after the imports.
    assert fresh_process(_SERVE).splitlines() == ["status 3", "full collections 0", "enabled True", "frozen True"]
