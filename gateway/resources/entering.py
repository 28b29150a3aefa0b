"""Putting resources on the stack."""

from typing import TypeVar

from gateway.lifecycle import LifecycleStack
from gateway.resources.base import Resource

T = TypeVar("T")

TEARDOWN_SHARE = 0.9
"""How much of the whole stop there is to release everything politely; the rest is for letting go of what is left."""


async def enter(stack: LifecycleStack, resource: Resource[T]) -> T:
    """Enter a resource under its name, with its deadlines, the way to let go of it by force, and its health check."""
    return await stack.enter(
        resource.name,
        resource.open(),
        start_timeout=resource.settings.start_timeout,
        stop_timeout=resource.settings.stop_timeout,
        abort=resource.abort,
        check=resource.check,
    )
