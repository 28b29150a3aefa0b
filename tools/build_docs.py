"""Build the site of the documentation in build/site: `make docs`.

The Markdown pages are written for the repository and link its files. The site has a page for each linked source file and
folder, so that every link leads somewhere. The references of the packages and of the HTTP API exist on the site only.
"""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import faultlab.wire
import gateway.lifecycle
from gateway.app import create_app
from tools.http_reference import http_reference

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "build" / "pages"
SITE = ROOT / "build" / "site"

LINK = re.compile(r"\]\((?!https?:|mailto:)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
LINE_ANCHOR = re.compile(r"#L(\d+)")
CODE_BLOCK = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
SNIPPET = re.compile(r"<!-- (?P<source>\S+) -->\n```python\n")
COPIED = {".svg", ".png", ".json"}
SOURCE_HEAD = "---\nsearch:\n  exclude: true\nhide:\n  - toc\n---\n\n# "

# For each page the packages, and the most important names of each. The other public names follow them.
REFERENCES = {
    "lifecycle": {gateway.lifecycle: ["LifecycleStack", "StartError", "TeardownError"]},
    "faultlab": {
        faultlab: ["sweep", "run_once", "Run", "Outcome", "InjectionPoint"],
        faultlab.wire: ["Proxy", "WireFault"],
    },
}


def main() -> int:
    """Write the pages, build the site and check that it needs no other host. Return the exit status."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    write_pages()
    write_references()
    copy(ROOT / "docs" / "site.css")
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode  # noqa: S603 - our own command
    foreign = list(foreign_files())
    print(*foreign, f"the site: {(SITE / 'index.html').relative_to(ROOT)}", sep="\n")
    return status or bool(foreign)


def write_pages() -> None:
    """Write the Markdown pages of the root and of docs, and all that they link."""
    todo = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    done: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in done or not path.exists():  # Zensical reports a link to a missing file
            continue
        done.add(path)
        if path.suffix == ".md":
            todo += write_markdown(path)
        elif path.suffix in COPIED:
            copy(path)
        elif path.is_file():
            write_source(path)
    for folder in filter(Path.is_dir, done):
        write_folder(folder)


def write_markdown(path: Path) -> list[Path]:
    """Write a Markdown page. Its links lead to pages, and each snippet has a link to its file. Return what it links."""
    linked: list[Path] = []

    def link_to_page(link: re.Match[str]) -> str:
        target = (path.parent / link["target"]).resolve()
        if (target / "README.md").exists():
            target /= "README.md"
        linked.append(target)
        anchor = LINE_ANCHOR.sub(r"#__codelineno-0-\1", link["anchor"] or "")
        return f"]({relative(page_of(target), path)}{anchor})"

    def link_to_source(snippet: re.Match[str]) -> str:
        return f"[`{snippet['source']}`]({relative(ROOT / snippet['source'], path)})\n\n```python\n"

    parts = CODE_BLOCK.split(SNIPPET.sub(link_to_source, path.read_text(encoding="utf-8")))
    parts[::2] = [LINK.sub(link_to_page, text) for text in parts[::2]]
    write(path, "".join(parts))
    return linked


def write_source(path: Path) -> None:
    """Write a page with the text of a file and line numbers."""
    language = path.suffix[1:] or "text"
    text = path.read_text(encoding="utf-8")
    write(page_of(path), f'{SOURCE_HEAD}{title(path)}\n\n~~~~~~ {{.{language} linenums="1"}}\n{text}~~~~~~\n')


def write_folder(path: Path) -> None:
    """Write a page that lists the Python files of a folder, with links to those that have a page."""
    lines = [SOURCE_HEAD + title(path), ""]
    for file in sorted(path.glob("*.py")):
        has_page = (PAGES / page_of(file).relative_to(ROOT)).exists()
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        name = f"[`{file.name}`]({file.name}.md)" if has_page else f"`{file.name}`"
        lines.append(f"- {name}: {docstring.partition(chr(10))[0]}")
    write(page_of(path), "\n".join([*lines, ""]))


def write_references() -> None:
    """Write the pages for mkdocstrings, and the reference of the HTTP API."""
    for page, packages in REFERENCES.items():
        lines = [f"# Reference of {page}", ""]
        for package, first in packages.items():
            lines += [f"## {package.__name__}", "", str(inspect.getdoc(package)), ""]
            for name in [*first, *(name for name in package.__all__ if name not in first)]:
                # The path of the definition: a submodule may have the name of its function.
                module = getattr(getattr(package, name), "__module__", package.__name__)
                lines += [f"::: {module}.{name}", ""]
        write(ROOT / "reference" / f"{page}.md", "\n".join(lines))
    write(ROOT / "reference" / "http_api.md", http_reference(create_app().openapi()))


def page_of(path: Path) -> Path:
    """Return the page of a file or folder. A Markdown page or a picture is its own."""
    if path.suffix in {".md", *COPIED}:
        return path
    return path / "index.md" if path.is_dir() else path.with_name(path.name + ".md")


def title(path: Path) -> str:
    return str(path.relative_to(ROOT)).replace("_", r"\_")


def relative(target: Path, page: Path) -> str:
    """Return the link from a page to a file."""
    up = [".." for _ in page.parent.relative_to(ROOT).parts]
    return "/".join([*up, *target.relative_to(ROOT).parts])


def write(path: Path, text: str) -> None:
    page = PAGES / path.relative_to(ROOT)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")


def copy(path: Path) -> None:
    page = PAGES / path.relative_to(ROOT)
    page.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, page)


class ForeignFileParser(HTMLParser):
    """Collects the addresses of other hosts from which a page loads a file."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        loaded = [value for name, value in attrs if name in {"src", "srcset"} or (name == "href" and tag == "link")]
        self.found += [value for value in loaded if value and re.match(r"(https?:)?//", value)]


def foreign_files() -> Iterator[str]:
    """Yield a line for each file that a page of the site loads from another host."""
    for page in sorted(SITE.rglob("*.html")):
        parser = ForeignFileParser()
        parser.feed(page.read_text(encoding="utf-8"))
        yield from (f"{page.relative_to(ROOT)} loads {address}" for address in parser.found)


if __name__ == "__main__":
    sys.exit(main())
