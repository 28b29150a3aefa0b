"""The rules that hold the house together, where an import contract cannot say them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from gateway.api import health, observations, places, predictions
from gateway.api.body_limit import MAX_BODY_BYTES
from gateway.app import create_app
from gateway.settings import Settings

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "gateway").rglob("*.py")
    if "migrations" not in path.parts and path.name != "__main__.py"
)


def imports(path: Path) -> set[str]:
    """The modules that a file imports; those of its own package begin with a dot, as in the source."""
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        "." * node.level + (node.module or "") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }


@pytest.mark.parametrize("path", sorted((ROOT / "gateway" / "lifecycle").glob("*.py")), ids=lambda path: path.name)
def test_the_core_imports_only_the_standard_library(path: Path) -> None:
    """The core imports the standard library and, by relative imports, its own modules."""
    own = re.compile(r"\.[a-z_]+")
    foreign = {
        name for name in imports(path) if name.split(".")[0] not in sys.stdlib_module_names and not own.fullmatch(name)
    }
    assert foreign == set()


def test_every_route_that_reads_a_body_has_a_limit_for_it() -> None:
    included = [route for router in (health, observations, places, predictions) for route in router.router.routes]
    routes = [*create_app(Settings()).routes, *included]
    with_body = [route for route in routes if isinstance(route, APIRoute) and route.body_field is not None]
    assert {route.path for route in with_body} == {"/v1/places/{place_id}/observations", "/v1/predictions"}
    assert {route.max_body_size for route in with_body} == {MAX_BODY_BYTES}


# Imports everything in one fresh process, and tells what that has opened, started or read.
_IMPORT_ALL = """
import importlib, os, sys, threading

reads = set()
class Environment(type(os.environ)):
    def __getitem__(self, name):
        reads.add(name)
        return super().__getitem__(name)

def held():
    links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}
    return {link for link in links.values() if not link.startswith("/proc")}

os.environ.__class__ = Environment
before, threads = held(), len(os.listdir("/proc/self/task"))
for name in sys.argv[1:]:
    importlib.import_module(name)
print("opened:", sorted(held() - before))
print("threads:", len(os.listdir("/proc/self/task")) - threads)
print("read:", sorted(name for name in reads if isinstance(name, str) and name.startswith("GATEWAY_")))
"""


def fresh_process(code: str, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-W", "error", "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_opens_nothing_starts_nothing_and_reads_no_setting() -> None:
    assert fresh_process(_IMPORT_ALL, *MODULES).splitlines() == ["opened: []", "threads: 0", "read: []"]


_MODULES_AFTER = "import importlib, sys; importlib.import_module(sys.argv[1]); print(*sys.modules)"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("gateway.app", "alembic"),
        ("gateway.worker", "fastapi"),
        ("gateway.worker", "starlette"),
        ("gateway.app", "onnxruntime"),
        ("gateway.schema.migrate", "fastapi"),
        ("gateway.places.seed", "fastapi"),
        ("gateway.lifecycle", "pydantic"),
    ],
)
def test_nobody_pays_for_what_it_does_not_use(module: str, absent: str) -> None:
    assert absent not in fresh_process(_MODULES_AFTER, module).split()
