"""The media type of request bodies: JSON, without a content coding."""

from fastapi import Request

from gateway.api.body_limit import drop_body
from gateway.api.problem_types import UNSUPPORTED_MEDIA_TYPE
from gateway.api.problems import ProblemError

JSON = "application/json"
IDENTITY = "identity"  # no coding


async def require_json(request: Request) -> None:
    """Check the headers of a request whose body is JSON.

    The header is required: a web page of another site can send a body without it, and with it only after a CORS preflight.
    Its parameters have no effect: JSON is UTF-8 (RFC 8259).

    Raises:
        ProblemError: the body has another media type, none, or a content coding such as gzip (415).
    """
    media_type = request.headers.get("Content-Type", "").partition(";")[0]
    coding = request.headers.get("Content-Encoding", IDENTITY)
    if media_type.strip().lower() != JSON:
        detail = f"Send the body as JSON, with the header `Content-Type: {JSON}`."
        accepted = {"Accept": JSON}
    elif coding.strip().lower() != IDENTITY:
        detail = "Send the body as it is, without the header `Content-Encoding`."
        accepted = {"Accept-Encoding": IDENTITY}
    else:
        return
    headers = await drop_body(request.scope, request.receive)
    raise ProblemError(UNSUPPORTED_MEDIA_TYPE, detail, headers=accepted | headers)
