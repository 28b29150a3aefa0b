"""The upper bound of the places in one call: it follows refusals and timeouts of the upstream."""

import pytest
from structlog.testing import capture_logs

from gateway.briefs import places_per_call as module
from gateway.briefs.places_per_call import MAX_PLACES_PER_CALL, PlacesPerCall


@pytest.fixture
def places_per_call() -> PlacesPerCall:
    return PlacesPerCall()


def refuse(places_per_call: PlacesPerCall) -> None:
    places_per_call.on_refusal(ValueError("no lists"))


class TestRefusals:
    def test_single_places(self, places_per_call: PlacesPerCall) -> None:
        """After a refusal, a call has one place. Calls that succeed do not change that."""
        refuse(places_per_call)
        places_per_call.on_success(1)

        assert places_per_call.bound == 1

    def test_retry(self, places_per_call: PlacesPerCall, monkeypatch: pytest.MonkeyPatch) -> None:
        """After an interval, a call may have a list again."""
        refuse(places_per_call)
        monkeypatch.setattr(module, "LIST_RETRY_INTERVAL", 0)

        assert places_per_call.bound == MAX_PLACES_PER_CALL

    def test_log(self, places_per_call: PlacesPerCall) -> None:
        """The first of many refusals is logged, and the list that is accepted after them."""
        with capture_logs() as logs:
            refuse(places_per_call)
            refuse(places_per_call)
            places_per_call.on_success(1)
            places_per_call.on_success(2)
            places_per_call.on_success(2)

        assert [line["event"] for line in logs] == [
            "weather upstream refuses lists of places",
            "weather upstream accepts lists of places again",
        ]
        assert logs[0]["error"] == "ValueError: no lists"


class TestTimeouts:
    def test_halved(self, places_per_call: PlacesPerCall) -> None:
        """Each timeout halves the bound, down to one place."""
        bounds = []
        while places_per_call.bound > 1:
            places_per_call.on_timeout(places_per_call.bound)
            bounds.append(places_per_call.bound)

        assert bounds == [25, 12, 6, 3, 1]

    def test_single_place(self, places_per_call: PlacesPerCall) -> None:
        """The timeout of a single place is no sign that lists are too long."""
        places_per_call.on_timeout(1)

        assert places_per_call.bound == MAX_PLACES_PER_CALL

    def test_late_timeouts_of_longer_lists(self, places_per_call: PlacesPerCall) -> None:
        """The timeout of a longer list, which was in flight before, does not raise the bound."""
        places_per_call.on_timeout(20)
        places_per_call.on_timeout(50)

        assert places_per_call.bound == 10

    def test_raised_step_by_step(self, places_per_call: PlacesPerCall) -> None:
        """A call that succeeds with as many places as allowed raises the bound by one; shorter ones do not."""
        places_per_call.on_timeout(6)
        places_per_call.on_success(2)
        assert places_per_call.bound == 3
        for places in range(3, MAX_PLACES_PER_CALL + 10):
            places_per_call.on_success(places)

        assert places_per_call.bound == MAX_PLACES_PER_CALL
