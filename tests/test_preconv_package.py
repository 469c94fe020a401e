"""The layer as a package of its own: installed, copied, and beside a user's own packages of our packages' names."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import models
from tests.conftest import ROOT

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
USE = """
import sys
sys.modules["numpy"] = None  # torch does without it, and so must the layer
import torch
import models, utils
from {package} import ConvNormBatchNorm, PreConv2d, __version__, convert_conv_norm

assert models.MINE and utils.MINE, "a user's packages are replaced"
assert not any(name in sys.modules for name in ("pydantic", "parse_config", "models.preconv", "trainer"))
torch.manual_seed(0)
layer = ConvNormBatchNorm(PreConv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4))
fast = PreConv2d(4, 4, 3, stride=2, padding=1, method="matmul")
plain = PreConv2d(4, 4, 3, stride=2, padding=1, method="fft")
plain.load_state_dict(fast.state_dict())
images = layer(torch.randn(2, 3, 16, 16))
for layers in ((fast, plain), (fast.eval(), plain.eval())):
    first, second = (layer(images) for layer in layers)
    assert torch.allclose(first, second, atol=1e-4)
first.sum().backward()
assert torch.isfinite(layer[0].weight.grad).all()
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
assert convert_conv_norm(network, keep_batch_norm=False).converted == {{"0": "1"}}
print(PreConv2d.__module__, __version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install .` installs, built offline from a copy of what the build reads and must leave alone."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py"):
        shutil.copy(ROOT / name, source)
    for name in ("models", "utils"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-w", str(built)]
    subprocess.run([*PIP, "wheel", str(source), *options], check=True, capture_output=True, timeout=300)
    (path,) = built.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-index", "--no-compile", "--target", str(folder)]
    subprocess.run([*PIP, "install", *options, str(wheel)], check=True, capture_output=True, timeout=300)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project, with packages of the names that this framework's have."""
    for name in ("models", "utils"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    return tmp_path


def use(project: Path, package: str, path: Path, program: str = USE) -> list[str]:
    """Train and evaluate with `package` in a process of the project's own; the module of the class, and the version."""
    (project / "use.py").write_text(program.format(package=package))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=project, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_wheel_holds_the_layer_alone_and_wants_torch_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if ".dist-info/" not in name]
        (about,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
        assert any(name.endswith("/licenses/LICENSE") for name in archive.namelist())
    layer = [path.name for path in (ROOT / "models").glob("preconv*.py") if "published" not in path.name]
    assert sorted(files) == sorted(
        f"convnorm/{name}" for name in ("__init__.py", "convert.py", "normed.py", "pointwise.py", *layer)
    )
    head = about.partition("\n\n")[0].splitlines()
    assert [line for line in head if line.startswith("Requires-Dist")] == ["Requires-Dist: torch>=2.10"]
    assert {"Name: convnorm", f"Version: {models.__version__}", "License-Expression: MIT"} <= set(head)


@pytest.mark.slow
def test_the_installed_layer_works_beside_a_user_s_packages(installed: Path, project: Path) -> None:
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"convnorm"}
    assert use(project, "convnorm", installed) == ["convnorm.preconv", models.__version__]


@pytest.mark.slow
def test_a_copied_folder_works_beside_all_others(installed: Path, project: Path) -> None:
    """Also in one process with the installed package: each has operators of its own."""
    shutil.copytree(ROOT / "models", project / "borrowed" / "norm", ignore=shutil.ignore_patterns("__pycache__"))
    program = USE + (
        "from convnorm import PreConv2d as Other\n"
        "for kind in (Other, PreConv2d):\n"
        "    layer = kind(4, 4, 3, method='matmul')\n"
        "    layer(torch.randn(2, 4, 16, 16)).sum().backward()\n"
        "    assert layer.weight.grad.abs().sum() > 0\n"
    )
    assert use(project, "borrowed.norm", installed, program) == ["borrowed.norm.preconv", models.__version__]
