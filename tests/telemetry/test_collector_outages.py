"""A collector that refuses or hangs: requests do not wait for it, the stop is in time, and the log has one line."""

import json
import socket
import time
from signal import SIGTERM

import httpx

from gateway.process.exit_status import ExitStatus
from gateway.telemetry.sdk import FLUSH_TIMEOUT
from tests.end_to_end.conftest import StartProcess
from tests.telemetry.conftest import BRIEF

BUSY = 4.0  # seconds that the rest of a stop may take on a busy machine


async def test_unavailable_collector(start: StartProcess) -> None:
    """With one collector that hangs and one that refuses, requests succeed, and the process stops in time with status 0."""
    with socket.create_server(("127.0.0.1", 0)) as hanging, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # it does not listen
        process = start(
            *("serve", "--port", "0"),
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"http://127.0.0.1:{hanging.getsockname()[1]}/v1/traces",
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"http://127.0.0.1:{closed.getsockname()[1]}/v1/metrics",
            OTEL_EXPORTER_OTLP_LOGS_ENDPOINT=f"http://127.0.0.1:{closed.getsockname()[1]}/v1/logs",
            OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer hunter2,broken hunter2",
            OTEL_BSP_SCHEDULE_DELAY="50",
            OTEL_METRIC_EXPORT_INTERVAL="100",
        )
        url = await process.url()
        await process.wait_for_output("telemetry not exported")
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            responses = [await client.get(BRIEF) for _ in range(10)]
        started_at = time.monotonic()
        process.send_signal(SIGTERM)
        status = await process.exit_status()
        elapsed = time.monotonic() - started_at
    events = [json.loads(line)["event"] for line in process.output.splitlines()]

    assert {response.status_code for response in responses} == {200}
    assert status == ExitStatus.OK
    assert elapsed < FLUSH_TIMEOUT + BUSY
    assert [event for event in events if event.startswith("telemetry")] == [
        "telemetry header ignored",
        "telemetry not exported",
    ]
    assert "hunter2" not in process.output


async def test_taken_port_for_scrapes(start: StartProcess) -> None:
    """A port for scrapes that is taken ends the command before it opens anything, with one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(
            "worker",
            OTEL_METRICS_EXPORTER="prometheus",
            OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
            OTEL_EXPORTER_PROMETHEUS_PORT=str(taken.getsockname()[1]),
        )
        status = await process.exit_status()

    assert status == ExitStatus.START_FAILED
    assert process.output.startswith("gateway: OTEL_EXPORTER_PROMETHEUS_PORT: cannot listen on 127.0.0.1")
    assert len(process.output.splitlines()) == 1


async def test_value_that_the_sdk_rejects(start: StartProcess) -> None:
    """A variable whose value the SDK rejects ends the command before it opens anything, with one line."""
    process = start("worker", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_METRIC_EXPORT_INTERVAL="0")
    status = await process.exit_status()

    assert status == ExitStatus.START_FAILED
    assert process.output.startswith("gateway: a variable OTEL_* is invalid: interval value 0.0 is invalid")
    assert len(process.output.splitlines()) == 1
