"""`python -m faultlab package.module:app` cancels the lifespan of an ASGI app at every tick, and prints what is left behind."""

import argparse
import importlib
import logging
import sys
from collections.abc import Iterable

from faultlab.asgi import App, lifespan_of
from faultlab.sweep import Case, Outcome
from faultlab.sweep import sweep as sweep_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faultlab", description=__doc__)
    parser.add_argument("app", help="package.module:name of an ASGI app, or of a function that makes one")
    target = parser.parse_args().app
    module, _, name = target.partition(":")
    if not name:
        parser.error("the app should be package.module:name")
    sys.path.insert(0, "")
    app: App = getattr(importlib.import_module(module), name)
    logging.disable(logging.CRITICAL)  # an app that is cancelled a hundred times has much to complain about
    leaks = [_report(phase, sweep(app, phase)) for phase in ("startup", "teardown")]
    return int(any(leaks))


def sweep(app: App, phase: str) -> list[Outcome]:
    """Cancel one phase of the lifespan at every tick. A function without arguments is called for an app each time."""

    async def run(case: Case) -> None:
        life = lifespan_of(_made(app))
        if phase == "startup":
            with case.armed():
                await life.__aenter__()
            await life.__aexit__(None, None, None)
        else:
            await life.__aenter__()
            with case.armed():
                await life.__aexit__(None, None, None)

    return sweep_of(run)


def _made(app: App) -> App:
    code = getattr(app, "__code__", None)
    return app() if code is not None and code.co_argcount == 0 else app  # type: ignore[call-arg, return-value]


def _report(phase: str, outcomes: list[Outcome]) -> bool:
    """Print what one sweep found; return whether it found anything."""
    guilty = [outcome for outcome in outcomes if outcome.left or outcome.swallowed]
    print(f"{phase}: cancelled at {len(outcomes)} ticks, {len(guilty)} of them left something behind")
    for outcome in guilty:
        print(f"  tick {outcome.at}:")
        for line in _findings(outcome):
            print(f"    {line}")
    return bool(guilty)


def _findings(outcome: Outcome) -> Iterable[str]:
    yield from outcome.left
    if outcome.swallowed:
        yield "the cancellation did not arrive: something swallowed it"


if __name__ == "__main__":
    sys.exit(main())
