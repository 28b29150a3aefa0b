"""`python -m benchmarks`: measure on the Python that runs it, print a summary, and write the pages."""

import argparse
import asyncio
import sys
from pathlib import Path

from benchmarks.overview import render, write
from benchmarks.report import summary
from benchmarks.runner import Options, run
from benchmarks.workloads import WrongResponseError
from gateway.devstack.server import DevstackError

INTERRUPTED = 130


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="duration of a measurement (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="REGEX", help="measure only the cases whose name matches")
    parser.add_argument("--quick", action="store_true", help="one round with measurements of one second")
    parser.add_argument(
        "--write", type=Path, metavar="DOCS", help="store the run in DOCS/benchmarks, and write the pages"
    )
    parser.add_argument("--render", type=Path, metavar="DOCS", help="only write the pages of the stored runs again")
    arguments = parser.parse_args()
    if arguments.render is not None:
        render(arguments.render)
        return 0
    rounds, seconds = (1, 1.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    options = Options(rounds=rounds, seconds=seconds, only=arguments.only)
    try:
        measured = asyncio.run(run(options, report=lambda line: print(line, file=sys.stderr, flush=True)))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (WrongResponseError, DevstackError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    print(summary(measured))
    if arguments.write is not None:
        write(measured, arguments.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
