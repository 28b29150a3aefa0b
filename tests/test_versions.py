"""The versions that CI, the image and the compose stack name."""

import re
from typing import Any

import yaml

from tests.support.project import PROJECT, ROOT, supported_pythons


def workflow() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    return parsed


def pinned_images() -> dict[str, str]:
    """Return the base images with exact versions, by their variables."""
    return dict(re.findall(r"^(\w+)=(\S+)$", (ROOT / "deploy" / "images.env").read_text(), re.MULTILINE))


def default_images() -> dict[str, str]:
    """Return the base images that the stack uses without these variables."""
    return dict(re.findall(r"\$\{(STACK_\w+_IMAGE):-(\S+?)\}", (ROOT / "compose.yaml").read_text()))


def test_ci_runs_every_supported_python() -> None:
    """CI runs the checks on each Python that the package allows; the last one is exactly that of the image."""
    runs = workflow()["jobs"]["checks"]["strategy"]["matrix"]["include"]
    versions = [run["python"] for run in runs]
    shipped = pinned_images()["STACK_PYTHON_IMAGE"].removeprefix("python:").removesuffix("-slim")

    assert [version.rpartition(".")[0] for version in versions] == supported_pythons()
    assert PROJECT["requires-python"] == f">={supported_pythons()[0]}"
    assert versions[-1] == shipped
    assert len({run["debian"] for run in runs}) > 1


def test_ci_runs_the_checks_of_a_merge() -> None:
    """CI makes the same targets as `.ci/run`, one after the other."""
    steps = workflow()["jobs"]["checks"]["steps"]
    commands = (ROOT / ".ci" / "run").read_text().splitlines()

    assert [step["run"] for step in steps if "run" in step] == [line for line in commands if line.startswith("make ")]


def test_base_images_have_patch_versions() -> None:
    """Each pinned image has a version that names one release of the program. It is a release of the default version."""
    version = re.compile(
        r"(postgres:\d+\.\d+|(haproxy|python|rabbitmq|redis|grafana/otel-lgtm):\d+\.\d+\.\d+)(-\w+)?(@sha256:[0-9a-f]{64})?"
    )

    pinned, default = pinned_images(), default_images()
    assert [image for image in pinned.values() if not version.fullmatch(image)] == []
    assert pinned.keys() == default.keys()
    assert all(
        pinned[name] == image or pinned[name].startswith(image.partition("-")[0] + ".")
        for name, image in default.items()
    )
    assert f"ARG PYTHON_IMAGE={default['STACK_PYTHON_IMAGE']}\n" in (ROOT / "Dockerfile").read_text()


def test_actions_are_pinned_to_commits() -> None:
    """CI uses actions of fixed commits only, and may only read the repository."""
    jobs = workflow()["jobs"].values()
    actions = {step["uses"] for job in jobs for step in job["steps"] if "uses" in step}

    assert actions
    assert [action for action in actions if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)] == []
    assert workflow()["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] for job in jobs)
