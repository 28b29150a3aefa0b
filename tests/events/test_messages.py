"""The content of events: encoding, decoding, and bodies that are not events."""

import json
from typing import Any

import pytest

from gateway.events.messages import (
    BriefViewed,
    Event,
    ObservationRef,
    ObservationReported,
    PoisonMessageError,
    ViewCounts,
    decode,
    encode,
)

REPORTED = ObservationReported.create(ObservationRef(observation_id=7, place_id=2657896))
VIEWED = BriefViewed.create(ViewCounts(views={2657896: 3, 1: 1}))


def changed(**changes: Any) -> bytes:
    """Return the body of an event with changed fields. None removes a field."""
    body = json.loads(encode(REPORTED)) | changes
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()


POISON = {
    "empty": b"",
    "incomplete": b"{",
    "not UTF-8": b"\xff",
    "null": b"null",
    "deeply nested": b"[" * 100_000,
    "another event": encode(VIEWED),
    "no id": changed(id=None),
    "no time": changed(at=None),
    "another type": changed(type="something.else"),
    "no data": changed(data={}),
    "invalid place": changed(data={"observation_id": 1, "place_id": 2**31}),
}


@pytest.mark.parametrize("event", [REPORTED, VIEWED], ids=lambda event: event.type)
def test_decode_reverses_encode(event: Event) -> None:
    """An event that is encoded and decoded is equal to the original."""
    assert decode(encode(event), type(event)) == event


def test_unknown_fields_are_ignored() -> None:
    """Fields that a later version adds are ignored, in the event and in its data."""
    body = json.loads(encode(REPORTED))
    body["more"] = body["data"]["more"] = 1

    assert decode(json.dumps(body).encode(), ObservationReported) == REPORTED


@pytest.mark.parametrize("body", POISON.values(), ids=POISON)
def test_invalid_body_is_poison(body: bytes) -> None:
    """A body that is not an event of the type is poison. The error is short, as it does not contain the body."""
    with pytest.raises(PoisonMessageError) as poison:
        decode(body, ObservationReported)

    assert len(str(poison.value)) < 300


@pytest.mark.parametrize("views", [{"1": 0}, {"x": 1}, {"0": 1}, {"1": 1.5}, {str(2**31): 1}])
def test_view_counts_are_validated(views: dict[str, float]) -> None:
    """Views are positive integers by the id of a place; everything else is poison."""
    body = json.loads(encode(VIEWED)) | {"data": {"views": views}}

    with pytest.raises(PoisonMessageError):
        decode(json.dumps(body).encode(), BriefViewed)
