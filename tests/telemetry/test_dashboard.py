"""The dashboard and its service in the compose stack."""

import json
import re
from typing import Any

import yaml

from gateway.metrics import GATEWAY_INSTRUMENTS, WORKER_INSTRUMENTS
from tests.support.project import ROOT
from tests.telemetry.conftest import Recording

OBSERVABILITY = ROOT / "deploy" / "observability"
DASHBOARDS = sorted((OBSERVABILITY / "dashboards").glob("*.json"))

# The parts of a query of Prometheus that have other names: labels, their values, durations and functions.
OTHER_NAMES = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\w+( by \([^)]*\) ?)?(?=\()")
NAME = re.compile(r"[a-zA-Z_:][\w:]*")


def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return parsed


def queried_metrics(expression: str) -> set[str]:
    """Return the names of the metrics in a query of Prometheus."""
    return set(NAME.findall(OTHER_NAMES.sub(" ", expression)))


def dashboard_queries() -> list[str]:
    """Return the queries of all panels that read Prometheus."""
    panels = [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]
    targets = [target for panel in panels for target in panel.get("targets", [])]
    return [target["expr"] for target in targets if target["datasource"]["uid"] == "prometheus"]


def test_names_in_a_query() -> None:
    """The names are found without labels, durations, functions and numbers."""
    query = 'histogram_quantile(0.99, sum by (le, a_b) (rate(x_bucket{a="b_c"}[$__rate_interval]))) / max(y_total)'

    assert queried_metrics(query) == {"x_bucket", "y_total"}


def test_queries_name_exported_metrics(recording: Recording) -> None:
    """Each query of the dashboard names only metrics that the gateway or the worker exports."""
    exported = set(
        re.findall(r"^([a-zA-Z_:][\w:]*)(?=[{ ])", recording.scrape.text + recording.worker_scrape.text, re.MULTILINE)
    )
    queried = set().union(*map(queried_metrics, dashboard_queries()))

    assert len(queried) >= 15
    assert queried - exported == set()


def test_panels_do_not_overlap() -> None:
    """Each panel of a dashboard has a place of its own, and an id of its own."""
    for path in DASHBOARDS:
        panels = json.loads(path.read_text())["panels"]
        cells = [
            (x, y)
            for position in (panel["gridPos"] for panel in panels)
            for x in range(position["x"], position["x"] + position["w"])
            for y in range(position["y"], position["y"] + position["h"])
        ]
        assert len(set(cells)) == len(cells)
        assert len({panel["id"] for panel in panels}) == len(panels)


def test_profile_of_the_stack() -> None:
    """Only the profile starts the receiver. Gateway and worker share a network with it, and their endpoint is empty by default."""
    services = compose()["services"]
    receiver = services.pop("telemetry")

    assert receiver["profiles"] == ["observability"]
    assert not [
        name
        for name, service in services.items()
        if "profiles" in service or "telemetry" in service.get("depends_on", {})
    ]
    for name in ("gateway", "worker"):
        assert "telemetry" in services[name]["networks"]
        assert services[name]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "${STACK_OTLP_ENDPOINT:-}"
    assert all(port.startswith("127.0.0.1:") for port in receiver["ports"])
    assert (
        (OBSERVABILITY / "stack.env")
        .read_text()
        .endswith("COMPOSE_PROFILES=observability\nSTACK_OTLP_ENDPOINT=http://telemetry:4318\n")
    )


def test_mounted_files_exist() -> None:
    """The files that the receiver mounts exist, and Grafana looks for the dashboards where they are mounted."""
    mounts = [volume.split(":") for volume in compose()["services"]["telemetry"]["volumes"]]
    (provider,) = yaml.safe_load((OBSERVABILITY / "dashboards.yaml").read_text())["providers"]

    assert all((ROOT / source).exists() for source, _, _ in mounts)
    assert provider["options"]["path"] in [target for _, target, _ in mounts]


def test_documented_metrics() -> None:
    """The documentation has the name and the unit of each metric."""
    text = (ROOT / "docs" / "telemetry.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    missing = [
        instrument.name
        for instrument in (*GATEWAY_INSTRUMENTS, *WORKER_INSTRUMENTS)
        if not any(f"`{instrument.name}`" in line and f"`{instrument.unit}`" in line for line in lines)
    ]

    assert missing == []
