"""The OpenAPI tells the truth: schemathesis sends what it allows and what it forbids, with every check that it has."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

from tests.end_to_end.conftest import Start

EXAMPLES = 20
"""How many requests of each kind an operation gets."""

KEY = "a-key-of-this-test"


async def test_no_request_gets_an_answer_that_the_openapi_does_not_tell(start: Start, tmp_path: Path) -> None:
    gateway = start("serve", "--port", "0", GATEWAY_API_KEYS=f'["{KEY}"]')
    url = await gateway.url()
    arguments = [
        f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
        "run",
        f"{url}/openapi.json",
        f"--header=Authorization: Bearer {KEY}",
        "--checks=all",
        "--mode=all",
        f"--max-examples={EXAMPLES}",
        "--seed=1",
        "--no-shrink",
        "--continue-on-failure",
        "--max-response-time=10",
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", *arguments, cwd=tmp_path, stdout=PIPE, stderr=STDOUT
    )
    try:
        async with asyncio.timeout(140):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, f"{output.decode()}\n{gateway.output[-2000:]}"
