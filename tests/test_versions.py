"""The versions that CI, the image and the compose stack name."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


def workflow() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    return parsed


def base_images() -> list[str]:
    """Return the images that the Dockerfile builds on and that the stack pulls."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    pulled = {service["image"] for service in services} - {"gateway"}
    return [*pulled, *re.findall(r"^FROM (\S+:\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)]


def test_ci_runs_the_oldest_and_the_shipped_python() -> None:
    """CI runs the checks on the oldest Python that the package allows, and on exactly the version of the image."""
    versions = workflow()["jobs"]["checks"]["strategy"]["matrix"]["python"]
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    shipped = {image.removeprefix("python:").removesuffix("-slim") for image in base_images() if "python:" in image}

    assert len(shipped) == 1
    assert versions[0].startswith(f"{oldest}.")
    assert versions[1:] == [*shipped]


def test_base_images_have_patch_versions() -> None:
    """Each base image has a version that names one release of the program, so that a build changes only with the repository."""
    version = re.compile(
        r"(postgres:\d+\.\d+|(haproxy|python|rabbitmq|redis):\d+\.\d+\.\d+)(-\w+)?(@sha256:[0-9a-f]{64})?"
    )

    assert [image for image in base_images() if not version.fullmatch(image)] == []


def test_actions_are_pinned_to_commits() -> None:
    """CI uses actions of fixed commits only, and may only read the repository."""
    jobs = workflow()["jobs"].values()
    actions = {step["uses"] for job in jobs for step in job["steps"] if "uses" in step}

    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)] == []
    assert workflow()["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] for job in jobs)
