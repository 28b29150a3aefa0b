"""`python -m benchmarks`: measure, print, and write the report."""

import argparse
import asyncio
import sys
from pathlib import Path

from benchmarks.report import summary, write
from benchmarks.runner import Options, run
from benchmarks.workloads import WrongAnswerError
from gateway.devstack.server import DevstackError

INTERRUPTED = 130


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="for how long each time (%(default)s)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only the cases whose name it finds")
    parser.add_argument("--quick", action="store_true", help="one round of a second: to see that it works")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="the report; its figures and plots go beside it")
    arguments = parser.parse_args()
    rounds, seconds = (1, 1.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    options = Options(rounds=rounds, seconds=seconds, only=arguments.only)
    try:
        measured = asyncio.run(run(options, report=lambda line: print(line, file=sys.stderr, flush=True)))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (WrongAnswerError, DevstackError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    print(summary(measured))
    if arguments.write is not None:
        write(measured, arguments.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
