"""The types of all problems: a table for the responses, the OpenAPI, the pages at `/problems`, and docs/problems.md.

A type is stable: its slug and its status stay, because programs compare them. Titles and explanations are for people.
"""

from dataclasses import dataclass
from http import HTTPStatus

PATH = "/problems"

RETRY_AFTER = 1  # seconds: outages of the backends often end in this time, and a write never takes longer than two


@dataclass(frozen=True)
class ProblemType:
    """One kind of problem.

    Attributes:
        slug: the last part of its URI.
        status: of the response.
        title: the same for each problem of this type. `HTTPStatus.phrase` depends on the version of Python.
        explanation: the reason, and what to do about it.
        retry_after: seconds, if the same request should be sent again later.
    """

    slug: str
    status: HTTPStatus
    title: str
    explanation: str
    retry_after: int | None = None

    @property
    def path(self) -> str:
        """The URI, without the prefix that a proxy removes."""
        return f"{PATH}/{self.slug}"


MALFORMED_REQUEST = ProblemType(
    "malformed-request",
    HTTPStatus.BAD_REQUEST,
    "The request cannot be parsed",
    "It is not valid HTTP/1.1, or its body cannot be parsed as JSON. Correct it and send it again.",
)
FOREIGN_PAGE = ProblemType(
    "foreign-page",
    HTTPStatus.BAD_REQUEST,
    "The web page may not send this request",
    "The preflight request of a browser (CORS) is from a page of an origin that the gateway does not allow, or for a method or a "
    "header that the API does not have. The operator of the gateway chooses the origins.",
)
API_KEY_REQUIRED = ProblemType(
    "api-key-required",
    HTTPStatus.UNAUTHORIZED,
    "A valid API key is required",
    "The request has no key, or one that does not permit it. Send the secret of a key in the header `Authorization: Bearer SECRET`.",
)
FORBIDDEN = ProblemType(
    "forbidden",
    HTTPStatus.FORBIDDEN,
    "The gateway does not accept this request from this client",
    "The gateway has no keys for this request, so only programs on its own machine may send it. Request a key from its operator.",
)
UNKNOWN_PATH = ProblemType(
    "unknown-path",
    HTTPStatus.NOT_FOUND,
    "There is no such path",
    "The API has no such path. `/docs` lists all paths.",
)
UNKNOWN_PLACE = ProblemType(
    "unknown-place",
    HTTPStatus.NOT_FOUND,
    "There is no such place",
    "No place has this id. Find the id of a place with `/v1/places?q=name`.",
)
UNKNOWN_OBSERVATION = ProblemType(
    "unknown-observation",
    HTTPStatus.NOT_FOUND,
    "There is no such observation",
    "The place has no observation with this id. `/v1/places/{place_id}/observations` lists them all.",
)
UNSUPPORTED_METHOD = ProblemType(
    "unsupported-method",
    HTTPStatus.METHOD_NOT_ALLOWED,
    "The path does not support this method",
    "Use one of the methods in the header `Allow`.",
)
REQUEST_TIMEOUT = ProblemType(
    "request-timeout",
    HTTPStatus.REQUEST_TIMEOUT,
    "The request did not arrive in time",
    "The headers or the body took too long. Send the request again, faster. It does not help to wait before that.",
)
REPORT_IN_PROGRESS = ProblemType(
    "report-in-progress",
    HTTPStatus.CONFLICT,
    "The report is being stored",
    "An earlier request with this `Idempotency-Key` has not ended. Send the same report with the same key again.",
    RETRY_AFTER,
)
BODY_TOO_LARGE = ProblemType(
    "body-too-large",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "The body is too large",
    "The path has a limit for the size of a body, which `detail` names. Send a smaller one.",
)
UNSUPPORTED_MEDIA_TYPE = ProblemType(
    "unsupported-media-type",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "The body is not JSON, or is compressed",
    "Send JSON with the header `Content-Type: application/json`, and without the header `Content-Encoding`.",
)
INVALID_REQUEST = ProblemType(
    "invalid-request",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "The request has invalid values",
    "`errors` lists the invalid parts of the request. If the query has too many parameters, `detail` has their limit instead. Correct "
    "the request and send it again.",
)
IDEMPOTENCY_KEY_REUSED = ProblemType(
    "idempotency-key-reused",
    HTTPStatus.UNPROCESSABLE_ENTITY,
    "The idempotency key belongs to another report",
    "Another report was stored with this `Idempotency-Key`. Send this report with a new key.",
)
HEADERS_TOO_LARGE = ProblemType(
    "headers-too-large",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "The request line and the headers are too large",
    "They have a limit, which `detail` names. Send fewer or shorter headers, or a shorter query.",
)
INTERNAL_ERROR = ProblemType(
    "internal-error",
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "Internal error",
    "This is a bug in the gateway. Report it with the `request_id`, which the log has as well.",
)
UNAVAILABLE = ProblemType(
    "unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The gateway is starting or stopping",
    "Send the request again: another replica, or the gateway after its start, responds to it.",
    RETRY_AFTER,
)
DATABASE_UNAVAILABLE = ProblemType(
    "database-unavailable",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The database is unavailable",
    "The database cannot be reached, is too slow, or rejects the query. `detail` has the reason. Send the request again later.",
    RETRY_AFTER,
)
OVERLOADED = ProblemType(
    "overloaded",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many requests at once",
    "The gateway is busy, or too many requests wait for the same resource. Send the request again later, and fewer requests concurrently.",
    RETRY_AFTER,
)
TOO_MANY_CONNECTIONS = ProblemType(
    "too-many-connections",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The gateway has too many connections",
    "All connections that the gateway accepts have a request in flight. Connect again later.",
    RETRY_AFTER,
)
NOT_STORED = ProblemType(
    "not-stored",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The report was not stored",
    "This request has stored nothing. Send it again, with the same `Idempotency-Key` if it had one: an earlier request with "
    "that key may have been stored.",
    RETRY_AFTER,
)
OUTCOME_UNKNOWN = ProblemType(
    "outcome-unknown",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The report may have been stored",
    "The database did not confirm the write in time. Send the request again with the same `Idempotency-Key`, so that the "
    "report is stored only once.",
    RETRY_AFTER,
)
NO_RESPONSE = ProblemType(
    "no-response",
    HTTPStatus.BAD_GATEWAY,
    "The gateway closed the connection without a response",
    "The proxy in front of the gateway reports this. A report may have been stored: send it again with the same "
    "`Idempotency-Key`.",
    RETRY_AFTER,
)
NO_REPLICA = ProblemType(
    "no-replica",
    HTTPStatus.SERVICE_UNAVAILABLE,
    "No replica of the gateway is ready",
    "The proxy in front of the gateway reports this. No replica has received the request. Send it again later.",
    RETRY_AFTER,
)
SLOW_RESPONSE = ProblemType(
    "slow-response",
    HTTPStatus.GATEWAY_TIMEOUT,
    "The response of the gateway took too long",
    "The proxy in front of the gateway reports this. A report may have been stored: send it again with the same "
    "`Idempotency-Key`.",
    RETRY_AFTER,
)

TYPES = (
    MALFORMED_REQUEST,
    FOREIGN_PAGE,
    API_KEY_REQUIRED,
    FORBIDDEN,
    UNKNOWN_PATH,
    UNKNOWN_PLACE,
    UNKNOWN_OBSERVATION,
    UNSUPPORTED_METHOD,
    REQUEST_TIMEOUT,
    REPORT_IN_PROGRESS,
    BODY_TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    INVALID_REQUEST,
    IDEMPOTENCY_KEY_REUSED,
    HEADERS_TOO_LARGE,
    INTERNAL_ERROR,
    UNAVAILABLE,
    DATABASE_UNAVAILABLE,
    OVERLOADED,
    TOO_MANY_CONNECTIONS,
    NOT_STORED,
    OUTCOME_UNKNOWN,
    NO_RESPONSE,
    NO_REPLICA,
    SLOW_RESPONSE,
)

# The first type of a status is its default.
_DEFAULTS = {problem_type.status: problem_type for problem_type in reversed(TYPES)}


def default_type(status: HTTPStatus) -> ProblemType:
    """Return the type of a problem that has no more specific one.

    Raises:
        KeyError: no type has this status.
    """
    return _DEFAULTS[status]
