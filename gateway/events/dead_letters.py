"""The dead letters for an operator: list, replay or drop the messages that a queue has rejected."""

from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import ChannelClosed, DeliveryError

from gateway.events.channels import BlockedError, RefusedError, opened_channel, translate_library_cancellation
from gateway.events.topology import DEAD_LETTERS, EXCHANGE, probe
from gateway.resources.progress import note_progress
from gateway.resources.rabbitmq import BrokerConnection

CALL_TIMEOUT = 5.0  # for the broker to respond to one call
# RabbitMQ 4 drops a message that was returned to a quorum queue more often than its delivery limit, 20 by default. A message
# that was read this often is replaced by a copy.
MAX_RETURNS = 10
NO_ID = "-"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was rejected, or delivered too often.

    Attributes:
        id: of the message; NO_ID for a message of another program that has none.
        type: the routing key of its event.
        queue: that it was in.
        reason: of the broker, such as `rejected` or `delivery_limit`.
        age_s: seconds since then.
        size: of the body, in bytes.
        body: the message, or None if it was not requested.
    """

    id: str
    type: str
    queue: str | None
    reason: str | None
    age_s: int | None
    size: int
    body: str | None


@dataclass(frozen=True, slots=True)
class DeadLetterResult:
    """The ids of the messages that were replayed or dropped, and of those that no queue takes."""

    done: list[str]
    unroutable: list[str]


async def list_dead_letters(connection: BrokerConnection, *, with_body: bool, limit: int) -> list[DeadLetter]:
    """Return the oldest dead letters. They stay in the queue."""
    async with _open_queue(connection, limit=limit) as (_, messages):
        return [_describe(message, with_body=with_body) async for message in messages]


async def replay_dead_letters(connection: BrokerConnection, ids: Collection[str] | None) -> DeadLetterResult:
    """Publish dead letters again, those with the ids or all, and remove each when the broker has confirmed it.

    A message that is dead-lettered again in the meantime is not replayed a second time.

    Raises:
        BlockedError: an alarm blocks the connection.
        RefusedError: the broker refuses a call.
        ConnectionError: the connection is lost. A note of each error has the number of those that were replayed before it.
    """
    result = DeadLetterResult([], [])
    with note_progress(result.done, "replayed"):
        async with _open_queue(connection) as (channel, messages):
            await _require_no_alarm(channel, connection)
            exchange = await channel.get_exchange(EXCHANGE, ensure=False)
            async for message in messages:
                if ids is not None and _id(message) not in ids:
                    continue
                try:
                    await exchange.publish(_copy(message), _event_type(message), timeout=CALL_TIMEOUT)
                except DeliveryError:
                    result.unroutable.append(_id(message))
                else:
                    await message.ack()
                    result.done.append(_id(message))
    return result


async def drop_dead_letters(connection: BrokerConnection, ids: Collection[str] | None) -> DeadLetterResult:
    """Remove dead letters, those with the ids or all.

    Raises:
        RefusedError: the broker refuses a call.
        ConnectionError: the connection is lost. A note of each error has the number of those that were dropped before it.
    """
    result = DeadLetterResult([], [])
    with note_progress(result.done, "dropped"):
        async with _open_queue(connection) as (_, messages):
            async for message in messages:
                if ids is None or _id(message) in ids:
                    await message.ack()
                    result.done.append(_id(message))
    return result


@asynccontextmanager
async def _open_queue(
    connection: BrokerConnection, *, limit: int | None = None
) -> AsyncGenerator[tuple[AbstractChannel, AsyncGenerator[AbstractIncomingMessage]]]:
    """Yield a channel with confirms and the messages that are in the queue now.

    At the end, those that were not acknowledged return to the queue. Those that have returned often are replaced by a copy as
    soon as the next message is requested.
    """
    with _translate_errors(connection):
        async with opened_channel(connection, confirms=True) as channel:
            queue = await channel.declare_queue(DEAD_LETTERS, passive=True, timeout=CALL_TIMEOUT)
            count = queue.declaration_result.message_count or 0

            async def messages() -> AsyncGenerator[AbstractIncomingMessage]:
                for _ in range(count if limit is None else min(count, limit)):
                    message = await queue.get(fail=False, timeout=CALL_TIMEOUT)
                    if message is None:
                        return
                    yield message
                    returns = int(str(message.headers.get("x-delivery-count", 0)))
                    if not message.processed and returns >= MAX_RETURNS:
                        await _require_no_alarm(channel, connection)
                        await _replace(channel, message)

            yield channel, messages()


@contextmanager
def _translate_errors(connection: BrokerConnection) -> Iterator[None]:
    """Raise errors with the reason of the broker."""
    try:
        with translate_library_cancellation():
            yield
    except ChannelClosed as error:
        raise RefusedError(f"{error}: see docs/events.md") from error
    except TimeoutError as error:
        if connection.blocked is not None:
            raise BlockedError(connection.blocked) from error
        raise


async def _require_no_alarm(channel: AbstractChannel, connection: BrokerConnection) -> None:
    """Require that the broker accepts messages. After an alarm it would accept one whose publish has timed out.

    Raises:
        BlockedError: an alarm blocks the connection.
    """
    await probe(channel, connection)
    if connection.blocked is not None:
        raise BlockedError(connection.blocked)


async def _replace(channel: AbstractChannel, message: AbstractIncomingMessage) -> None:
    """Put a copy of the message into the queue, and remove the message when the broker has confirmed the copy."""
    exchange = await channel.get_exchange(DEAD_LETTERS, ensure=False)
    await exchange.publish(_copy(message), message.routing_key or "", timeout=CALL_TIMEOUT)
    await message.ack()


def _describe(message: AbstractIncomingMessage, *, with_body: bool) -> DeadLetter:
    rejection = _latest_rejection(message)
    time = rejection.get("time")
    return DeadLetter(
        id=_id(message),
        type=_event_type(message),
        queue=rejection.get("queue"),
        reason=rejection.get("reason"),
        age_s=int((datetime.now(UTC) - time).total_seconds()) if isinstance(time, datetime) else None,
        size=len(message.body),
        body=message.body.decode(errors="replace") if with_body else None,
    )


def _id(message: AbstractIncomingMessage) -> str:
    return message.message_id or NO_ID


def _latest_rejection(message: AbstractIncomingMessage) -> dict[str, Any]:
    """Return the broker's record about the rejection. It is empty if the message was put into the queue directly."""
    records = message.headers.get("x-death")
    return records[0] if isinstance(records, list) and records and isinstance(records[0], dict) else {}


def _event_type(message: AbstractIncomingMessage) -> str:
    """Return the routing key with which the message was published first."""
    rejection = _latest_rejection(message)
    keys = rejection.get("routing-keys")
    if rejection.get("exchange") == EXCHANGE and isinstance(keys, list) and keys:
        return str(keys[0])
    return message.type or message.routing_key or ""


def _copy(message: AbstractIncomingMessage) -> Message:
    return Message(
        message.body,
        headers=message.headers,
        content_type=message.content_type,
        delivery_mode=DeliveryMode.PERSISTENT,
        message_id=message.message_id,
        type=message.type,
    )
