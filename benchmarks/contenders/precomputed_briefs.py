"""A ceiling: the gateway with precomputed briefs. The first request for a place assembles its brief, the others reuse it."""

from gateway.briefs.models import Brief
from gateway.briefs.service import BriefService
from gateway.cli import main

_assemble = BriefService.get
_precomputed: dict[int, Brief | None] = {}


async def _get(briefs: BriefService, place_id: int, _requested_at: float | None = None) -> Brief | None:
    if place_id not in _precomputed:
        _precomputed[place_id] = await _assemble(briefs, place_id)
    return _precomputed[place_id]


if __name__ == "__main__":
    BriefService.get = _get  # type: ignore[method-assign, assignment]
    main()
