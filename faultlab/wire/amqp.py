"""AMQP 0-9-1, the protocol of RabbitMQ: https://www.rabbitmq.com/amqp-0-9-1-reference."""

from typing import Final

from .framing import Framer, Side, UnknownProtocolError

_METHODS: Final = {
    (10, "Connection"): {
        10: "Start",
        11: "StartOk",
        20: "Secure",
        21: "SecureOk",
        30: "Tune",
        31: "TuneOk",
        40: "Open",
        41: "OpenOk",
        50: "Close",
        51: "CloseOk",
        60: "Blocked",
        61: "Unblocked",
        70: "UpdateSecret",
        71: "UpdateSecretOk",
    },
    (20, "Channel"): {10: "Open", 11: "OpenOk", 20: "Flow", 21: "FlowOk", 40: "Close", 41: "CloseOk"},
    (40, "Exchange"): {
        10: "Declare",
        11: "DeclareOk",
        20: "Delete",
        21: "DeleteOk",
        30: "Bind",
        31: "BindOk",
        40: "Unbind",
        51: "UnbindOk",
    },
    (50, "Queue"): {
        10: "Declare",
        11: "DeclareOk",
        20: "Bind",
        21: "BindOk",
        30: "Purge",
        31: "PurgeOk",
        40: "Delete",
        41: "DeleteOk",
        50: "Unbind",
        51: "UnbindOk",
    },
    (60, "Basic"): {
        10: "Qos",
        11: "QosOk",
        20: "Consume",
        21: "ConsumeOk",
        30: "Cancel",
        31: "CancelOk",
        40: "Publish",
        50: "Return",
        60: "Deliver",
        70: "Get",
        71: "GetOk",
        72: "GetEmpty",
        80: "Ack",
        90: "Reject",
        100: "RecoverAsync",
        110: "Recover",
        111: "RecoverOk",
        120: "Nack",
    },
    (85, "Confirm"): {10: "Select", 11: "SelectOk"},
    (90, "Tx"): {10: "Select", 11: "SelectOk", 20: "Commit", 21: "CommitOk", 30: "Rollback", 31: "RollbackOk"},
}

_NAMES: Final = {
    (number, method): f"{class_name}.{name}"
    for (number, class_name), methods in _METHODS.items()
    for method, name in methods.items()
}

_METHOD: Final = 1
_FRAMES: Final = {_METHOD: "Method", 2: "ContentHeader", 3: "ContentBody", 8: "Heartbeat"}
_HEADER_BYTES: Final = 7  # type, channel and length
_FRAME_OVERHEAD: Final = _HEADER_BYTES + 1  # the header, and the end marker after the payload
_END: Final = 0xCE


class AmqpFramer(Framer):
    """A message is a frame: publishing sends three of them, a method, a header and a body."""

    def length(self, sender: Side, buffer: bytearray) -> int | None:
        del sender
        if buffer[0] == ord("A"):  # "AMQP": a client starts with it, and a server rejects a version with it
            return 8
        if buffer[0] not in _FRAMES:
            raise UnknownProtocolError
        return int.from_bytes(buffer[3:7]) + _FRAME_OVERHEAD if len(buffer) >= _HEADER_BYTES else None

    def name(self, sender: Side, message: bytes) -> str:
        del sender
        if message[:4] == b"AMQP":
            return "ProtocolHeader"
        if message[0] not in _FRAMES or message[-1] != _END:
            raise UnknownProtocolError
        if message[0] != _METHOD:
            return _FRAMES[message[0]]
        number, method = int.from_bytes(message[7:9]), int.from_bytes(message[9:11])
        return _NAMES.get((number, method), f"Method {number}.{method}")
