"""Servers that stop answering, are killed, or are restarted, while we start and while we stop."""

import asyncio
import time
from contextlib import AsyncExitStack, ExitStack, suppress

import pytest

from gateway.app import create_app
from gateway.lifecycle import StartError, StartTimeoutError, TeardownError
from tests.end_to_end.running import ZURICH
from tests.faults.stage import Stage, live, living, with_setting

pytestmark = pytest.mark.usefixtures("census")

SERVERS = pytest.mark.parametrize("name", ["database", "redis", "rabbitmq"])


class TestAStart:
    @SERVERS
    async def test_at_a_server_that_does_not_answer_costs_its_deadline_and_no_more(
        self, stage: Stage, name: str
    ) -> None:
        impatient = with_setting(stage.settings, name, start_timeout=0.5, stop_timeout=0.5)
        app = create_app(impatient)
        began = time.monotonic()
        with stage.server(name).suspended(), pytest.raises(StartError) as caught:
            await live(app)

        assert time.monotonic() - began < 3
        assert caught.value.name == name
        assert isinstance(caught.value.__cause__, StartTimeoutError)
        await stage.proved(app.state.stack.journal, name, "startup", "SIGSTOP")
        await stage.lives(stage.settings, name, "restarted at once")

    @SERVERS
    async def test_at_a_server_that_is_killed_while_we_connect_waits_for_it(self, stage: Stage, name: str) -> None:
        patient = with_setting(stage.settings, name, start_timeout=60).model_copy(update={"startup_timeout": 60})
        server = stage.server(name)
        async with asyncio.TaskGroup() as group, AsyncExitStack() as mending:
            mending.enter_context(server.suspended())
            life = group.create_task(stage.lives(patient, name, "SIGKILL, and started again"))
            done, _ = await asyncio.wait({life}, timeout=0.3)
            assert not done
            await mending.enter_async_context(server.killed())

    @SERVERS
    async def test_that_is_cancelled_while_a_server_hangs_is_cancelled(self, stage: Stage, name: str) -> None:
        app = create_app(stage.settings)
        with stage.server(name).suspended():
            start = asyncio.create_task(live(app))
            await asyncio.wait({start}, timeout=0.3)
            start.cancel()
            with pytest.raises(asyncio.CancelledError):
                await start
        await stage.proved(app.state.stack.journal, name, "startup", "SIGSTOP, and cancelled")


class TestATeardown:
    @SERVERS
    async def test_with_a_server_that_stopped_answering_keeps_no_other_resource_open(
        self, stage: Stage, name: str
    ) -> None:
        impatient = with_setting(stage.settings, name, stop_timeout=0.5)
        server = stage.server(name)
        began = 0.0
        with ExitStack() as mending:
            with suppress(TeardownError):
                async with living(create_app(impatient)) as gateway:
                    await gateway.briefs.about(ZURICH)
                    mending.enter_context(server.suspended())
                    began = time.monotonic()
            took = time.monotonic() - began

        assert took < 2
        await stage.proved(gateway.journal, name, "teardown", "SIGSTOP")

    @SERVERS
    async def test_with_a_server_that_was_killed_is_clean(self, stage: Stage, name: str) -> None:
        server = stage.server(name)
        async with AsyncExitStack() as mending:
            async with living(create_app(stage.settings)) as gateway:
                await gateway.briefs.about(ZURICH)
                await mending.enter_async_context(server.killed())
                began = time.monotonic()
            took = time.monotonic() - began

        assert took < 2
        await stage.proved(gateway.journal, name, "teardown", "SIGKILL")

    @SERVERS
    async def test_with_a_server_that_was_restarted_is_clean(self, stage: Stage, name: str) -> None:
        async with living(create_app(stage.settings)) as gateway:
            await gateway.briefs.about(ZURICH)
            await stage.server(name).restart()
        await stage.proved(gateway.journal, name, "teardown", "restarted")
