"""What a release is made of: packages, image, compose file and workflows hold what they must."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from sdsd import __version__, config
from sdsd.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PYTHONS = {
    found.group(1)
    for name in PROJECT["classifiers"]
    if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", name))
}
UNPACKED = {".gitignore", ".ci"}
"""What is tracked and of no use in a source distribution."""


def tracked(folder: str = ".") -> set[str]:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", folder]
    found = subprocess.run(listed, cwd=ROOT, capture_output=True, check=False, text=True)
    if found.returncode:
        pytest.skip("not a checkout")
    return {name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()}


# -- packages ------------------------------------------------------------------------------


def test_the_wheel_has_the_package_and_nothing_else(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    assert Path(built).name == f"sdsd-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(built) as wheel:
        names = set(wheel.namelist())
        told = wheel.read(f"sdsd-{__version__}.dist-info/METADATA").decode()
        scripts = wheel.read(f"sdsd-{__version__}.dist-info/entry_points.txt").decode()
    info = {name for name in names if name.startswith(f"sdsd-{__version__}.dist-info/")}
    assert names - info == {name.removeprefix("src/") for name in tracked("src/sdsd")}
    assert f"sdsd-{__version__}.dist-info/licenses/LICENSE" in info
    assert {"sdsd/py.typed", "sdsd/demo/config.yaml", "sdsd/pipeline/prompts/plan.md"} <= names
    assert "sdsd = sdsd.cli.app:main" in scripts
    extras = re.findall(r"^Provides-Extra: (.+)$", told, re.MULTILINE)
    assert sorted(extras) == sorted(PROJECT["optional-dependencies"])


def test_the_source_distribution_can_be_tested_and_built_from(tmp_path: Path) -> None:
    from hatchling.builders.sdist import SdistBuilder

    (built,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(built) as source:
        names = {m.name.partition("/")[2] for m in source.getmembers() if m.isfile()}
    wanted = {name for name in tracked() if name.partition("/")[0] not in UNPACKED}
    assert wanted - names == set()
    assert names - wanted <= {"PKG-INFO", ".gitignore"}


# -- the image -----------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(head, rest) for head, _, rest in (line.partition(" ") for line in lines)]


def arguments(name: str) -> list[str]:
    return [rest for head, rest in instructions() if head == name]


def in_context(path: str) -> bool:
    """Whether Docker sends a file, by the lines of `.dockerignore` that are used there."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            parts = [part.as_posix() for part in (Path(path), *Path(path).parents)]
            if any(fnmatch.fnmatch(part, pattern) for part in parts):
                sent = line.startswith("!")
    return sent


def test_the_image_copies_what_is_there() -> None:
    copied = [rest.split() for rest in arguments("COPY") if not rest.startswith("--from")]
    names = [name for *sources, _ in copied for name in sources]
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "src"} <= {*names}
    for name in names:
        assert (ROOT / name).exists(), name
        assert in_context(name), name
    for private in ("runs/mine/config.yaml", ".env", ".git/config", "src/sdsd/__pycache__/a.pyc"):
        assert not in_context(private), private


def test_the_image_installs_extras_that_exist_on_a_python_that_is_tested() -> None:
    extras = {e for rest in arguments("ARG") for e in rest.removeprefix("EXTRAS=").split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])
    images = {rest.split()[0] for rest in arguments("FROM")}
    assert len(images) == 1
    (python,) = re.findall(r"\Apython:(3\.\d+)-slim\Z", images.pop())
    assert python in PYTHONS
    for line in arguments("RUN"):
        subprocess.run(["bash", "-n", "-c", line], check=True)


def test_the_image_runs_sdsd_and_not_as_root() -> None:
    heads = [head for head, _ in instructions()]
    assert heads.index("USER") > len(heads) - heads[::-1].index("RUN") - 1
    assert arguments("USER") == ["1000"]
    assert any("useradd" in line and "--uid 1000" in line for line in arguments("RUN"))
    (entry,), (usual,) = arguments("ENTRYPOINT"), arguments("CMD")
    assert yaml.safe_load(entry) == [next(iter(PROJECT["scripts"]))]
    assert yaml.safe_load(usual) == ["--help"]


