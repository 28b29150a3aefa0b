"""PostgreSQL's protocol 3: https://www.postgresql.org/docs/current/protocol-message-formats.html."""

from typing import Final

from faultlab.wire.framing import Framer, Side, UnknownProtocolError

_UNTYPED: Final = {
    196608: "Startup",
    80877102: "CancelRequest",
    80877103: "SSLRequest",
    80877104: "GSSENCRequest",
}

_OF_THE_CLIENT: Final = {
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

_OF_THE_SERVER: Final = {
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

_ANSWERS: Final = {"AuthenticationSASL": "SASLInitialResponse", "AuthenticationSASLContinue": "SASLResponse"}
"""What the client's `p` is depends on what it was asked."""


class PostgreSQL(Framer):
    def __init__(self) -> None:
        super().__init__()
        self._started = False
        self._asked_for_encryption = False
        self._authentication = ""

    def length(self, sender: Side, buffer: bytearray) -> int | None:
        if sender is Side.SERVER and self._asked_for_encryption:
            return 1
        untyped = sender is Side.CLIENT and not self._started
        if not untyped and bytes(buffer[:1]) not in (_OF_THE_CLIENT if sender is Side.CLIENT else _OF_THE_SERVER):
            raise UnknownProtocolError
        header = 0 if untyped else 1
        if len(buffer) < header + 4:
            return None
        length = int.from_bytes(buffer[header : header + 4])
        if length < (8 if untyped else 4):
            raise UnknownProtocolError
        return header + length

    def name(self, sender: Side, message: bytes) -> str:
        if sender is Side.SERVER:
            return self._name_of_the_server(message)
        if not self._started:
            return self._name_of_the_first(int.from_bytes(message[4:8]))
        name = _OF_THE_CLIENT[message[:1]]
        return _ANSWERS.get(self._authentication, name) if name == "Password" else name

    def _name_of_the_first(self, code: int) -> str:
        if code not in _UNTYPED:
            raise UnknownProtocolError
        name = _UNTYPED[code]
        self._started = name == "Startup"
        self._asked_for_encryption = name in {"SSLRequest", "GSSENCRequest"}
        return name

    def _name_of_the_server(self, message: bytes) -> str:
        if self._asked_for_encryption:
            self._asked_for_encryption = False
            if message != b"N":
                self.pass_raw()
            return "reply to SSLRequest"
        name = _OF_THE_SERVER[message[:1]]
        if name == "Authentication":
            self._authentication = name = _AUTHENTICATIONS.get(int.from_bytes(message[5:9]), name)
        return name
