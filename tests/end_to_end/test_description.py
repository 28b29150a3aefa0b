"""The OpenAPI description matches the API: schemathesis sends valid and invalid requests, and applies all its checks."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from tests.end_to_end.conftest import StartProcess

MAX_EXAMPLES = 12  # per operation and kind of request
MAX_RESPONSE_TIME = 10
RUN_TIMEOUT = 140
API_KEY = "a-key-of-this-test"
OPERATOR_KEY = "another-key-of-this-test"


async def test_responses_match_the_description(start: StartProcess, tmp_path: Path) -> None:
    """The OpenAPI description allows the status, the headers and the body of each response to a valid or invalid request."""
    keys = {"GATEWAY_API_KEYS": f'["client:{API_KEY}"]', "GATEWAY_OPERATOR_KEYS": f'["operator:{OPERATOR_KEY}"]'}
    gateway = start("serve", "--port", "0", **keys)
    url = await gateway.url()
    arguments = [
        f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
        "run",
        f"{url}/openapi.json",
        "--checks=all",
        "--mode=all",
        f"--max-examples={MAX_EXAMPLES}",
        "--seed=1",
        "--no-shrink",
        "--continue-on-failure",
        f"--max-response-time={MAX_RESPONSE_TIME}",
    ]
    environment = os.environ | {"API_KEY": API_KEY, "OPERATOR_KEY": OPERATOR_KEY}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", *arguments, cwd=tmp_path, env=environment, stdout=PIPE, stderr=STDOUT
    )
    try:
        async with asyncio.timeout(RUN_TIMEOUT):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()

    assert process.returncode == 0, f"{output.decode()}\n{gateway.output[-2000:]}"
