"""Files of a package as responses, with headers that let a browser use nothing from other origins."""

from functools import cache
from importlib.resources import files

from fastapi import Response

from gateway.api.problem_types import UNKNOWN_PATH
from gateway.api.problems import ProblemError

# All scripts and styles are files of their own. `frame-ancestors` keeps other sites from showing a page in a frame.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

_MEDIA_TYPES = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "png": "image/png",
    "svg": "image/svg+xml",
}


def file_response(package: str, folder: str, name: str) -> Response:
    """Return a file of a folder of a package.

    Raises:
        ProblemError: the folder has no such file, or not one for a browser (404).
    """
    media_type = _MEDIA_TYPES.get(name.rpartition(".")[2])
    content = None if media_type is None else _folder(package, folder).get(name)
    if content is None:
        raise ProblemError(UNKNOWN_PATH, "The page has no such file. Load the page again.")
    return Response(content, media_type=media_type, headers=_HEADERS)


@cache
def _folder(package: str, folder: str) -> dict[str, bytes]:
    """Return the files of a folder by their names. They are read once, at the first request."""
    return {file.name: file.read_bytes() for file in (files(package) / folder).iterdir() if file.is_file()}
