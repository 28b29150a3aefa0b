"""The framers: however the bytes are split, the messages are the same, and no byte is lost."""

from collections.abc import Iterable

import pytest

from faultlab.wire import PROTOCOLS, RAW, Side

CLIENT, SERVER = Side.CLIENT, Side.SERVER


def pg(kind: bytes, body: bytes = b"") -> bytes:
    return kind + (len(body) + 4).to_bytes(4) + body


def startup(code: int, body: bytes = b"") -> bytes:
    return (len(body) + 8).to_bytes(4) + code.to_bytes(4) + body


def frame(kind: int, payload: bytes) -> bytes:
    return bytes([kind, 0, 0]) + len(payload).to_bytes(4) + payload + b"\xce"


def method(class_id: int, method_id: int, arguments: bytes = b"") -> bytes:
    return frame(1, class_id.to_bytes(2) + method_id.to_bytes(2) + arguments)


NamedBytes = tuple[Side, bytes, str]  # sender, bytes, name

CONVERSATIONS: dict[str, tuple[str, list[NamedBytes]]] = {
    "PostgreSQL with SASL": (
        "postgresql",
        [
            (CLIENT, startup(80877103), "SSLRequest"),
            (SERVER, b"N", "reply to SSLRequest"),
            (CLIENT, startup(196608, b"user\0gateway\0\0"), "Startup"),
            (SERVER, pg(b"R", (10).to_bytes(4) + b"SCRAM-SHA-256\0\0"), "AuthenticationSASL"),
            (CLIENT, pg(b"p", b"SCRAM-SHA-256\0 n,,n=,r=1"), "SASLInitialResponse"),
            (SERVER, pg(b"R", (11).to_bytes(4) + b"r=12"), "AuthenticationSASLContinue"),
            (CLIENT, pg(b"p", b"c=biws,r=12"), "SASLResponse"),
            (SERVER, pg(b"R", (12).to_bytes(4) + b"v="), "AuthenticationSASLFinal"),
            (SERVER, pg(b"R", (0).to_bytes(4)), "AuthenticationOk"),
            (SERVER, pg(b"S", b"TimeZone\0UTC\0"), "ParameterStatus"),
            (SERVER, pg(b"Z", b"I"), "ReadyForQuery"),
            (CLIENT, pg(b"P", b"\0SELECT 1\0\0\0"), "Parse"),
            (CLIENT, pg(b"S"), "Sync"),
            (SERVER, pg(b"1"), "ParseComplete"),
            (SERVER, pg(b"Z", b"I"), "ReadyForQuery"),
            (CLIENT, pg(b"X"), "Terminate"),
        ],
    ),
    "PostgreSQL with a password": (
        "postgresql",
        [
            (CLIENT, startup(196608, b"\0"), "Startup"),
            (SERVER, pg(b"R", (3).to_bytes(4)), "AuthenticationCleartextPassword"),
            (CLIENT, pg(b"p", b"secret\0"), "Password"),
        ],
    ),
    "PostgreSQL with TLS": (
        "postgresql",
        [
            (CLIENT, startup(80877103), "SSLRequest"),
            (SERVER, b"S", "reply to SSLRequest"),
            (CLIENT, startup(196608, b"looks like a Startup, but is encrypted"), RAW),
        ],
    ),
    "PostgreSQL, CancelRequest": ("postgresql", [(CLIENT, startup(80877102, bytes(8)), "CancelRequest")]),
    "Redis, RESP2": (
        "redis",
        [
            (CLIENT, b"*3\r\n$4\r\nAUTH\r\n$7\r\ngateway\r\n$6\r\nse\r\nkt\r\n", "AUTH"),
            (CLIENT, b"*3\r\n$6\r\nclient\r\n$7\r\nsetname\r\n$1\r\nx\r\n", "CLIENT SETNAME"),
            (SERVER, b"+OK\r\n", "reply to AUTH"),
            (SERVER, b"-ERR no\r\n", "reply to CLIENT SETNAME"),
            (CLIENT, b"*2\r\n$4\r\nMGET\r\n$1\r\na\r\n", "MGET"),
            (SERVER, b"*3\r\n*-1\r\n$-1\r\n:1\r\n", "reply to MGET"),
            (CLIENT, b"PING\r\n", "PING"),
            (SERVER, b"$4\r\nPONG\r\n", "reply to PING"),
        ],
    ),
    "Redis, RESP3": (
        "redis",
        [
            (CLIENT, b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", "HELLO"),
            (SERVER, b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n+modules\r\n*1\r\n~2\r\n#t\r\n_\r\n", "reply to HELLO"),
            (SERVER, b">2\r\n+invalidate\r\n*1\r\n+x\r\n", "push"),
            (CLIENT, b"*1\r\n$4\r\nPING\r\n", "PING"),
            (SERVER, b"|1\r\n+ttl\r\n:3600\r\n,3.14\r\n", "reply to PING"),
        ],
    ),
    "AMQP": (
        "amqp",
        [
            (CLIENT, b"AMQP\0\0\x09\x01", "ProtocolHeader"),
            (SERVER, method(10, 10, b"\xce" * 9), "Connection.Start"),
            (CLIENT, method(10, 11), "Connection.StartOk"),
            (SERVER, method(10, 30), "Connection.Tune"),
            (CLIENT, method(20, 10), "Channel.Open"),
            (CLIENT, method(85, 10), "Confirm.Select"),
            (CLIENT, method(60, 40), "Basic.Publish"),
            (CLIENT, frame(2, b"properties"), "ContentHeader"),
            (CLIENT, frame(3, b"AMQP"), "ContentBody"),
            (SERVER, frame(8, b""), "Heartbeat"),
            (SERVER, method(99, 7), "Method 99.7"),
        ],
    ),
    "AMQP, version rejected": (
        "amqp",
        [(CLIENT, b"AMQP\0\1\0\0", "ProtocolHeader"), (SERVER, b"AMQP\0\0\x09\x01", "ProtocolHeader")],
    ),
    "HTTP": (
        "http",
        [
            (CLIENT, b"POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\n", "request head"),
            (CLIENT, b"\r\n\r\n", "request body"),
            (SERVER, b"HTTP/1.1 100 Continue\r\n\r\n", "response head"),
            (SERVER, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "response head"),
            (SERVER, b"5;x=y\r\n\r\n0\r\n\r\n", "response body"),
            (SERVER, b"0\r\nTrailer: x\r\n\r\n", "response body"),
            (CLIENT, b"HEAD /b HTTP/1.1\r\nHost: x\r\n\r\n", "request head"),
            (SERVER, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", "response head"),
            (CLIENT, b"GET /c HTTP/1.1\r\n\r\n", "request head"),
            (SERVER, b"HTTP/1.1 204 No Content\r\n\r\n", "response head"),
            (CLIENT, b"GET /d HTTP/1.1\r\n\r\n", "request head"),
            (SERVER, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "response head"),
            (CLIENT, b"GET /e HTTP/1.1\r\n\r\n", "request head"),
            (SERVER, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", "response head"),
            (SERVER, b"{}", "response body"),
        ],
    ),
}


def parse(protocol: str, pieces: Iterable[tuple[Side, bytes]]) -> list[NamedBytes]:
    framer = PROTOCOLS[protocol]()
    parsed = [message for side, data in pieces for message in framer.feed(side, data)]
    parsed += [message for side in Side for message in framer.rest(side)]
    return [(message.sender, message.data, message.name) for message in parsed]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_split_message_is_the_same_message(conversation: str) -> None:
    """Wherever the bytes of a message are split, the framer yields the same messages."""
    protocol, messages = CONVERSATIONS[conversation]
    for index, (side, data, name) in enumerate(messages):
        for split in range(1, len(data)):
            if name == RAW:
                continue  # raw bytes pass in the pieces in which they arrive
            pieces = [(sender, whole) for sender, whole, _ in messages]
            pieces[index : index + 1] = [(side, data[:split]), (side, data[split:])]
            assert parse(protocol, pieces) == messages, f"message {index} split at {split}"


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_joined_messages_are_separated(conversation: str) -> None:
    """Messages that arrive in one piece are yielded one by one."""
    protocol, messages = CONVERSATIONS[conversation]
    together: list[tuple[Side, bytes]] = []
    for side, data, _ in messages:
        if together and together[-1][0] is side:
            together[-1] = side, together[-1][1] + data
        else:
            together.append((side, data))

    assert parse(protocol, together) == messages


GARBAGE = [
    b"\x00\xff garbage \xff\x00\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\xff" * 64,
    b"*99999999999999999999\r\n",
    b"$-2\r\n",
    b"\x00" * 16,
    b"Q\xff\xff\xff\xff",
    b"\x01\x00\x00\xff\xff\xff\xff\x00",
    b"AMQ",
    b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nmany\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("side", Side)
def test_garbage_passes_unchanged(protocol: str, side: Side) -> None:
    """Bytes that are not a message pass unchanged, in one piece or byte by byte."""
    for garbage in GARBAGE:
        in_one_piece = parse(protocol, [(side, garbage)])
        byte_by_byte = parse(protocol, [(side, garbage[at : at + 1]) for at in range(len(garbage))])
        assert b"".join(data for _, data, _ in in_one_piece) == garbage
        assert b"".join(data for _, data, _ in byte_by_byte) == garbage


@pytest.mark.parametrize(
    ("protocol", "header"),
    [
        ("postgresql", b"D\xff\xff\xff\xff"),
        ("redis", b"$99999999999\r\n"),
        ("amqp", b"\x01\x00\x00\xff\xff\xff\xff"),
        ("http", b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\nx"),
    ],
)
def test_impossible_length_is_not_awaited(protocol: str, header: bytes) -> None:
    """A message with an impossible length passes immediately, instead of being buffered forever."""
    framer = PROTOCOLS[protocol]()

    assert b"".join(message.data for message in framer.feed(SERVER, header)) == header


@pytest.mark.parametrize(
    ("protocol", "side", "data"),
    [
        ("postgresql", CLIENT, startup(196609)),
        ("postgresql", CLIENT, (7).to_bytes(4) + (196608).to_bytes(4)),
        ("postgresql", SERVER, b"D" + (3).to_bytes(4)),
        ("postgresql", SERVER, pg(b"Q")),
        ("redis", SERVER, b"$-2\r\n"),
        ("redis", SERVER, b"*one\r\n"),
        ("amqp", SERVER, method(10, 10)[:-1] + b"\xcf"),
        ("amqp", SERVER, frame(4, b"")),
        ("http", CLIENT, b"GET /\r\n\r\n"),
        ("http", SERVER, b"HTTP/1.1 OK\r\n\r\n"),
    ],
)
def test_malformed_message_is_raw(protocol: str, side: Side, data: bytes) -> None:
    """Bytes that resemble a message of the protocol but are malformed have no name."""
    assert parse(protocol, [(side, data)]) == [(side, data, RAW)]


def test_http_body_without_length() -> None:
    """A body without a length ends with the connection; all bytes until then belong to it."""
    messages = [
        (CLIENT, b"GET / HTTP/1.1\r\n\r\n"),
        (SERVER, b"HTTP/1.1 200 OK\r\n\r\n"),
        (SERVER, b"one"),
        (SERVER, b"two"),
    ]

    assert [name for _, _, name in parse("http", messages)] == [
        "request head",
        "response head",
        "response body",
        "response body",
    ]


def test_http_upgrade_passes_raw() -> None:
    """After a 101 response, both directions pass without being parsed."""
    messages = [
        (CLIENT, b"GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n"),
        (SERVER, b"HTTP/1.1 101 Switching\r\n\r\n"),
        (CLIENT, b"GET / HTTP/1.1\r\n\r\n"),
    ]

    assert [name for _, _, name in parse("http", messages)] == ["request head", "response head", RAW]
