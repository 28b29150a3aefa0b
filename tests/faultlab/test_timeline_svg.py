"""The timeline as an SVG image."""

from xml.etree import ElementTree as ET

from faultlab.timeline_svg import Bar, Segment, SegmentState, timeline_svg

SVG = "{http://www.w3.org/2000/svg}"

BARS = [
    Bar("pool", [Segment(SegmentState.ENTERING, 0, 0.01), Segment(SegmentState.ACTIVE, 0.01, 0.1)], "exited"),
    Bar("<cache> & co", [Segment(SegmentState.ENTERING, 0.01, 0.05)], "enter failed", failed=True),
]


def rendered(*bars: Bar, marks: dict[str, float] | None = None) -> ET.Element:
    return ET.fromstring(timeline_svg(bars, title="Two <entries>", marks=marks))  # noqa: S314 - our own output


def texts(svg: ET.Element) -> list[str]:
    return [text.text or "" for text in svg.iter(f"{SVG}text")]


def segments(svg: ET.Element, state: SegmentState) -> list[tuple[float, float]]:
    """Return the position and the width of each segment of this state; the last one is in the legend."""
    boxes = [box for box in svg.iter(f"{SVG}rect") if box.get("class") == state]
    return [(float(box.get("x", 0)), float(box.get("width", 0))) for box in boxes[:-1]]


def test_segments_are_to_scale() -> None:
    """A segment of ten times the duration is ten times as wide, and starts where the one before it ends."""
    svg = rendered(Bar("pool", [Segment(SegmentState.ENTERING, 0, 0.01), Segment(SegmentState.ACTIVE, 0.01, 0.11)]))
    ((start, width),) = segments(svg, SegmentState.ENTERING)
    ((active_start, active_width),) = segments(svg, SegmentState.ACTIVE)

    assert abs(active_start - start - width) < 0.2
    assert abs(active_width - 10 * width) < 1


def test_short_segment_is_visible() -> None:
    """A segment that took no time has a width."""
    svg = rendered(Bar("pool", [Segment(SegmentState.ENTERING, 0.5, 0.5), Segment(SegmentState.ACTIVE, 0.5, 1)]))

    assert segments(svg, SegmentState.ENTERING)[0][1] > 1


def test_timeline_without_duration() -> None:
    """A timeline in which no time passes, or that has no bar, is an image, too."""
    assert texts(rendered())[0] == "0 ms"
    assert "pool" in texts(rendered(Bar("pool", [Segment(SegmentState.ENTERING, 0, 0)])))


def test_names_and_outcomes_are_text() -> None:
    """Names, outcomes, marks and the times of the axis are text, and special characters are escaped."""
    words = texts(rendered(*BARS, marks={"stopping": 0.06}))

    assert {"pool", "exited", "<cache> & co", "enter failed", "stopping", "0 ms", "100 ms"} <= {*words}


def test_failure_has_a_cross() -> None:
    """A bar that failed is marked by a cross and not by its colour alone."""
    crosses = [[path.get("class") for path in rendered(bar).iter(f"{SVG}path")].count("cross") for bar in BARS]

    assert crosses == [0, 1]


def test_description_has_all_times() -> None:
    """The image has a title and a description with the same content in words, both referenced as its label."""
    svg = rendered(*BARS, marks={"stopping": 0.06, "started": 0.05})
    labels = {element.get("id"): element.text for element in svg if element.get("id")}

    assert svg.get("role") == "img"
    assert svg.get("aria-labelledby", "").split() == list(labels)
    assert labels["title"] == "Two <entries>"
    assert labels["description"] == (
        "pool: entering from 0 ms to 10 ms, active from 10 ms to 100 ms; exited. "
        "<cache> & co: entering from 10 ms to 50 ms; enter failed. started at 50 ms. stopping at 60 ms."
    )


def test_image_has_colours_for_dark_pages() -> None:
    """The image has its own background, and colours for light and dark pages; it loads nothing."""
    image = timeline_svg(BARS, title="Two entries")

    assert "prefers-color-scheme: dark" in image
    assert 'class="paper"' in image
    assert image.count("http") == 1, "only the name of the namespace"
