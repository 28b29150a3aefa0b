"""Collects errors that no task awaits: reports of the event loop, errors in finalizers, resource warnings."""

import asyncio
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._asyncio_internals import on_loop_error


class Diagnostics(list[str]):
    """The collected errors, one line each.

    Tasks destroyed while pending, exceptions never retrieved, resources never closed, coroutines never awaited, errors
    in finalizers.
    """

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Collect what this loop reports, even if the app has set an exception handler that ignores it."""

        def collect(context: dict[str, Any]) -> None:
            error = context.get("exception")
            self.append(str(context["message"]) + (f" ({error!r})" if error is not None else ""))

        on_loop_error(loop, collect)

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Collect warnings and errors in finalizers inside the block. Other warnings are shown as usual."""
        unraisable = sys.unraisablehook
        with warnings.catch_warnings():
            for category in (ResourceWarning, RuntimeWarning):
                warnings.simplefilter("always", category)
            show_other = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
                if issubclass(category, ResourceWarning) or "was never awaited" in str(message):
                    self.append(f"{category.__name__}: {message}")
                else:
                    show_other(message, category, *args, **kwargs)

            warnings.showwarning = show
            sys.unraisablehook = lambda args: self.append(
                f"{args.err_msg or 'ignored in'} {args.object!r}: {args.exc_value!r}"
            )
            try:
                yield
            finally:
                sys.unraisablehook = unraisable
