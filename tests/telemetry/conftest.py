"""Fixtures: a gateway and a worker that export to a receiver, and a provider of traces in this process."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.devstack import ports
from gateway.devstack.stack import Devstack
from tests.end_to_end.conftest import environment, instance, run, start, timeout_variables
from tests.end_to_end.harness import Process
from tests.support.otlp_receiver import OTLPReceiver, otlp_receiver
from tests.support.waiting import wait_until

__all__ = ["environment", "instance", "run", "start", "timeout_variables"]

PLACE_ID = 2988507  # that no other test writes to
BRIEF = f"/v1/places/{PLACE_ID}/brief"
OBSERVATIONS = f"/v1/places/{PLACE_ID}/observations"
NOTE = "a note that only the database may have"
BRIEF_TRACE, REPORT_TRACE = "b" * 32, "c" * 32
CLIENT_SPAN = "d" * 16


def traceparent(trace_id: str) -> dict[str, str]:
    """Return the header of a client whose trace is sampled."""
    return {"traceparent": f"00-{trace_id}-{CLIENT_SPAN}-01"}


@dataclass
class Recording:
    """The exports of a gateway and of a worker from their start to their end.

    Attributes:
        receiver: has all that arrived.
        gateway_lines: the log lines of the gateway.
        worker_lines: those of the worker.
        scrape: the response of the gateway's `/metrics`.
        scrape_of_unknown_version: that to a client that requests a format with a version that is no number.
        worker_scrape: the response of the worker at the address of the standard variables.
        exit_statuses: of both.
        secrets: the passwords that both know.
    """

    receiver: OTLPReceiver
    gateway_lines: list[dict[str, Any]]
    worker_lines: list[dict[str, Any]]
    scrape: httpx.Response
    scrape_of_unknown_version: httpx.Response
    worker_scrape: httpx.Response
    exit_statuses: list[int]
    secrets: list[str]


@pytest.fixture(scope="session")
async def recording(
    servers: Devstack, devstack_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Recording]:
    """A gateway and a worker served a brief and a report, each in the trace of a client, and have ended."""
    async with otlp_receiver() as (receiver, endpoint):
        variables = {
            **servers.environment(),
            "GATEWAY_BRIEF_TIMEOUT": "8",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_METRICS_EXPORTER": "otlp,prometheus",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }
        with ports.reserve() as reserved:
            port = str(reserved.getsockname()[1])
        folders = [tmp_path_factory.mktemp(name) for name in ("gateway", "worker")]
        gateway = Process(folders[0], variables, "-m", "gateway", "serve", "--port", "0", stack_folder=devstack_folder)
        worker = Process(
            folders[1],
            variables | {"OTEL_EXPORTER_PROMETHEUS_PORT": port},
            *("-m", "gateway", "worker"),
            stack_folder=devstack_folder,
        )
        try:
            url = await gateway.url()
            await worker.wait_for_output('"event": "working"')
            async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
                await client.get(BRIEF, headers=traceparent(BRIEF_TRACE))
                report = {"temperature_c": 12.5, "condition": "rain", "note": NOTE}
                await client.post(OBSERVATIONS, json=report, headers=traceparent(REPORT_TRACE))
                await wait_until(
                    lambda: any(span.service == "gateway-worker" for span in receiver.spans_of(REPORT_TRACE).values()),
                    "the worker has processed the report",
                )
                await client.get("/lifecycle", headers={"Origin": "https://example.org"})  # a failed response
                scrape = await client.get("/metrics")
                accept = {"Accept": "text/plain; version=latest"}
                scrape_of_unknown_version = await client.get("/metrics", headers=accept)
                worker_scrape = await client.get(f"http://localhost:{port}/metrics")
            for process in (gateway, worker):
                process.send_signal(SIGTERM)
            statuses = await asyncio.gather(gateway.exit_status(), worker.exit_status())
        finally:
            gateway.kill()
            worker.kill()
        urls = [servers.postgresql.owner_url, *servers.environment().values()]
        yield Recording(
            receiver,
            _lines(gateway),
            _lines(worker),
            scrape,
            scrape_of_unknown_version,
            worker_scrape,
            list(statuses),
            [url.split("://")[1].split("@")[0].split(":")[1] for url in urls if "@" in url],
        )


def _lines(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans of this process. OpenTelemetry can set its provider only once in a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter
