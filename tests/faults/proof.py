"""What every case must prove of a journal."""

from collections.abc import Collection

from gateway.lifecycle import EventType, Journal
from tests.end_to_end.running import ORDER

_ENDS = {EventType.EXITED, EventType.EXIT_FAILED, EventType.ABORTED}


def assert_given_back(journal: Journal, *, wrong: Collection[str | None] = ()) -> None:
    """What was entered is the beginning of the order, and by the end of the journal exactly that was released, in reverse.

    All exited by themselves and without an error, but for those that went `wrong`. An entry that died has released
    itself, before the others.
    """
    entered = [event.name for event in journal if event.type is EventType.ENTERED]
    assert entered == ORDER[: len(entered)]
    died = [event.name for event in journal if event.type is EventType.CRASHED]
    ended = dict.fromkeys(event.name for event in journal if event.type in _ENDS and event.name in entered)
    assert list(ended) == [name for name in reversed(entered) if name not in died]
    unclean = {event.name for event in journal if event.type in _ENDS - {EventType.EXITED} and event.name in ended}
    assert unclean <= {*wrong}
    assert [event.type for event in journal][-1] is EventType.STOPPED
