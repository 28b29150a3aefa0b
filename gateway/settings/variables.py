"""The texts of the settings: environment variables that begin with `GATEWAY_`, and files of the same names.

Names are compared without regard to case. A variable has precedence over a file, and an empty one counts as not set.
Whitespace around a text is removed.
"""

import os
import re
import stat
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PREFIX = "GATEWAY_"
MAX_FILE_SIZE = 64 * 1024  # bytes

# Variables that are not settings: those of the development tools, and those that Kubernetes sets for a service whose name
# begins with `gateway`.
_TOOL_VARIABLES = frozenset({"GATEWAY_COMPOSE", "GATEWAY_DEVSTACK"})
_SERVICE_VARIABLE = re.compile(r".+_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


class InvalidSettingsError(Exception):
    """The settings cannot be used. The message has one line for each invalid variable, and none of the values."""


def variable_name(*path: str) -> str:
    """Return the variable that sets a value: ("redis", "url") is set by GATEWAY_REDIS__URL."""
    return PREFIX + "__".join(path).upper()


def read_texts(names: Collection[str], folder: Path) -> dict[str, str]:
    """Return the text of each variable of `names` that is set, by an environment variable or by a file in `folder`.

    A file is read only if it has one of the names, and if no variable sets the value.

    Raises:
        InvalidSettingsError: a file cannot be read, or a text is in quotes. The message has one line for each.
    """
    texts = {name: text for name, text in _variables().items() if _is_known(name, names)}
    problems = []
    for name, file in _files(folder).items():
        if _is_known(name, names) and name not in texts:
            try:
                text = _read_text(file)
            except ValueError as error:
                problems.append(f"{name}: the file {str(file)!r} {error}")
            else:
                texts |= {name: text} if text else {}
    problems += [
        f"{name}: the text is in quotes: remove them"
        for name, text in texts.items()
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    ]
    if problems:
        raise InvalidSettingsError("\n".join(sorted(problems)))
    return texts


def describe_unknown_names(names: Collection[str], folder: Path) -> list[str]:
    """Return a line for each variable and file whose name looks like one of a setting, but is none of `names`.

    A file whose path is in a variable has an effect, such as a certificate.
    """
    variables, files = _variables(), _files(folder)
    lines = [
        f"{name} has no effect: {_advice(name, names)}"
        for name, text in variables.items()
        if not _is_known(name, names) and not _is_of_another_program(name, text)
    ]
    lines += [
        f"the file {str(file)!r} has no effect: {_advice(name, names)}"
        for name, file in files.items()
        if not _is_known(name, names) and not any(str(file) in text for text in variables.values())
    ]
    try:
        list(folder.iterdir())
    except FileNotFoundError:
        pass
    except OSError as error:
        lines.append(f"the files in {str(folder)!r} have no effect: {_reason(error)}")
    return sorted(lines)


def _is_known(name: str, names: Collection[str]) -> bool:
    """Return whether a name is one of `names`, or the beginning of some: the JSON text of GATEWAY_REDIS sets the group."""
    return name in names or any(known.startswith(f"{name}__") for known in names)


def _variables() -> dict[str, str]:
    return _by_name((name, text.strip()) for name, text in os.environ.items() if text.strip())


def _files(folder: Path) -> dict[str, Path]:
    try:
        return _by_name((file.name, file) for file in folder.iterdir())
    except OSError:
        return {}


def _by_name(items: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return the items whose names begin with the prefix, by their names in upper case, which have precedence."""
    return {name.upper(): item for name, item in sorted(items, reverse=True) if name.upper().startswith(PREFIX)}


def _read_text(file: Path) -> str:
    """Read a file without waiting: opening a FIFO would wait for its writer.

    Raises:
        ValueError: it cannot be used. The message has the reason and what to do.
    """
    advice = "replace it with a text file, or remove it"
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise ValueError(f"is not a regular file: {advice}")
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_SIZE + 1)
    except FileNotFoundError:
        raise ValueError(f"is a link to a file that does not exist: {advice}") from None
    except PermissionError:
        raise ValueError("cannot be read: permission denied: make it readable for this user, or remove it") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {_reason(error)}: {advice}") from None
    if len(content) > MAX_FILE_SIZE:
        raise ValueError(f"is larger than {MAX_FILE_SIZE // 1024} KiB: {advice}")
    try:
        return content.decode("utf-8-sig").strip()  # some editors write a byte order mark
    except UnicodeDecodeError:
        raise ValueError(f"is not UTF-8 text: {advice}") from None


def _advice(name: str, names: Collection[str]) -> str:
    """Return what to do about an unknown name."""
    suffixes = [known.removeprefix(PREFIX) for known in names]
    nearest = get_close_matches(name.removeprefix(PREFIX), suffixes, n=1)
    return f"did you mean {PREFIX}{nearest[0]}?" if nearest else "no setting has this name"


def _is_of_another_program(name: str, text: str) -> bool:
    return (
        name in _TOOL_VARIABLES
        or _SERVICE_VARIABLE.fullmatch(name) is not None
        or _SERVICE_ADDRESS.match(text) is not None
    )


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
