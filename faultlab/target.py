"""What `package.module:name` names: an ASGI app, or a function that makes one."""

import importlib
import inspect
import sys
from collections.abc import Callable

from faultlab.asgi import App


class TargetError(Exception):
    """It names no app; why, in one line."""


def load(target: str) -> Callable[[], App]:
    """Import what is named. What comes back gives the app, a new one each time if there is a function that makes it.

    Raises:
        TargetError: there is no such thing, or it is no app.
    """
    module, _, path = target.partition(":")
    if "/" in target or "@" in target:  # it is not repeated: it may be an URL, with a password
        raise TargetError("what is tested is named package.module:name; this is a path, or an URL without --watch")
    if not module or not path:
        raise TargetError(f"{target!r} is not package.module:name")
    named = _named(_imported(module), module, path)
    if _takes(named, 3):
        return lambda: named
    if not _takes(named, 0):
        raise TargetError(f"{target} is no ASGI app: one takes a scope and two functions, receive and send")
    return lambda: _made(named, target)


def _imported(module: str) -> object:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module == missing or module.startswith(f"{missing}."):
            raise TargetError(f"there is no module {module} (looked for from the current folder)") from None
        raise TargetError(f"{module} imports {missing}, which there is not") from None
    except SystemExit as error:
        raise TargetError(f"{module} ends the process when it is imported: SystemExit({error.code!r})") from None
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no app
        raise TargetError(f"{module} cannot be imported: {_in_one_line(error)}") from None


def _named(there: object, module: str, path: str) -> "App":
    for name in path.split("."):
        try:
            there = getattr(there, name)
        except AttributeError:
            raise TargetError(f"{module} has no {path}") from None
        except Exception as error:  # noqa: BLE001 - a property raises whatever it likes
            raise TargetError(f"{module}:{path} cannot be had: {_in_one_line(error)}") from None
    if not callable(there):
        raise TargetError(f"{module}:{path} is no ASGI app: it is of type {type(there).__name__}")
    return there


def _made(factory: Callable[..., object], target: str) -> App:
    try:
        made = factory()
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no app
        raise TargetError(f"{target} makes no app: {_in_one_line(error)}") from None
    if not callable(made) or not _takes(made, 3):
        raise TargetError(
            f"{target} is no ASGI app, and returns none: what it returns is of type {type(made).__name__}"
        )
    return made


def _takes(named: Callable[..., object], count: int) -> bool:
    try:
        inspect.signature(named).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return count > 0  # something that does not tell, and is called
    return True


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
