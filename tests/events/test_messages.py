"""What an event says, and what is none."""

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


@pytest.mark.parametrize("event", [REPORTED, VIEWED], ids=lambda event: event.type)
def test_an_event_is_read_as_it_was_written(event: Event) -> None:
    assert decode(encode(event), type(event)) == event


def test_what_a_later_version_adds_is_left_alone() -> None:
    body = json.loads(encode(REPORTED))
    body["more"] = body["data"]["more"] = 1

    assert decode(json.dumps(body).encode(), ObservationReported) == REPORTED


def changed(**changes: Any) -> bytes:
    """The event with some of it changed, or missing."""
    body = json.loads(encode(REPORTED)) | changes
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()


POISON = {
    "nothing": b"",
    "half": b"{",
    "bytes": b"\xff",
    "null": b"null",
    "deep": b"[" * 100_000,
    "another event": encode(VIEWED),
    "no id": changed(id=None),
    "no time": changed(at=None),
    "another type": changed(type="something.else"),
    "no data": changed(data={}),
    "no place": changed(data={"observation_id": 1, "place_id": 2**31}),
}


@pytest.mark.parametrize("body", POISON.values(), ids=POISON)
def test_anything_else_is_poison_and_not_repeated(body: bytes) -> None:
    with pytest.raises(PoisonMessageError) as poison:
        decode(body, ObservationReported)

    assert len(str(poison.value)) < 300


@pytest.mark.parametrize("views", [{"1": 0}, {"x": 1}, {"0": 1}, {"1": 1.5}, {str(2**31): 1}])
def test_views_are_counts_of_places(views: dict[str, float]) -> None:
    body = json.loads(encode(VIEWED)) | {"data": {"views": views}}
    with pytest.raises(PoisonMessageError):
        decode(json.dumps(body).encode(), BriefViewed)
