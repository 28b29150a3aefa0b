"""The pages that the types of problems lead to: one for each type, and a list of all."""

from html import escape

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from gateway.api.problem_types import PATH, TYPES, UNKNOWN_PATH
from gateway.api.problems import ProblemError
from gateway.api.routes import CachedRoute

router = APIRouter(include_in_schema=False, route_class=CachedRoute)


def _page(title: str, body: str) -> str:
    head = f'<meta charset="utf-8"><title>{escape(title)}</title>'
    return f'<!doctype html>\n<html lang="en">{head}<h1>{escape(title)}</h1>\n{body}\n</html>\n'


def _code(text: str) -> str:
    """Return a text in which Markdown's code, such as `Allow`, is HTML."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


_LIST = _page(
    "Problems",
    "<ul>\n"
    + "\n".join(f'<li>{it.status.value} <a href="problems/{it.slug}">{escape(it.title)}</a></li>' for it in TYPES)
    + "\n</ul>",
)
_PAGES = {
    it.slug: _page(
        it.title,
        f'<p>Status {it.status.value}, type <code>{it.slug}</code></p>\n<p>{_code(it.explanation)}</p>\n<p><a href="../problems">All problems</a></p>',
    )
    for it in TYPES
}


@router.get(PATH)
async def list_problem_types() -> HTMLResponse:
    return HTMLResponse(_LIST)


@router.get(PATH + "/{slug}")
async def get_problem_type(slug: str) -> HTMLResponse:
    if slug not in _PAGES:
        raise ProblemError(UNKNOWN_PATH, f"There is no type of problem with this name. {PATH} lists all types.")
    return HTMLResponse(_PAGES[slug])
