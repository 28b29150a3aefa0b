"""`python -m faultlab package.module:app` checks the lifespan of an ASGI app and prints what it leaks."""

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

from .checker import BASELINE_RUNS, BaselineError, LeakReport, LifespanChecker, PhaseResult
from .injection_points import InjectionPoint
from .server_probes import ProbeError, probing
from .snapshot import ResourceSnapshot
from .target import TargetError, load
from .tracking import locate_frame, tracking_acquisitions

_TITLES = {
    "import": "import",
    "no fault": "no fault: started and stopped {points} times",
    "startup": "startup: cancelled at {points} {unit}s",
    "teardown": "teardown: cancelled at {points} {unit}s",
    "request": "stopped during a request: at {points} {unit}s of it",
    "partition": "stopped while no server answers",
}

MAX_SECONDS = 86400.0
MAX_LOCATIONS = 3  # locations of injections that are printed for one report

# Exit statuses. The last two are those that a shell shows for a program that SIGINT or SIGPIPE has ended.
_NO_LEAKS, _LEAKS, _UNUSABLE, _INTERRUPTED, _PIPE_CLOSED = 0, 1, 2, 130, 141


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        return _LEAKS if _check(options) else _NO_LEAKS
    except (TargetError, ProbeError) as error:
        reason = str(error)
    except BaselineError as error:
        reason = f"{options.app} {error}"
    except SystemExit as error:
        reason = f"{options.app} ended the process: SystemExit({error.code!r})"
    except KeyboardInterrupt:
        print("faultlab: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        return _PIPE_CLOSED  # the reader of the output has ended
    except Exception:  # noqa: BLE001 - an error of this program must not be mistaken for one of the app
        traceback.print_exc()
        return _UNUSABLE
    print(f"faultlab: {reason}", file=sys.stderr)
    return _UNUSABLE


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="Check the lifespan of an ASGI app: start and stop it, cancel that at every point, and print what it"
        " leaks, where that was acquired, and when. Exit status: 0 no leaks and no errors, 1 leaks or errors,"
        " 2 the app cannot be checked.",
    )
    parser.add_argument("app", help="package.module:name of an ASGI app, or of a function that returns one")
    parser.add_argument(
        "--watch",
        nargs="+",
        default=[],
        metavar="URL",
        help="also count the connections that these servers report: postgresql:// redis:// amqp:// http://",
    )
    parser.add_argument(
        "--points", choices=["ticks", "steps"], default="ticks", help="the kind of injection point (default: ticks)"
    )
    parser.add_argument("--request", metavar="PATH", help="also stop the app at every point of a GET request to PATH")
    parser.add_argument("--partition", action="store_true", help="also stop the app while no server answers")
    parser.add_argument(
        "--limit", type=_seconds, default=10.0, metavar="SECONDS", help="the limit for one run (default: 10)"
    )
    options, rest = parser.parse_known_args(arguments)
    if rest:  # values are not quoted in the message: one may be a URL with a password
        unknown = " ".join(one.partition("=")[0] for one in rest if one.startswith("-"))
        parser.error(f"no such option: {unknown}" if unknown else "only one app can be checked; URLs follow --watch")
    return options


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < (seconds := float(text)) <= MAX_SECONDS:
            return seconds
    raise argparse.ArgumentTypeError("must be a number of seconds, more than 0 and at most one day")


def _check(options: argparse.Namespace) -> bool:
    """Check the app and print the results. Return whether anything was found."""
    with tracking_acquisitions() as tracker:
        with _silenced():
            before = ResourceSnapshot.take()
            make_app = load(options.app)
        leaks = ResourceSnapshot.take().leaked_since(before)
        found = _print_result(PhaseResult("import", 1, [LeakReport(leaks, points=[1])] if leaks else []))
        with probing(options.watch), _exiting_if_blocked(options.limit):
            phases = LifespanChecker(
                make_app,
                tracker,
                point=InjectionPoint(options.points.removesuffix("s")),
                path=options.request,
                partition=options.partition,
                limit=options.limit,
                heartbeat=lambda: signal.setitimer(signal.ITIMER_REAL, options.limit + 1),
            ).phases()
            while True:
                with _silenced():
                    result = next(phases, None)
                if result is None:
                    return found
                found |= _print_result(result)


@contextmanager
def _silenced() -> Iterator[None]:
    """Discard the log and the output of the app inside the block: it is started a hundred times."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(_null_stream()), redirect_stderr(_null_stream()):
            yield
    finally:
        logging.disable(disabled)


@cache
def _null_stream() -> TextIO:
    """Return a stream that has a descriptor, which `faulthandler` needs. It stays open: the app may keep it."""
    return Path(os.devnull).open("w")


@contextmanager
def _exiting_if_blocked(limit: float) -> Iterator[None]:
    """End the process if the app blocks the event loop for longer than the limit of a run: nothing else can."""

    def exit_now(_number: int, frame: FrameType | None) -> None:
        text = f"faultlab: the app has blocked the event loop for {limit:g} s, at {locate_frame(frame)}\n"
        os.write(2, text.encode())
        os._exit(_UNUSABLE)

    before = signal.signal(signal.SIGALRM, exit_now)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _print_result(result: PhaseResult) -> bool:
    """Print the result of a phase. Return whether anything was found."""
    title = _TITLES[result.name].format(points=result.points, unit=result.unit)
    print(f"{title}: {_verdict(result)}")
    for report in result.reports:
        _print_report(report, result.unit)
    if result.starts < BASELINE_RUNS:
        print("the check ends here: the app does not start a second time in the same process")
    sys.stdout.flush()
    return bool(result.reports)


def _print_report(report: LeakReport, unit: str) -> None:
    if unit:
        plural = "" if len(report.points) == 1 else "s"
        print(f"  {unit}{plural} {_ranges(report.points)}{_locations(report.locations)}")
    for line in report.leaks:
        description, acquired, location = line.partition(", acquired at ")
        print(f"    {description}")
        if acquired:
            print(f"      acquired at {location}")
    if report.error is not None:
        print(f"    error: {report.error}")
    if report.timeline:
        print(f"    timeline of {unit} {report.points[0]}")
        for line in report.timeline:
            print(f"      {line}")


def _verdict(result: PhaseResult) -> str:
    counts = {"leaks": result.leaking_points, "errors": result.failing_points}
    found = [
        f"{kind} at {count} of {result.points}" if result.points > 1 else kind
        for kind, count in counts.items()
        if count
    ]
    return ", ".join(found) or "no leaks"


def _locations(locations: list[str]) -> str:
    distinct = [location for location in dict.fromkeys(locations) if location]
    rest = len(distinct) - MAX_LOCATIONS
    more = f", and {rest} more" if rest > 0 else ""
    return f" ({'; '.join(distinct[:MAX_LOCATIONS])}{more})" if distinct else ""


def _ranges(points: list[int]) -> str:
    """Format the numbers 1, 2, 3, 7 as "1-3, 7"."""
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
    os._exit(status)  # a thread that the app has left running would keep the process alive
