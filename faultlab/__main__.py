"""`python -m faultlab package.module:app` puts the lifespan of an ASGI app to the test, and prints what is left behind."""

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TextIO

from faultlab.checker import LIVES, LeakReport, LifespanChecker, Phase, UnusableError
from faultlab.injection_points import InjectionPoint
from faultlab.server_probes import WatchError, watched
from faultlab.snapshot import ResourceSnapshot
from faultlab.target import TargetError, load
from faultlab.tracking import place_of_frame, tracking_acquisitions

_DONE = {
    "import": "import",
    "life": "no fault: started and stopped {points} times",
    "startup": "startup: cancelled at {points} {unit}",
    "teardown": "teardown: cancelled at {points} {unit}",
    "request": "stopped during a request: at {points} {unit} of it",
    "silence": "stopped while no server answers",
}
"""How what was done in each phase is told."""

_A_DAY = 86400.0

_INTERRUPTED = 130
_PIPE_CLOSED = 141
"""What a shell says of a program that SIGINT or SIGPIPE has ended."""

_MOST_PLACES = 3
"""So many of the places where a fault struck are shown; the rest are counted."""


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        return int(_examined(options))
    except (TargetError, WatchError) as error:
        why = str(error)
    except UnusableError as error:
        why = f"{options.app}: {error}"
    except SystemExit as error:
        why = f"{options.app} ended the process: SystemExit({error.code!r})"
    except KeyboardInterrupt:
        print("faultlab: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        return _PIPE_CLOSED  # nobody reads any further
    except Exception:  # noqa: BLE001 - a mistake of the lab must not pass for one of the app
        traceback.print_exc()
        return 2
    print(f"faultlab: {why}", file=sys.stderr)
    return 2


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m faultlab",
        description="Put the lifespan of an ASGI app to the test: start it and stop it, cancel that at every point in time, and"
        " print what it leaves behind, where that was acquired, and when. Exit status: 0 nothing, 1 something, 2 it cannot be tested.",
    )
    parser.add_argument("app", help="package.module:name of an ASGI app, or of a function that makes one")
    parser.add_argument(
        "--watch",
        nargs="+",
        default=[],
        metavar="URL",
        help="ask these servers, too, what they hold: postgresql:// redis:// amqp:// http://",
    )
    parser.add_argument(
        "--points", choices=["ticks", "steps"], default="ticks", help="what is counted (default: ticks)"
    )
    parser.add_argument(
        "--request", metavar="PATH", help="stop it during a GET of this path, too, at every point of that"
    )
    parser.add_argument("--silence", action="store_true", help="stop it while no server answers, too")
    parser.add_argument("--limit", type=_seconds, default=10.0, metavar="SECONDS", help="for one case (default: 10)")
    options, more = parser.parse_known_args(arguments)
    if more:  # they are not repeated: one may be an URL, with a password
        unknown = " ".join(one.partition("=")[0] for one in more if one.startswith("-"))
        parser.error(f"no such option: {unknown}" if unknown else "only one app can be tested; URLs come after --watch")
    return options


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < (seconds := float(text)) <= _A_DAY:
            return seconds
    raise argparse.ArgumentTypeError("that takes a number of seconds, more than none and at most a day")


def _examined(options: argparse.Namespace) -> bool:
    """Examine the app and print what is found; return whether anything was."""
    with tracking_acquisitions() as memory:
        with _quiet():
            before = ResourceSnapshot.take()
            make = load(options.app)
        held = ResourceSnapshot.take().leaked_since(before)
        guilty = _report(Phase("import", 1, [LeakReport(held)] if held else []), options.points)
        with watched(options.watch), _unblocked(options.limit):
            phases = LifespanChecker(
                make,
                memory,
                point=InjectionPoint(options.points.removesuffix("s")),
                path=options.request,
                silent=options.silence,
                limit=options.limit,
                alive=lambda: signal.setitimer(signal.ITIMER_REAL, options.limit + 1),
            ).phases()
            while True:
                with _quiet():
                    phase = next(phases, None)
                if phase is None:
                    return guilty
                guilty |= _report(phase, options.points)


@contextmanager
def _quiet() -> Iterator[None]:
    """An app that is started and cancelled a hundred times has much to say, and none of it is asked for."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(_nowhere()), redirect_stderr(_nowhere()):
            yield
    finally:
        logging.disable(disabled)


@cache
def _nowhere() -> TextIO:
    """It has a descriptor, which `faulthandler` asks for, and is never closed: the app may keep it."""
    return Path(os.devnull).open("w")


@contextmanager
def _unblocked(limit: float) -> Iterator[None]:
    """End the process when the app blocks the event loop for longer than a case may take: nothing else ends that."""

    def blocked(_number: int, frame: FrameType | None) -> None:
        text = f"faultlab: the app has blocked the event loop for {limit:g} s, at {place_of_frame(frame)}\n"
        os.write(2, text.encode())
        os._exit(2)

    before = signal.signal(signal.SIGALRM, blocked)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _report(phase: Phase, unit: str) -> bool:
    """Print what one phase has shown; return whether it has shown any guilt."""
    done = _DONE[phase.name].format(points=phase.points, unit=unit)
    print(f"{done}: {_verdict(phase)}")
    if phase.name == "life":
        unit, one = "lives", "life"
    else:
        one = unit.removesuffix("s")
    for finding in phase.findings:
        if finding.points:
            print(f"  {one if len(finding.points) == 1 else unit} {_ranges(finding.points)}{_struck(finding.places)}")
        for line in finding.guilt:
            what, acquired, where = line.partition(", acquired at ")
            print(f"    {what}")
            if acquired:
                print(f"      acquired at {where}")
        if finding.story:
            print(f"    timeline of {one} {finding.points[0]}")
            for line in finding.story:
                print(f"      {line}")
    if phase.lived < LIVES:
        print("an app that does not start a second time in its process is not tested any further")
    sys.stdout.flush()
    return bool(phase.findings)


def _verdict(phase: Phase) -> str:
    if not phase.findings:
        return "nothing is left behind"
    return f"guilty at {phase.guilty} of them" if phase.points > 1 else "guilty"


def _struck(places: list[str]) -> str:
    distinct = [place for place in dict.fromkeys(places) if place]
    more = f", and {len(distinct) - _MOST_PLACES} more places" if len(distinct) > _MOST_PLACES else ""
    return f" ({'; '.join(distinct[:_MOST_PLACES])}{more})" if distinct else ""


def _ranges(points: list[int]) -> str:
    """1, 2, 3, 7 are 1-3, 7."""
    ranges: list[list[int]] = []
    for point in points:
        if ranges and point == ranges[-1][1] + 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)


if __name__ == "__main__":
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):
            stream.flush()
    os._exit(status)  # a thread that the app has left behind would keep the process for as long as it runs
