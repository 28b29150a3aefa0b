"""The standard streams of the process: a program may be started with any of them closed, as by `gateway serve 2>&-`."""

import os
import sys


def open_standard_streams() -> None:
    """Open the null device in place of each closed standard stream.

    Otherwise `sys.stderr` is None, and the next file or socket gets the descriptor 2, to which native libraries write.
    """
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(descriptor)
        except OSError:
            # This is the lowest free descriptor, so it is the one that open() returns.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - stays open
