"""Check what people read for words with a plainer equivalent: the lists of `[tool.prose]` in pyproject.toml.

`make lint` runs it after `typos`, which finds single words only. It reads

- comments, docstrings, messages and the names of tests: `[tool.prose.phrases]` and `[tool.prose.openings]`,
- the other names that a Python file defines, and its file name: `[tool.prose.names]`,
- Markdown, except its code blocks, and the comments of all other files.

It also checks that each test has a short name and a docstring. Usage: `python tools/check_prose.py PATH...`.
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
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
EXCLUDED: list[str] = CONFIG["typos"]["files"]["extend-exclude"]
MAX_TEST_NAME = 50

# The files of a folder that are read, and what begins a comment in them. Shell scripts have no suffix here.
_COMMENT_MARKS = {".py": "#", ".md": "", ".mjs": "//", ".toml": "#", ".yaml": "#", ".cfg": "#", "": "#"}

# Where a sentence starts: a passage, a paragraph, a list item, a table cell, or after the end of another sentence.
_START = r"(?:\A|\n[ \t]*\n|[.!?]\s|\||^[ \t]*(?:[-*+>#]+|\d+\.)\s)\W*"
_UNLESS_QUESTION = r"(?!(?:[^.!?|]|\.\w)*\?)"
_CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_WORD_OF_NAME = re.compile(r"[A-Z]?[a-z\d]+|[A-Z\d]+(?![a-z])")


class Passage(NamedTuple):
    """A comment, a string, the name of a test or a Markdown page: `text` begins at `line`."""

    line: int
    text: str
    describes_value: bool = False  # such as the docstring of a property, which may begin with "Whether"


class UncheckableError(Exception):
    """A path cannot be checked. The message names it and the reason."""


def main(paths: Iterable[str]) -> int:
    """Print the findings of all files below `paths`. Return the exit status."""
    try:
        findings = [finding for path in paths for file in _files(Path(path)) for finding in check(file)]
    except UncheckableError as error:
        print(error, file=sys.stderr)
        return 2
    print(*findings, sep="\n", end="\n" if findings else "")
    return 1 if findings else 0


def check(path: Path) -> list[str]:
    """Return a line of text for each finding in one file, in the order of the file.

    Raises:
        UncheckableError: the file is not UTF-8, or not Python although its name ends with `.py`.
    """
    try:
        source = path.read_text(encoding="utf-8")
        findings = list(_findings(path, source))
    except UnicodeDecodeError:
        raise UncheckableError(
            f"{path} is not UTF-8 text: exclude it in [tool.typos.files] of pyproject.toml"
        ) from None
    except (SyntaxError, tokenize.TokenError) as error:
        raise UncheckableError(f"{path} is not Python: {error}") from None
    return [f"{path}:{line}: {text}" for line, text in sorted(findings)]


def _findings(path: Path, source: str) -> Iterator[tuple[int, str]]:
    if path.suffix == ".md":
        passages = [_without_code_blocks(source)]
    elif path.suffix == ".py":
        tree = ast.parse(source, filename=str(path))
        is_test = path.name.startswith("test_")
        passages = [*_comments_of_python(source), *_strings(tree), *(_test_names(tree) if is_test else ())]
        yield from _tests(tree) if is_test else ()
        yield from _names(tree, path)
    else:
        passages = list(_comments(source, _COMMENT_MARKS.get(path.suffix, "#")))
    for passage in passages:
        yield from _phrases(passage)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UncheckableError(f"{path} does not exist: correct the list in the Makefile")
    if path.is_file():
        return [] if _is_excluded(path) else [path]
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and file.suffix in _COMMENT_MARKS
        and not _is_excluded(file)
        and not _is_installed(file.relative_to(path))
    ]
    if not found:
        raise UncheckableError(f"{path} has no text to check: correct the list in the Makefile")
    return found


def _is_excluded(path: Path) -> bool:
    return any(path.match(pattern) for pattern in EXCLUDED)


def _is_installed(path: Path) -> bool:
    """Return whether the file is in a folder of a tool, such as a cache or the packages of Node."""
    return any(part == "node_modules" or part.startswith(".") for part in path.parts)


def _phrases(passage: Passage) -> Iterator[tuple[int, str]]:
    for pattern, plain in _PHRASES.items():
        for found in pattern.finditer(passage.text):
            yield _line(passage, found), f"`{' '.join(found[1].split())}` should be `{plain}`"
    for pattern, plain in _OPENINGS.items():
        for found in pattern.finditer(passage.text):
            if not (passage.describes_value and found[1] == "Whether"):
                yield _line(passage, found), f"a sentence that begins with `{found[1]}` should begin with {plain}"


def _line(passage: Passage, found: re.Match[str]) -> int:
    return passage.line + passage.text.count("\n", 0, found.start(1))


def _names(tree: ast.AST, path: Path) -> Iterator[tuple[int, str]]:
    """Find words in the names that the file defines. Names of libraries, which it only uses, are not checked."""
    for line, name in [(1, path.stem), *_definitions(tree)]:
        words = " ".join(_WORD_OF_NAME.findall(name))
        for pattern, plain in _NAMES.items():
            if found := pattern.search(words):
                yield line, f"`{found[1]}` in the name `{name}` should be `{plain}`"


def _definitions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if not name.startswith("test_"):
                    yield node.lineno, name
            case ast.ClassDef(name=name) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name


def _pattern(phrase: str) -> re.Pattern[str]:
    return re.compile(rf"(?:\b|(?=\W))({phrase})\b".replace(" ", r"\s+"), re.IGNORECASE)


_PHRASES = {_pattern(phrase): plain for phrase, plain in CONFIG["prose"]["phrases"].items()}
_NAMES = {_pattern(words): plain for words, plain in CONFIG["prose"]["names"].items()}
_OPENINGS = {
    re.compile(rf"{_START}({words})\s{_UNLESS_QUESTION}", re.MULTILINE): plain
    for words, plain in CONFIG["prose"]["openings"].items()
}


def _without_code_blocks(page: str) -> Passage:
    return Passage(1, _CODE_BLOCK.sub(lambda block: "\n" * block[0].count("\n"), page))


def _comments_of_python(source: str) -> Iterator[Passage]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return _joined(
        (token.start[0], token.string.lstrip("#! "), token.line) for token in tokens if token.type == tokenize.COMMENT
    )


def _comments(source: str, mark: str) -> Iterator[Passage]:
    """Yield the comments of a file that is not Python: whatever follows a mark at the start of a word."""
    comment = re.compile(rf"(?:^|(?<=\s)){mark}[{mark[0]}!\s]*(.*)")
    found = ((number, line, comment.search(line)) for number, line in enumerate(source.splitlines(), 1))
    return _joined((number, match[1], line) for number, line, match in found if match)


def _joined(comments: Iterable[tuple[int, str, str]]) -> Iterator[Passage]:
    """Join the comments (line number, text, whole line) that are alone on consecutive lines."""
    passage, next_line = Passage(0, ""), -1
    for number, text, line in comments:
        alone = line.lstrip().startswith(("#", "//"))
        if alone and number == next_line:
            passage = passage._replace(text=f"{passage.text}\n{text}")
        else:
            yield passage
            passage = Passage(number, text)
        next_line = number + 1 if alone else -1
    yield passage


def _strings(tree: ast.AST) -> Iterator[Passage]:
    """Yield all strings: docstrings, messages and the constant parts of f-strings."""
    of_values = {id(node) for node in _descriptions(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Passage(node.lineno, node.value, id(node) in of_values)


def _descriptions(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the docstrings of properties and the arguments `description`, as of a pydantic field."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(d).endswith("property") for d in node.decorator_list):
            yield from (statement.value for statement in node.body[:1] if isinstance(statement, ast.Expr))
        elif isinstance(node, ast.keyword) and node.arg == "description":
            yield node.value


def _test_names(tree: ast.AST) -> Iterator[Passage]:
    """Yield the names of the tests as sentences."""
    for test in _test_functions(tree):
        yield Passage(test.lineno, test.name.removeprefix("test_").replace("_", " ").capitalize())


def _tests(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for test in _test_functions(tree):
        if len(test.name) > MAX_TEST_NAME:
            yield test.lineno, f"{test.name} has {len(test.name)} characters: at most {MAX_TEST_NAME}"
        if ast.get_docstring(test) is None:
            yield test.lineno, f"{test.name} has no docstring: state its claim"


def _test_functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
