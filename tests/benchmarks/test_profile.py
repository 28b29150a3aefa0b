"""Whose the time of a profile is."""

from benchmarks.profile import BUILT_IN, Functions, owner_of, shares

OURS = ("/somewhere/gateway/briefs/service.py", 1, "about")
THEIRS = ("/env/lib/site-packages/fastapi/routing.py", 1, "app")
SORTED = (BUILT_IN, 0, "<built-in method builtins.sorted>")


def test_what_is_built_in_belongs_to_whoever_calls_it() -> None:
    functions: Functions = {
        OURS: (1, 1, 0.002, 0.005, {}),
        THEIRS: (1, 1, 0.003, 0.003, {}),
        SORTED: (3, 3, 0.004, 0.004, {OURS: (1, 1, 0.003, 0.003), THEIRS: (2, 2, 0.001, 0.001)}),
    }

    assert shares(functions) == {"the gateway": 5000, "FastAPI, Starlette, Pydantic": 4000}


def test_a_file_belongs_to_the_innermost_package_that_is_known() -> None:
    assert owner_of("/home/gateway/.venv/lib/site-packages/starlette/routing.py") == "FastAPI, Starlette, Pydantic"
    assert owner_of("/home/someone/gateway/app.py") == "the gateway"
    assert owner_of("/usr/lib/python3.11/json/decoder.py") == "the rest"
