"""Check comments, docstrings, messages and Markdown for the phrases of `[tool.prose]` in pyproject.toml.

`make lint` runs it after `typos`, which finds single words only. It also checks that each test has a short name and a
docstring. Usage: `python tools/check_prose.py PATH...`.
"""

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
GENERATED_OR_QUOTING: list[str] = CONFIG["typos"]["files"]["extend-exclude"]
MAX_TEST_NAME = 50

# Where a sentence starts: a passage, a paragraph, a list item, a table cell, or after the end of another sentence.
_START = r"(?:\A|\n[ \t]*\n|[.!?]\s|\||^[ \t]*(?:[-*+>#]+|\d+\.)\s)\W*"
_UNLESS_QUESTION = r"(?!(?:[^.!?|]|\.\w)*\?)"
_CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


class Passage(NamedTuple):
    """A comment, a string or a Markdown page: `text` begins at `line`."""

    line: int
    text: str
    is_property: bool = False  # a docstring of a property is a noun phrase and may begin with "Whether"


def main(paths: Iterable[str]) -> int:
    """Print the findings of all files below `paths`. Return the exit status."""
    findings = [finding for path in paths for file in _files(Path(path)) for finding in check(file)]
    print(*findings, sep="\n", end="\n" if findings else "")
    return 1 if findings else 0


def check(path: Path) -> list[str]:
    """Return a line of text for each finding in one file, in the order of the file."""
    source = path.read_text()
    if path.suffix == ".md":
        passages, findings = [_without_code_blocks(source)], []
    else:
        tree = ast.parse(source)
        passages = [*_comments(source), *_strings(tree)]
        findings = list(_tests(tree)) if path.name.startswith("test_") else []
    findings += [finding for passage in passages for finding in _phrases(passage)]
    return [f"{path}:{line}: {text}" for line, text in sorted(findings)]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise SystemExit(f"{path} does not exist: correct the list in the Makefile")
    files = [path] if path.is_file() else sorted([*path.rglob("*.py"), *path.rglob("*.md")])
    return [file for file in files if not any(file.match(pattern) for pattern in GENERATED_OR_QUOTING)]


def _phrases(passage: Passage) -> Iterator[tuple[int, str]]:
    for pattern, plain in _PHRASES.items():
        for found in pattern.finditer(passage.text):
            yield _line(passage, found), f"`{' '.join(found[1].split())}` should be `{plain}`"
    for pattern, plain in _OPENINGS.items():
        for found in pattern.finditer(passage.text):
            if not (passage.is_property and found[1] == "Whether"):
                yield _line(passage, found), f"a sentence that begins with `{found[1]}` should begin with {plain}"


def _line(passage: Passage, found: re.Match[str]) -> int:
    return passage.line + passage.text.count("\n", 0, found.start(1))


def _pattern(phrase: str) -> re.Pattern[str]:
    return re.compile(rf"(?:\b|(?=\W))({phrase})\b".replace(" ", r"\s+"), re.IGNORECASE)


_PHRASES = {_pattern(phrase): plain for phrase, plain in CONFIG["prose"]["phrases"].items()}
_OPENINGS = {
    re.compile(rf"{_START}({word})\s{_UNLESS_QUESTION}", re.MULTILINE): plain
    for word, plain in CONFIG["prose"]["openings"].items()
}


def _without_code_blocks(page: str) -> Passage:
    return Passage(1, _CODE_BLOCK.sub(lambda block: "\n" * block[0].count("\n"), page))


def _comments(source: str) -> Iterator[Passage]:
    """Yield the comments. Those on consecutive lines of their own are one passage."""
    passage, next_line = Passage(0, ""), -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, text = token.start[0], token.string.lstrip("#! ")
        own_line = token.line.lstrip().startswith("#")
        if own_line and line == next_line:
            passage = passage._replace(text=f"{passage.text}\n{text}")
        else:
            yield passage
            passage = Passage(line, text)
        next_line = line + 1 if own_line else -1
    yield passage


def _strings(tree: ast.AST) -> Iterator[Passage]:
    """Yield all strings: docstrings, messages and the constant parts of f-strings."""
    of_properties = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(d).endswith("property") for d in node.decorator_list)
        for statement in node.body[:1]
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Passage(node.lineno, node.value, id(node) in of_properties)


def _tests(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            if len(node.name) > MAX_TEST_NAME:
                yield node.lineno, f"{node.name} has {len(node.name)} characters: at most {MAX_TEST_NAME}"
            if ast.get_docstring(node) is None:
                yield node.lineno, f"{node.name} has no docstring: state its claim"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
