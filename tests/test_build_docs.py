"""The site of the documentation: its links, its check for files of other hosts, and the reference of the HTTP API."""

from pathlib import Path

import pytest

from gateway.app import create_app
from tools import build_docs
from tools.http_reference import http_reference


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build_docs, "ROOT", tmp_path)
    monkeypatch.setattr(build_docs, "PAGES", tmp_path / "build" / "pages")
    monkeypatch.setattr(build_docs, "SITE", tmp_path / "build" / "site")
    (tmp_path / "docs").mkdir()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "module.py").write_text('"""The module."""\nx = 1\n')
    return tmp_path / "build" / "pages"


def test_linked_sources_get_pages(pages: Path) -> None:
    """Links to a source file, to one of its lines and to a folder lead to pages; a snippet links its file."""
    (build_docs.ROOT / "docs" / "page.md").write_text(
        "[file](../code/module.py), [line](../code/module.py#L2), [folder](../code/), [site](https://example.org)\n\n"
        "<!-- code/module.py -->\n```python\nx = 1\n```\n"
    )

    build_docs.write_pages()

    assert (pages / "docs" / "page.md").read_text() == (
        "[file](../code/module.py.md), [line](../code/module.py.md#__codelineno-0-2), [folder](../code/index.md), "
        "[site](https://example.org)\n\n"
        "[`code/module.py`](../code/module.py.md)\n\n```python\nx = 1\n```\n"
    )
    assert "x = 1" in (pages / "code" / "module.py.md").read_text()
    assert "- [`module.py`](module.py.md): The module." in (pages / "code" / "index.md").read_text()


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<a href="https://example.org"></a><img src="picture.svg">', 0),
        ('<script src="https://example.org/x.js"></script>', 1),
        ('<link rel="stylesheet" href="//example.org/x.css">', 1),
    ],
)
def test_files_of_other_hosts_are_found(pages: Path, html: str, expected: int) -> None:
    """A page may link another host, and must not load anything from it."""
    site = pages.parent / "site"
    site.mkdir(parents=True)
    (site / "index.html").write_text(html)

    assert len(list(build_docs.foreign_files())) == expected


def test_http_reference_is_complete() -> None:
    """The reference has each operation, each type of problem and each object of the OpenAPI description."""
    spec = create_app().openapi()

    reference = http_reference(spec)

    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            assert f"`{method.upper()} {path}`" in reference
            for response in operation["responses"].values():
                for content in response.get("content", {}).values():
                    assert all(f"`{name}`" in reference for name in content.get("examples", {}))
    assert all(f"### {name}\n" in reference for name in spec["components"]["schemas"])
