"""No container runs here: what the files for containers name is held to the code."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docs" / "compose.yaml"
CONTAINER = (ROOT / "docs" / "Dockerfile").read_text()
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
OURS = {"TAPSTATE_HOME", "TAPSTATE_TOKEN", "OPENLINEAGE_URL"}


def helped(*command: str) -> str:
    """What a command says of itself; it fails where there is no such command."""
    return subprocess.run(
        [*command, "--help"], capture_output=True, text=True, check=True, env={"COLUMNS": "200", "PATH": "/usr/bin"}
    ).stdout


def test_the_image_has_what_its_build_needs() -> None:
    """Every package and file that the build reads is let through, and the extras that it installs exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    let = {line[1:] for line in (ROOT / "docs" / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")}
    assert let == packages | {"pyproject.toml", "constraints.txt", project["project"]["readme"]}
    assert all((ROOT / name).exists() for name in let)
    (extras,) = re.findall(r"/src\[(.*)\]", CONTAINER)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_names_what_there_is(name: str) -> None:
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields

    service, volumes = SERVICES[name], yaml.safe_load(COMPOSE.read_text())["volumes"]
    image = service["build"]
    assert (COMPOSE.parent / image["context"]).resolve() == ROOT
    assert (ROOT / image["dockerfile"]).read_text() == CONTAINER
    assert f"AS {image['target']}\n" in CONTAINER
    assert set(service["environment"]) <= OURS | set(_get_settings_fields(Settings))
    for volume in service["volumes"]:
        source, target, *_ = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume).split(":")
        # Data is whoever's who starts it; a volume lies where the image has made room for it.
        there = (COMPOSE.parent / source).is_dir() if source.startswith("./") else source in volumes and target in CONTAINER
        assert there or target == "/data"
    for path in service["environment"].values():
        assert not path.startswith("/") or any(volume.split(":")[1] == path for volume in service["volumes"])
    for other in service.get("depends_on", {}):
        assert other in SERVICES
    for port in service.get("ports", []):
        host, outside, inside = port.split(":")
        assert (host, outside) == ("127.0.0.1", inside)
        assert f"http://127.0.0.1:{inside}/" in service["healthcheck"]["test"]


@pytest.mark.slow
def test_each_command_exists() -> None:
    """The services', and those that the first lines tell to run."""
    programs = {"tapstate": "flows.cli", "prefect": "prefect"}
    told = re.findall(r"run --rm nightly (.*)", COMPOSE.read_text())
    assert len(told) == 4
    for line in [*(service["command"] for service in SERVICES.values()), *told]:
        program, *words = shlex.split(line)
        if program == "python":
            assert (ROOT / "docs" / words[0].lstrip("/")).is_file()
            continue
        options = [word for word in words if word.startswith("--")]
        command = words[: words.index(options[0])] if options else words
        command = [word for word in command if "/" not in word]
        said = helped(sys.executable, "-m", programs[program], *command)
        assert all(option in said for option in options), line
