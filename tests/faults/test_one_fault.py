"""docs/faults/one-fault.md: all that the page shows is recorded again and compared, except for the numbers."""

import inspect
import re
from pathlib import Path
from types import ModuleType

import aio_pika
import pamqp.frame
import pytest
from aio_pika.exceptions import AMQPConnectionError, InvalidFrameError

from faultlab.wire import Message
from gateway.error_messages import explain
from gateway.resources import broker_transport, rabbitmq
from tests.faults.harness import FaultLab
from tests.faults.test_server_rejections import TestRabbitMQ as RejectionTests
from tests.support.proxied import ProxiedServers

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults" / "one-fault.md").read_text()

# The fields of the messages that the page shows.
FIELDS = ["mechanism", "heartbeat", "virtual_host", "reply_code", "reply_text"]


def block(heading: str, language: str = "text") -> str:
    """Return the first block of a language below a heading of the page."""
    section = PAGE.partition(f". {heading}\n")[2]
    return section.partition(f"```{language}\n")[2].partition("\n```")[0]


def without_numbers(text: str) -> str:
    return re.sub(r" *(0x[0-9a-f]+|\d+(\.\d+)*)", " 0", text)


def line_of(message: Message) -> str:
    """Return the sender, the name and some of the fields of an AMQP message."""
    _, _, frame = pamqp.frame.unmarshal(message.data)
    shown = ", ".join(f"{name}={getattr(frame, name)!r}" for name in FIELDS if hasattr(frame, name))
    return f"{message.sender}  {message.name:<19} {shown}".rstrip()


async def test_messages_on_the_wire(lab: FaultLab, proxies: ProxiedServers) -> None:
    """The messages on the page are those between the gateway and RabbitMQ."""
    messages: list[Message] = []
    proxies["rabbitmq"].on_message = lambda _connection, message: messages.append(message)
    lab.override("rabbitmq", url=await lab.servers.rabbitmq.add_vhost("forbidden-1", rights=None))
    lab.connect_through(proxies)
    run = await lab.start_and_stop()
    await lab.servers.rabbitmq.delete_vhost("forbidden-1")

    assert run.start_error.name == "rabbitmq"
    assert without_numbers("\n".join(map(line_of, messages))) == without_numbers(block("The wire"))
    assert await lab.leaks() == []


async def test_error_of_the_client(lab: FaultLab) -> None:
    """aio-pika raises the error on the page, which is no connection error and does not have the reason."""
    url = await lab.servers.rabbitmq.add_vhost("forbidden-1", rights=None)
    with pytest.raises(InvalidFrameError) as raised:
        await aio_pika.connect_robust(url)
    await lab.servers.rabbitmq.delete_vhost("forbidden-1")

    assert without_numbers(f"InvalidFrameError: {raised.value}") == without_numbers(block("The error of the client"))
    assert not isinstance(raised.value, AMQPConnectionError | OSError)
    assert "refused" not in str(raised.value)


async def test_timeline_and_message(lab: FaultLab) -> None:
    """The error message and the timeline on the page are those of the test."""
    await RejectionTests().test_forbidden_vhost(lab)

    message = explain(lab.runs[0].start_error, lab.settings)
    assert without_numbers(message) == without_numbers(block("The line that recognises it").replace("\n", " "))
    printed = "\n".join(line.rstrip() for line in lab.runs[0].timeline())
    assert without_numbers(printed) == without_numbers(block("The timeline"))


async def test_mutant_fails_the_test(lab: FaultLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the change on the page, the test fails as on the page."""
    old, new = (line[1:] for line in block("Break it", "diff").splitlines())
    source = inspect.getsource(broker_transport)
    assert source.count(old) == 1
    mutant = ModuleType(broker_transport.__name__)
    exec(compile(source.replace(old, new), "mutant", "exec"), vars(mutant))  # noqa: S102 - our own code
    for name in ("BrokerTransports", "ClosedByBrokerError"):
        monkeypatch.setattr(rabbitmq, name, getattr(mutant, name))
    lab.override("rabbitmq", start_timeout=0.5)

    with pytest.raises(AssertionError) as failure:
        await RejectionTests().test_forbidden_vhost(lab)

    shown = [line.removeprefix("E").strip() for line in block("Break it").splitlines()]
    printed = [line.strip() for line in f"AssertionError: {failure.value}".splitlines()]
    assert [without_numbers(line) for line in printed[: len(shown)]] == [without_numbers(line) for line in shown]
    assert await lab.leaks() == []