# -- compose -------------------------------------------------------------------------------


def interpolated(node: Any) -> Any:
    """The file as compose reads it where no variable is set."""
    if isinstance(node, dict):
        return {key: interpolated(value) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolated(value) for value in node]
    if isinstance(node, str):
        return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", node)
    return node


@pytest.fixture
def services() -> dict[str, Any]:
    text = (ROOT / "compose.yaml").read_text("utf-8")
    found: dict[str, Any] = interpolated(yaml.safe_load(text))["services"]
    assert "$" not in yaml.safe_dump(found)
    return found


def flags(command: list[str]) -> dict[str, str]:
    return dict(part.removeprefix("--").partition("=")[::2] for part in command if part[:2] == "--")


def mounts(service: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for volume in service["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            yield source, target


def test_the_run_waits_until_the_server_is_healthy(services: dict[str, Any]) -> None:
    server, run = services["vllm"], services["sdsd"]
    assert run["depends_on"] == {"vllm": {"condition": "service_healthy"}}
    head, program, option, code = server["healthcheck"]["test"]
    assert (head, program, option) == ("CMD", "python3", "-c")
    compile(code, "healthcheck", "exec")
    (asked,) = re.findall(r"http://[^']+", code)
    assert urlsplit(asked).port == int(flags(server["command"])["port"])
    assert urlsplit(asked).path == "/health"
    assert ":" in server["image"], "a release, not whatever is latest"
    for name in run["user"].split(":"):
        assert int(name) > 0


def test_the_command_is_one_and_its_configuration_is_accepted(services: dict[str, Any]) -> None:
    server, run = services["vllm"], services["sdsd"]
    assert (ROOT / run["build"] / "Dockerfile").is_file()
    where = {target: ROOT / source for source, target in mounts(run)}
    root: Any = typer.main.get_command(app)
    name, *given = run["command"]
    context = root.commands[name].make_context(name, list(given))
    (work,) = arguments("WORKDIR")[-1:]
    path = where[f"{work}/{given[0]}"]
    chosen = config.load(path)
    model = chosen.models["default"]
    address = urlsplit(model.urls[0])
    assert services[str(address.hostname)] is server
    assert address.port == int(flags(server["command"])["port"])
    assert model.model == context.params["model"] == flags(server["command"])["model"]
    written = Path(work, context.params["out"])
    assert any(written.is_relative_to(target) for target in where)


# -- workflows -----------------------------------------------------------------------------

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(path.read_text("utf-8"))["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_is_there(path: Path) -> None:
    told = yaml.safe_load(path.read_text("utf-8"))
    assert told["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in told["jobs"].values())
    for step in steps(path):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", step.get("uses", "a/b@v1"))
        if line := step.get("run"):
            plain = re.sub(r"\$\{\{.*?\}\}", "", line)
            subprocess.run(["bash", "-n", "-c", plain], check=True)
            for word in shlex.split(plain):
                if word.startswith("scripts/"):
                    assert (ROOT / word).is_file(), word


def test_every_python_that_is_promised_is_tested() -> None:
    told = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    matrix = told["jobs"]["test"]["strategy"]["matrix"]["include"]
    assert {row["python"] for row in matrix} == PYTHONS
    lanes = {row["lane"] for row in matrix}
    script = (ROOT / "scripts" / "test").read_text("utf-8")
    assert all(not lane or lane in script for lane in lanes)
    assert any(not row["lane"] for row in matrix), "the whole suite, somewhere"


def test_a_release_is_checked_before_it_is_published() -> None:
    (path,) = [path for path in WORKFLOWS if path.stem == "release"]
    told = yaml.safe_load(path.read_text("utf-8"))
    assert told[True] == {"push": {"tags": ["v*"]}}, "`on`, as YAML reads it"
    done = [step.get("run", step.get("uses", "")) for step in steps(path)]
    published = next(k for k, what in enumerate(done) if "pypi-publish" in what)
    for check in ("scripts/test", "twine check --strict", "GITHUB_REF_NAME#v"):
        assert any(check in what for what in done[:published]), check
