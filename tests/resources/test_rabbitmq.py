"""The RabbitMQ connection: what the broker reports about it, names with several addresses, and TLS."""

import asyncio
import gc
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from yarl import URL

from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.channels import RefusedError, open_channel
from gateway.lifecycle import LifecycleStack, StartTimeoutError
from gateway.lifecycle.errors import StartError
from gateway.readiness import CHECK_TIMEOUT
from gateway.resources.base import DegradedError, PermanentError, enter_resource
from gateway.resources.broker_transport import BrokerTransports
from gateway.resources.rabbitmq import BrokerConnection, RabbitMQConnection
from gateway.settings import RabbitMQSettings
from tests.events.conftest import vhost
from tests.support.certificates import Certificates
from tests.support.dead_address import DEAD, dead_address
from tests.support.waiting import TIMEOUT, wait_until

__all__ = ["vhost"]


def resource(url: str, **settings: object) -> RabbitMQConnection:
    return RabbitMQConnection(RabbitMQSettings.model_validate({"url": url, **settings}), f"test-{secrets.token_hex(4)}")


def vhost_name(url: str) -> str:
    return url.rpartition("/")[2]


async def test_finalizer_starts_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was aborted starts no task when it is collected, unlike that of aio-pika. There may be no event loop."""
    tasks: list[object] = []
    connection = BrokerConnection("amqp://127.0.0.1:1/", BrokerTransports(), name="test", heartbeat=1)
    monkeypatch.setattr("aio_pika.connection.asyncio.ensure_future", tasks.append)
    del connection
    gc.collect()

    assert tasks == []


async def fails_permanently(rabbitmq: RabbitMQConnection, *, timeout: float = 5) -> str:
    """Open the connection. Return the message of the permanent error."""
    with pytest.raises(PermanentError) as error:
        async with asyncio.timeout(timeout), rabbitmq.open():
            pass
    message = str(error.value)
    assert "\n" not in message
    return message


async def wait_for_check(rabbitmq: RabbitMQConnection, error: type[Exception], text: str) -> None:
    async def is_reported() -> bool:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await rabbitmq.check()
        except error as reported:
            return text in str(reported)
        except TimeoutError:  # blocked while it checked
            return False
        return False

    await wait_until(is_reported, f"the check reports {text!r}")


async def wait_until_healthy(rabbitmq: RabbitMQConnection) -> None:
    async def is_healthy() -> bool:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await rabbitmq.check()
        except (OSError, DegradedError):
            return False
        return True

    await wait_until(is_healthy, "the check succeeds")


class TestReports:
    async def test_unknown_vhost(self, rabbitmq_server: RabbitMQServer) -> None:
        """An unknown virtual host fails at once, with the text of the broker."""
        message = await fails_permanently(resource(rabbitmq_server.url_of("nowhere")))

        assert message.startswith("GATEWAY_RABBITMQ__URL: ")
        assert "NOT_ALLOWED - vhost nowhere not found: create the virtual host" in message

    async def test_wrong_password(self, rabbitmq_server: RabbitMQServer) -> None:
        """A wrong password fails at once, with the text of the broker."""
        message = await fails_permanently(resource(rabbitmq_server.url.replace("gateway:", "gateway:x", 1)))

        assert "ACCESS_REFUSED - Login was refused" in message
        assert message.endswith("correct user or password in the URL")

    async def test_connection_limit_is_retried(self, rabbitmq_server: RabbitMQServer, vhost: str) -> None:
        """At the connection limit of a virtual host, the startup waits until a connection is free."""
        await rabbitmq_server.limit_connections(vhost_name(vhost), 0)
        rabbitmq = resource(vhost)
        async with AsyncExitStack() as stack:
            opening = asyncio.create_task(stack.enter_async_context(rabbitmq.open()))
            await wait_until(
                lambda: "limit" in str(rabbitmq._transports.last_error), "the broker has rejected a connection"
            )
            assert not opening.done()
            await rabbitmq_server.limit_connections(vhost_name(vhost), -1)
            await opening

    async def test_connection_limit_is_reported(self, rabbitmq_server: RabbitMQServer, vhost: str) -> None:
        """A start timeout at the connection limit has the text of the broker."""
        await rabbitmq_server.limit_connections(vhost_name(vhost), 0)
        with pytest.raises(StartError) as error:
            async with LifecycleStack() as stack:
                await enter_resource(stack, resource(vhost, start_timeout=1))

        assert isinstance(error.value.__cause__, StartTimeoutError)
        assert "connection limit (0) is reached" in str(error.value.__cause__.__cause__)

    async def test_password_changed_while_running(self, rabbitmq_server: RabbitMQServer, vhost: str) -> None:
        """A password that is changed while the gateway runs is reported by the check after the connection was closed."""
        user = f"user-{secrets.token_hex(4)}"
        url = await rabbitmq_server.add_user(user, vhost_name(vhost), configure=".*", write=".*", read=".*")
        rabbitmq = resource(url)
        async with rabbitmq.open():
            await rabbitmq_server.change_password(user)
            await rabbitmq_server.close_connections(rabbitmq._instance)

            await wait_for_check(rabbitmq, ConnectionError, "not connected, trying again: ACCESS_REFUSED - Login was")
        await rabbitmq_server.delete_user(user)

    async def test_refusal_is_kept_while_it_reconnects(self, rabbitmq_server: RabbitMQServer, vhost: str) -> None:
        """While the next attempt runs, the reason of the last one is still reported."""
        user = f"user-{secrets.token_hex(4)}"
        url = await rabbitmq_server.add_user(user, vhost_name(vhost), configure=".*", write=".*", read=".*")
        rabbitmq = resource(url)
        async with rabbitmq.open() as opened:
            await rabbitmq_server.change_password(user)
            await rabbitmq_server.close_connections(rabbitmq._instance)
            await wait_for_check(rabbitmq, ConnectionError, "ACCESS_REFUSED")
            failed = asyncio.Event()
            opened.connection.close_callbacks.add(lambda *_: failed.set())
            await wait_until(failed.is_set, "an attempt has ended")  # the broker's reason arrives before that

            _, writer = await rabbitmq._transports.create(URL(url))  # as each attempt begins
            with pytest.raises(RefusedError, match="ACCESS_REFUSED"):
                await open_channel(opened.connection, confirms=False)
            writer.transport.abort()
        await rabbitmq_server.delete_user(user)

    async def test_silent_broker_at_the_start(
        self, rabbitmq_server: RabbitMQServer, vhost: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A broker that accepts the transport and does not respond is the reason of the start timeout."""
        monkeypatch.setattr("gateway.resources.rabbitmq.CONNECT_TIMEOUT", 0.3)
        with rabbitmq_server.suspended(), pytest.raises(StartError) as error:
            async with LifecycleStack() as stack:
                await enter_resource(stack, resource(vhost, start_timeout=1))

        cause = error.value.__cause__
        assert isinstance(cause, StartTimeoutError)
        assert str(cause.__cause__) == "no response within 0.3 s"

    async def test_silent_broker_while_running(
        self, rabbitmq_server: RabbitMQServer, vhost: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The check reports a broker that accepts the transport and does not respond, until it does."""
        monkeypatch.setattr("gateway.resources.rabbitmq.CONNECT_TIMEOUT", 0.3)
        rabbitmq = resource(vhost)
        async with rabbitmq.open():
            with rabbitmq_server.suspended():
                rabbitmq._transports.abort()
                await wait_for_check(rabbitmq, ConnectionError, "trying again: no response within 0.3 s")
            await wait_until_healthy(rabbitmq)

    async def test_closed_by_operator(self, rabbitmq_server: RabbitMQServer, vhost: str) -> None:
        """A connection that an operator has closed is opened again, and the reason is not reported any longer."""
        rabbitmq = resource(vhost)
        async with rabbitmq.open():
            await rabbitmq_server.close_connections(rabbitmq._instance)
            await wait_for_check(rabbitmq, ConnectionError, "CONNECTION_FORCED")
            await wait_until_healthy(rabbitmq)

            assert rabbitmq._transports.last_error is None

    async def test_memory_alarm(self, rabbitmq_server: RabbitMQServer, vhost: str) -> None:
        """An alarm that blocks the connection degrades it, and the check reports the reason until the alarm is over."""
        rabbitmq = resource(vhost)
        async with rabbitmq.open() as opened:
            async with rabbitmq_server.memory_alarm():
                channel = await open_channel(opened.connection, confirms=True)
                exchange = channel.default_exchange
                publishing = asyncio.create_task(exchange.publish(aio_pika.Message(b"x"), "nowhere", mandatory=False))
                await wait_for_check(rabbitmq, DegradedError, "blocked by an alarm of the broker: low on memory")
            await wait_until_healthy(rabbitmq)
            await publishing


NAME = "rabbitmq.example"


@pytest.fixture
async def dead_first(rabbitmq_server: RabbitMQServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """`NAME` has two addresses. The first one drops every SYN, because its backlog is full; the second one is the server."""
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo
    port = rabbitmq_server.port

    async def getaddrinfo(host: str, *arguments: Any, **options: Any) -> list[Any]:
        if host != NAME:
            return await resolve(host, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in (DEAD, "127.0.0.1")]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    with dead_address(port):
        yield


@pytest.mark.usefixtures("dead_first")
async def test_dead_first_address(rabbitmq_server: RabbitMQServer, vhost: str) -> None:
    """The first address of a name may be dead: the gateway starts with the second one, and reconnects to it."""
    rabbitmq = resource(vhost.replace("127.0.0.1", NAME))
    async with asyncio.timeout(5):
        async with rabbitmq.open():
            await rabbitmq_server.close_connections(rabbitmq._instance)
            await wait_for_check(rabbitmq, ConnectionError, "not connected")
            await wait_until_healthy(rabbitmq)


@pytest.fixture
async def tls_url(rabbitmq_server: RabbitMQServer, certificates: Certificates, vhost: str) -> AsyncIterator[str]:
    """The URL of the virtual host by TLS."""
    server = certificates.server
    async with rabbitmq_server.tls_listener(
        ca_file=certificates.ca_file, cert_file=server.cert_file, key_file=server.key_file
    ) as port:
        yield vhost.replace("amqp:", "amqps:").replace(f":{rabbitmq_server.port}", f":{port}")


class TestTLS:
    async def test_private_authority(self, tls_url: str, certificates: Certificates) -> None:
        """The certificate of the server is verified with the authority that a setting names."""
        client = certificates.server  # Erlang's TLS supports no certificate without a name, as `client` is
        rabbitmq = resource(tls_url, ca_file=certificates.ca_file, cert_file=client.cert_file, key_file=client.key_file)
        async with rabbitmq.open():
            await rabbitmq.check()

    async def test_untrusted_client(self, tls_url: str, certificates: Certificates) -> None:
        """A certificate of the client that the server does not trust fails the startup, with the alert of the server."""
        client = certificates.untrusted_client
        message = await fails_permanently(
            resource(tls_url, ca_file=certificates.ca_file, cert_file=client.cert_file, key_file=client.key_file),
            timeout=TIMEOUT,  # the server resets the connection, and often before the alert is read
        )

        assert message.startswith("GATEWAY_RABBITMQ__CERT_FILE: ")
        assert "ALERT" in message

    async def test_unknown_authority(self, tls_url: str) -> None:
        """Without the authority, the startup fails at once and names the setting."""
        message = await fails_permanently(resource(tls_url))

        assert "certificate" in message
        assert "self-signed certificate in certificate chain: set GATEWAY_RABBITMQ__CA_FILE" in message

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("expired_server", "certificate has expired"),
            ("misnamed_server", "certificate is not valid for '127.0.0.1'"),
        ],
    )
    async def test_invalid_certificate(
        self, rabbitmq_server: RabbitMQServer, certificates: Certificates, vhost: str, name: str, reason: str
    ) -> None:
        """An expired certificate, and one for another host, fail the startup at once."""
        server = getattr(certificates, name)
        async with rabbitmq_server.tls_listener(
            ca_file=certificates.ca_file, cert_file=server.cert_file, key_file=server.key_file
        ) as port:
            url = vhost.replace("amqp:", "amqps:").replace(f":{rabbitmq_server.port}", f":{port}")
            message = await fails_permanently(resource(url, ca_file=certificates.ca_file))

        assert reason in message

    async def test_verification_switched_off(self, tls_url: str) -> None:
        """An option of the URL switches the verification off."""
        async with resource(f"{tls_url}?no_verify_ssl=1").open():
            pass

    async def test_missing_file(self, tls_url: str, tmp_path: Path) -> None:
        """A file that does not exist fails at once; the message has its variable and its path."""
        message = await fails_permanently(resource(tls_url, ca_file=tmp_path / "none.pem"))

        assert message == f"GATEWAY_RABBITMQ__CA_FILE: '{tmp_path}/none.pem' cannot be read: no such file or directory"

    async def test_server_without_tls(self, vhost: str) -> None:
        """A server without TLS fails at once, and the message names the setting."""
        message = await fails_permanently(resource(vhost.replace("amqp:", "amqps:")))

        assert message.startswith("GATEWAY_RABBITMQ__URL: ")
        assert "TLS" in message
