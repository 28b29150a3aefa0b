"""What goes wrong where nobody waits for it: the event loop, the garbage collector and the warnings tell, and few listen."""

import asyncio
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Diagnostics(list[str]):
    """A line for each.

    Of the event loop ("Task was destroyed", "exception was never retrieved"), of resources that nobody closed, of
    coroutines that nobody awaited, of errors in finalizers.
    """

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear what the event loop complains of, before an exception handler that the app may have set does."""
        handle = loop.call_exception_handler

        def hear(context: dict[str, Any]) -> None:
            error = context.get("exception")
            self.append(str(context["message"]) + (f" ({error!r})" if error is not None else ""))
            if loop.get_exception_handler() is not None:
                handle(context)

        vars(loop)["call_exception_handler"] = hear

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Within the block, what has no loop of its own to complain to complains here."""
        unraisable = sys.unraisablehook
        with warnings.catch_warnings():
            for category in (ResourceWarning, RuntimeWarning):
                warnings.simplefilter("always", category)
            shown = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
                if issubclass(category, ResourceWarning) or "was never awaited" in str(message):
                    self.append(f"{category.__name__}: {message}")
                else:
                    shown(message, category, *where, **more)

            warnings.showwarning = show
            sys.unraisablehook = lambda what: self.append(
                f"{what.err_msg or 'ignored in'} {what.object!r}: {what.exc_value!r}"
            )
            try:
                yield
            finally:
                sys.unraisablehook = unraisable
