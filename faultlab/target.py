"""Loads the app that `package.module:name` refers to: an ASGI app, or a function that returns one."""

import asyncio
import importlib
import inspect
import sys
from collections.abc import Callable

from .asgi import App


class TargetError(Exception):
    """The target is not an app. The message is one line."""


def load(target: str) -> Callable[[], App]:
    """Import the target and return a function that returns the app: a new one each time if the target is a factory.

    Raises:
        TargetError: the target does not exist, or is not an app.
    """
    module, _, path = target.partition(":")
    if "/" in target or "@" in target:  # not quoted in the message: it may be a URL with a password
        raise TargetError("the app must be given as package.module:name; this is a path, or a URL without --watch")
    if not module or not path:
        raise TargetError(f"{target!r} is not of the form package.module:name")
    found = _attribute(_import(module), module, path)
    if _accepts(found, 3):
        return lambda: found
    if not _accepts(found, 0):
        raise TargetError(f"{target} is not an ASGI app: it does not accept the arguments scope, receive and send")
    return lambda: _call_factory(found, target)


def _import(module: str) -> object:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module == missing or module.startswith(f"{missing}."):
            raise TargetError(f"no module named {module} (searched from the current folder)") from None
        raise TargetError(f"{module} imports {missing}, which is not installed") from None
    except SystemExit as error:
        raise TargetError(f"importing {module} ends the process: SystemExit({error.code!r})") from None
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - an import may raise anything
        raise TargetError(f"importing {module} fails: {_one_line(error)}") from None


def _attribute(owner: object, module: str, path: str) -> App:
    for name in path.split("."):
        try:
            owner = getattr(owner, name)
        except AttributeError:
            raise TargetError(f"{module} has no attribute {path}") from None
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a property may raise anything
            raise TargetError(f"reading {module}:{path} fails: {_one_line(error)}") from None
    if not callable(owner):
        raise TargetError(f"{module}:{path} is not an ASGI app: its type is {type(owner).__name__}")
    return owner


def _call_factory(factory: Callable[..., object], target: str) -> App:
    try:
        app = factory()
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a factory may raise anything
        raise TargetError(f"{target} fails to return an app: {_one_line(error)}") from None
    if not callable(app) or not _accepts(app, 3):
        raise TargetError(f"{target} is not an ASGI app and does not return one: it returns a {type(app).__name__}")
    return app


def _accepts(function: Callable[..., object], arguments: int) -> bool:
    """Return whether the function can be called with so many positional arguments."""
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:
        return arguments > 0  # no signature available: treat it as an app
    return True


def _one_line(error: BaseException) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
