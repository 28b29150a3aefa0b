"""The progress of a command that changes many items, for its error message."""

from collections.abc import Iterator, Sized
from contextlib import contextmanager


@contextmanager
def note_progress(done: Sized, verb: str) -> Iterator[None]:
    """Add a note to an error of the block: the number of items that were done before it.

    Args:
        done: the items, which the block adds.
        verb: the past participle of the change, such as "dropped".
    """
    try:
        yield
    except Exception as error:
        if len(done):
            error.add_note(f"{len(done)} {verb} before the error")
        raise
