"""PostgreSQL's frontend/backend protocol, version 3: https://www.postgresql.org/docs/current/protocol-message-formats.html."""

from typing import Final

from .framing import Framer, Side, UnknownProtocolError

_STARTUP_CODES: Final = {
    196608: "Startup",
    80877102: "CancelRequest",
    80877103: "SSLRequest",
    80877104: "GSSENCRequest",
}

_FRONTEND_MESSAGES: Final = {
    b"B": "Bind",
    b"C": "Close",
    b"D": "Describe",
    b"E": "Execute",
    b"F": "FunctionCall",
    b"H": "Flush",
    b"P": "Parse",
    b"Q": "Query",
    b"S": "Sync",
    b"X": "Terminate",
    b"c": "CopyDone",
    b"d": "CopyData",
    b"f": "CopyFail",
    b"p": "Password",
}

_BACKEND_MESSAGES: Final = {
    b"1": "ParseComplete",
    b"2": "BindComplete",
    b"3": "CloseComplete",
    b"A": "NotificationResponse",
    b"C": "CommandComplete",
    b"D": "DataRow",
    b"E": "ErrorResponse",
    b"G": "CopyInResponse",
    b"H": "CopyOutResponse",
    b"I": "EmptyQueryResponse",
    b"K": "BackendKeyData",
    b"N": "NoticeResponse",
    b"R": "Authentication",
    b"S": "ParameterStatus",
    b"T": "RowDescription",
    b"V": "FunctionCallResponse",
    b"W": "CopyBothResponse",
    b"Z": "ReadyForQuery",
    b"c": "CopyDone",
    b"d": "CopyData",
    b"n": "NoData",
    b"s": "PortalSuspended",
    b"t": "ParameterDescription",
    b"v": "NegotiateProtocolVersion",
}

_AUTHENTICATIONS: Final = {
    0: "AuthenticationOk",
    3: "AuthenticationCleartextPassword",
    5: "AuthenticationMD5Password",
    10: "AuthenticationSASL",
    11: "AuthenticationSASLContinue",
    12: "AuthenticationSASLFinal",
}

# The meaning of the client's message `p` depends on the authentication request before it.
_SASL_REPLIES: Final = {"AuthenticationSASL": "SASLInitialResponse", "AuthenticationSASLContinue": "SASLResponse"}


class PostgreSQLFramer(Framer):
    """Messages have the names of the protocol's documentation."""

    def __init__(self) -> None:
        super().__init__()
        self._started = False
        self._encryption_requested = False
        self._authentication = ""

    def length(self, sender: Side, buffer: bytearray) -> int | None:
        if sender is Side.SERVER and self._encryption_requested:
            return 1
        startup = sender is Side.CLIENT and not self._started
        if not startup and bytes(buffer[:1]) not in (
            _FRONTEND_MESSAGES if sender is Side.CLIENT else _BACKEND_MESSAGES
        ):
            raise UnknownProtocolError
        header = 0 if startup else 1
        if len(buffer) < header + 4:
            return None
        length = int.from_bytes(buffer[header : header + 4])
        if length < (8 if startup else 4):
            raise UnknownProtocolError
        return header + length

    def name(self, sender: Side, message: bytes) -> str:
        if sender is Side.SERVER:
            return self._backend_name(message)
        if not self._started:
            return self._startup_name(int.from_bytes(message[4:8]))
        name = _FRONTEND_MESSAGES[message[:1]]
        return _SASL_REPLIES.get(self._authentication, name) if name == "Password" else name

    def _startup_name(self, code: int) -> str:
        if code not in _STARTUP_CODES:
            raise UnknownProtocolError
        name = _STARTUP_CODES[code]
        self._started = name == "Startup"
        self._encryption_requested = name in {"SSLRequest", "GSSENCRequest"}
        return name

    def _backend_name(self, message: bytes) -> str:
        if self._encryption_requested:
            self._encryption_requested = False
            if message != b"N":
                self.passthrough()
            return "reply to SSLRequest"
        name = _BACKEND_MESSAGES[message[:1]]
        if name == "Authentication":
            self._authentication = name = _AUTHENTICATIONS.get(int.from_bytes(message[5:9]), name)
        return name
