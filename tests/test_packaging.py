"""A real wheel, built and installed: it holds what it should, and installing it enables the extension."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import jupyter_tfserve

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # The build's Node and jlpm are beside this Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def fresh_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new virtual environment with our wheel; what we depend on it borrows from this one."""
    venv = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--no-deps",
        "--ignore-installed",
    ]
    subprocess.run([*install, "--prefix", venv, wheel], check=True)
    python = venv / "bin" / "python"
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    # Paths from a .pth come last, and a .pth that lies in them, as of an editable install, is not read.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python: Path, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a fresh environment's Python, away from the checkout, with an empty home."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "PYTHON"))}
    return subprocess.run(
        [python, *arguments],
        cwd=home,
        env={**environment, "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        timeout=60,
    )


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    data = f"jupyter_tfserve-{jupyter_tfserve.__version__}.data/data"
    information = f"jupyter_tfserve-{jupyter_tfserve.__version__}.dist-info"
    assert f"{data}/etc/jupyter/jupyter_server_config.d/jupyter_tfserve.json" in names
    assert f"{information}/licenses/LICENSE" in names
    packaged = {name for name in names if name.startswith("jupyter_tfserve/")}
    assert {name.partition("/")[0] for name in set(names) - packaged} == {data.partition("/")[0], information}
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "jupyter_tfserve").rglob("*")
        if path.suffix in (".py", ".yaml", ".typed", ".proto") or path.name == "py.typed"
    }
    assert there <= packaged
    assert not [name for name in packaged if name.endswith((".pyc", ".json"))]


def test_the_labextension_has_the_version_of_the_package() -> None:
    assert json.loads((ROOT / "labextension" / "package.json").read_text())["version"] == jupyter_tfserve.__version__


def test_installing_the_wheel_enables_the_extension(fresh_python: Path, tmp_path: Path) -> None:
    listed = run(fresh_python, "-m", "jupyter_server", "extension", "list", home=tmp_path).stdout
    ours = re.search(r"Config dir: (\S+)\n(?:(?!Config dir).*\n)*?.*jupyter_tfserve.*enabled", listed)
    assert ours, listed
    assert Path(ours[1]) == fresh_python.parents[1] / "etc" / "jupyter"
    assert re.search(rf"jupyter_tfserve {re.escape(jupyter_tfserve.__version__)}.*OK", listed), listed


def test_installing_the_wheel_enables_the_sidebar(wheel: Path, fresh_python: Path, tmp_path: Path) -> None:
    """JupyterLab finds the bundle; nobody needs Node or a build of Lab."""
    shared = fresh_python.parents[1] / "share" / "jupyter" / "labextensions"
    listed = run(fresh_python, "-m", "jupyterlab.labextensions", "list", home=tmp_path).stdout
    assert re.search(rf"jupyter_tfserve v{re.escape(jupyter_tfserve.__version__)}.*enabled.*OK", listed), listed
    assert str(shared) in listed
    installed = {path.relative_to(shared / "jupyter_tfserve").as_posix() for path in shared.rglob("*.*")}
    assert {"package.json", "install.json", "schemas/jupyter_tfserve/plugin.json", "static/style.js"} <= installed
    assert [path for path in installed if path.startswith("static/remoteEntry.")]


def test_the_fresh_environment_runs_the_wheel_not_the_checkout(fresh_python: Path, tmp_path: Path) -> None:
    told = run(fresh_python, "-c", "import jupyter_tfserve; print(jupyter_tfserve.__file__)", home=tmp_path).stdout
    assert Path(told.strip()).is_relative_to(fresh_python.parents[1])


def test_the_command_is_installed(fresh_python: Path, tmp_path: Path) -> None:
    assert (fresh_python.parent / "tfserve").exists()
    told = run(fresh_python, "-m", "jupyter_tfserve.model_server", "--help", home=tmp_path).stdout
    assert "--rest_api_port" in told
    assert (fresh_python.parent / "jupyter-tfserve").exists()
    told = run(fresh_python, "-m", "jupyter_tfserve.cli", "hub-config", home=tmp_path).stdout
    assert "custom:jupyter_server:execute:jupyter_tfserve:inference" in told


def test_importing_the_package_is_cheap(fresh_python: Path, tmp_path: Path) -> None:
    code = "import sys, jupyter_tfserve; print(*sys.modules)"
    modules = set(run(fresh_python, "-c", code, home=tmp_path).stdout.split())
    assert not modules & {"tensorflow", "numpy", "tornado", "jupyter_server", "IPython", "httpx"}


#: Modules whose distribution has another name.
DISTRIBUTIONS = {
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "pynvml": "nvidia-ml-py",
    "simdjson": "pysimdjson",
    "tensorflow_serving": "tensorflow-serving-api",
}

#: What we import and leave to a dependency to bring, because it cannot do without.
BROUGHT_BY = {
    "flatbuffers": "tensorflow",
    "google": "tensorflow",
    "ml_dtypes": "tensorflow",
    "numpy": "tensorflow",
    "jupyter_core": "jupyter-server",
    "jupyter_events": "jupyter-server",
    "traitlets": "jupyter-server",
    "IPython": "ipywidgets",
    "ipykernel": "",  # only where it is running already
}


def imported() -> set[str]:
    """The top-level modules that the package imports and that are neither its own nor Python's."""
    names = set()
    for path in (ROOT / "jupyter_tfserve").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"jupyter_tfserve"}


def declared() -> set[str]:
    """The distributions that the package or its extras `tensorflow` and `lite` require."""
    text = (ROOT / "pyproject.toml").read_text()
    runtime = text[text.index("dependencies = [") : text.index("test = [")]
    return set(re.findall(r'^    "([\w-]+)', runtime, flags=re.MULTILINE)) - {"jupyter-tfserve"}


def test_everything_imported_is_declared_and_the_other_way_round() -> None:
    needed = {BROUGHT_BY.get(name, DISTRIBUTIONS.get(name, name.replace("_", "-"))) for name in imported()} - {""}
    assert needed == declared()


def test_every_dependency_says_why_it_is_there() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    runtime = text[text.index("dependencies = [") : text.index("test = [")]
    listed = [line for line in runtime.splitlines() if line.startswith('    "')]
    assert listed
    assert [line for line in listed if "  # " not in line] == []
