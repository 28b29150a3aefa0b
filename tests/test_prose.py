"""The prose checks of `make lint`: which words they replace, and where they look for them."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tools.check_prose import check

ROOT = Path(__file__).parents[1]


class Place(NamedTuple):
    """A file with a gap for a sentence, and the line on which the sentence begins."""

    file_name: str
    template: str
    line: int
    line_break: str = "\n    "


DOCSTRING = Place("closing.py", 'def close() -> None:\n    """Release everything.\n\n    {}\n    """\n', 4)
COMMENT = Place("closing.py", "limit = 1\n\n# {}\nsize = 2\n", 3, "\n# ")
MESSAGE = Place("closing.py", 'def close(log, name):\n    log.warning(f"{}: {{name}}")\n', 2, '"\n        f"')
MARKDOWN = Place("closing.md", "# Closing\n\n- The pool closes\n- {}\n", 4)
each_place = pytest.mark.parametrize(
    "place", [DOCSTRING, COMMENT, MESSAGE, MARKDOWN], ids=["docstring", "comment", "message", "markdown"]
)


def run_checks(path: Path) -> str:
    """Check `path` as the two commands of `make lint` do, and return their findings. The second one takes long to start."""
    typos = [str(Path(sys.executable).with_name("typos")), "--config", "pyproject.toml", "--format", "brief", str(path)]
    return run(typos, findings_status=2) + "".join(f"{finding}\n" for finding in check(path))


def run(command: list[str], findings_status: int) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own commands
    assert done.stderr == ""
    assert done.returncode == (findings_status if done.stdout else 0)
    return done.stdout


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


@each_place
@pytest.mark.parametrize(
    ("sentence", "finding"),
    [
        ("The lock is free, whoever has it.", "`whoever` should be `the caller`"),
        ("Redis is told to close.", "`told` should be `reported or distinguished`"),
        ("The pool is asked for a connection.", "`asked for` should be `call, query or request`"),
        ("All connections are given back.", "`given back` should be `release`"),
        ("It has no end, for it ignores the deadline.", "`, for it` should be `because`"),
        ("The close hangs, were it not cancelled.", "`, were it` should be `if it is`"),
    ],
)
def test_unusual_word_is_reported(tmp_path: Path, place: Place, sentence: str, finding: str) -> None:
    """A finding names the file, the line, the word or phrase and the plain word."""
    path = write(tmp_path, place.file_name, place.template.format(sentence))

    found = run_checks(path)

    assert found.startswith(f"{path}:{place.line}:")
    assert found.endswith(f"{finding}\n")


@each_place
def test_plain_sentence_is_not_reported(tmp_path: Path, place: Place) -> None:
    """Ordinary English is accepted, also with "what" and "whether" inside a sentence, and as a question."""
    plain = "The log shows what failed and whether it was retried. What is a leak? They are all the same."

    assert run_checks(write(tmp_path, place.file_name, place.template.format(plain))) == ""


@each_place
def test_phrase_is_found_across_lines(tmp_path: Path, place: Place) -> None:
    """A phrase that a line break divides is reported at the line where it begins."""
    path = write(tmp_path, place.file_name, place.template.format(f"The pool lets {place.line_break}go"))

    assert run_checks(path) == f"{path}:{place.line}: `lets go` should be `release`\n"


@each_place
@pytest.mark.parametrize("opening", ["What", "Whether", "Who"])
def test_clause_as_opening_is_reported(tmp_path: Path, place: Place, opening: str) -> None:
    """No sentence begins with a clause, neither the first one of a passage nor a later one."""
    path = write(tmp_path, place.file_name, place.template.format(f"{opening} waits. It ends. {opening} waits."))

    found = run_checks(path).splitlines()

    assert len(found) == 2
    assert found[0].startswith(f"{path}:{place.line}: a sentence that begins with `{opening}` should")


def test_value_may_begin_with_whether(tmp_path: Path) -> None:
    """The description of a property or a field is about a value, while the docstring of a function begins with a verb."""
    code = 'class Pool:\n    {}def closed(self) -> bool:\n        """Whether it is closed."""\n'
    field = 'closed: bool = Field(description="Whether it is closed")\n'

    assert run_checks(write(tmp_path, "pool.py", code.format("@property\n    "))) == ""
    assert run_checks(write(tmp_path, "pool.py", field)) == ""
    assert "`Return whether`" in run_checks(write(tmp_path, "pool.py", code.format("")))


def test_identifiers_and_file_names_are_checked(tmp_path: Path) -> None:
    """Words are found in names of files, functions and classes."""
    path = write(tmp_path, "goodbye_pool.py", "def say_goodbye() -> None: ...\n\n\nclass LongGoodbye: ...\n")

    assert run_checks(path).lower().count("`goodbye` should be `graceful close`") == 3


def test_code_block_is_not_prose(tmp_path: Path) -> None:
    """Phrases and openings are accepted in a code block of a Markdown page."""
    path = write(tmp_path, "page.md", "```python\n# What is given back\n```\n\nAll of it is given back.\n")

    assert run_checks(path) == f"{path}:5: `given back` should be `release`\n"


@pytest.mark.parametrize(
    ("file_name", "text"),
    [
        ("Makefile", "open:  ## All connections are given back\n"),
        ("stack.yaml", "name: stack  # All connections are given back\n"),
        ("load.mjs", "// All connections are given back\n"),
    ],
)
def test_comment_of_another_file_is_checked(tmp_path: Path, file_name: str, text: str) -> None:
    """Comments are checked in build files, configuration and JavaScript, too."""
    path = write(tmp_path, file_name, text)

    assert run_checks(path) == f"{path}:1: `given back` should be `release`\n"


@pytest.mark.parametrize(
    "code",
    [
        "asked = True\n",
        "def load(asked: bool) -> None: ...\n",
        "class Asked: ...\n",
        "import requests as asked\n",
        "pool.asked = True\n",
    ],
)
def test_defined_name_is_checked(tmp_path: Path, code: str) -> None:
    """A name that a file defines is checked word by word, whatever kind of name it is."""
    found = run_checks(write(tmp_path, "pool.py", code))

    assert "should be `call, query, request or submit`" in found
    assert found.count("\n") == 1


def test_used_name_is_not_checked(tmp_path: Path) -> None:
    """The names of other libraries are accepted where they are used."""
    code = "from survey import asked\n\nprint(asked.within, asked(within=1))\n"

    assert run_checks(write(tmp_path, "pool.py", code)) == ""


def test_module_name_is_checked(tmp_path: Path) -> None:
    """The name of a Python file is a name that it defines."""
    path = write(tmp_path, "asked.py", "limit = 1\n")

    assert run_checks(path).startswith(f"{path}:1: `asked` in the name `asked` should be")


def test_test_name_is_a_sentence(tmp_path: Path) -> None:
    """Phrases and openings are found in the name of a test, whose underscores are spaces."""
    code = 'def test_what_is_given_back() -> None:\n    """It closes."""\n'
    path = write(tmp_path, "test_pool.py", code)

    assert run_checks(path).splitlines() == [
        f"{path}:1: `given back` should be `release`",
        f"{path}:1: a sentence that begins with `What` should begin with a noun",
    ]


@pytest.mark.parametrize("subject", ["The documentation", "[The page](page.md)", "RFC 9110", "The message"])
def test_document_may_say_something(tmp_path: Path, subject: str) -> None:
    """Documents say something, while a server reports it."""
    assert run_checks(write(tmp_path, "page.md", f"{subject} says so.\n")) == ""
    assert "`server says` should be `reports`" in run_checks(write(tmp_path, "page.md", "The server says so.\n"))


def test_command_fails_with_a_finding(tmp_path: Path) -> None:
    """The command prints all findings in a file and exits with status 1. Without one it prints nothing."""
    page = write(tmp_path, "page.md", "All connections are given back.\n")
    command = [sys.executable, "tools/check_prose.py", str(page)]

    assert run(command, findings_status=1) == f"{page}:1: `given back` should be `release`\n"
    page.write_text("All connections are released.\n")
    assert run(command, findings_status=1) == ""


def test_uncheckable_path_is_an_error(tmp_path: Path) -> None:
    """No path of the list in the Makefile goes unchecked: missing, without text, not UTF-8, not Python."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "plot.svg").touch()
    binary = tmp_path / "page.md"
    binary.write_bytes(b"\xff\xfe\x00")
    broken = write(tmp_path, "broken.py", "def open(:\n")

    assert "docs/none.md does not exist" in checking_error(Path("docs/none.md"))
    assert f"{tmp_path / 'empty'} has no text to check" in checking_error(tmp_path / "empty")
    assert f"{tmp_path / 'images'} has no text to check" in checking_error(tmp_path / "images")
    assert f"{binary} is not UTF-8 text" in checking_error(binary)
    assert f"{broken} is not Python: " in checking_error(broken)


def checking_error(path: Path) -> str:
    """Check a path that cannot be checked; return the message, which is one line."""
    command = [sys.executable, "tools/check_prose.py", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    return done.stderr


@pytest.mark.parametrize(
    ("code", "finding"),
    [
        (f'def test_{"x" * 46}() -> None:\n    """It closes."""\n', "has 51 characters: at most 50"),
        ("class TestPool:\n    async def test_close(self) -> None: ...\n", "has no docstring: state its claim"),
    ],
    ids=["long-name", "no-docstring"],
)
def test_name_and_docstring_of_tests(tmp_path: Path, code: str, finding: str) -> None:
    """A test has a name of at most 50 characters and a docstring."""
    assert run_checks(write(tmp_path, "test_pool.py", code)).endswith(f"{finding}\n")


def test_longest_test_name_is_accepted(tmp_path: Path) -> None:
    """A test with a name of 50 characters and a docstring of one line has no finding."""
    code = f'def test_{"x" * 45}() -> None:\n    """It closes."""\n'

    assert run_checks(write(tmp_path, "test_pool.py", code)) == ""
