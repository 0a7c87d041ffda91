"""The house: what is where, what imports what, what the wheel holds."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import photochrom
import pytest

ROOT = Path(photochrom.__file__).parent
FOLDERS = ("bench", "engine", "losses", "models", "pipelines", "recipes")
FORBIDDEN = {
    "pipelines": {"models", "losses", "engine", "bench"},
    "models": {"pipelines", "engine", "bench"},
    "losses": {"pipelines", "models", "engine", "bench"},
    "engine": {"bench"},
}


def packages() -> set[str]:
    """Every folder of the package that holds modules, by its dotted name."""
    folders = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    return {"photochrom", *(".".join(("photochrom", *folder.relative_to(ROOT).parts)) for folder in folders)}


def test_the_package_list_is_that_of_the_folders() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(packages())


def test_only_two_modules_stand_at_the_root() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_the_wheel_holds_every_module_and_nothing_else(tmp_path: Path) -> None:
    # From a copy: setuptools builds in the tree, and would pick up what an older build has left there.
    hidden = shutil.ignore_patterns(".*", "build", "demo", "*.egg-info", "__pycache__")
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=hidden)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("photochrom-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kinds = ("*.py", "*.yaml", "*.html")
    expected = {
        f"photochrom/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for kind in kinds
        for path in (ROOT / folder).rglob(kind)
    }
    assert names == expected | {"photochrom/__init__.py", "photochrom/__main__.py"}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_arrows_go_one_way(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                # Where a relative import leads: as many steps up as it has dots, then down again.
                base = ["photochrom", *path.relative_to(ROOT).parts[:-1]]
                above = base[: len(base) - node.level + 1] if node.level else []
                module = [*above, *(node.module or "").split(".")] if node.module else above
                targets = [[*module, alias.name] for alias in node.names]
            elif isinstance(node, ast.Import):
                targets = [alias.name.split(".") for alias in node.names]
            else:
                continue
            for root, name, *_ in (target for target in targets if len(target) > 1):
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert root != "photochrom" or name not in FORBIDDEN[folder], f"{where} imports {name}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("photochrom", "torch numpy nvidia kornia accelerate tensorboard"),
        ("photochrom.pipelines", "torch nvidia kornia accelerate tensorboard"),
        ("photochrom.pipelines.photograph", "torch nvidia kornia accelerate tensorboard webdataset"),
        ("photochrom.pipelines.dali", "nvidia kornia accelerate tensorboard"),
        ("photochrom.models", "nvidia kornia accelerate tensorboard skimage"),
        ("photochrom.losses", "nvidia kornia accelerate tensorboard"),
        ("photochrom.engine.run", "nvidia kornia tensorboard matplotlib"),
        ("photochrom.engine.cli", "torch nvidia kornia accelerate tensorboard"),
    ],
)
def test_importing_does_not_bring_what_it_does_not_need(module: str, absent: str) -> None:
    code = f"import sys, {module}; print(*(set('{absent}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_public_names() -> None:
    from photochrom import losses, pipelines

    assert callable(photochrom.load)
    assert losses.ab_bins().shape == (313, 2)
    for name in ("ShardSet", "DaliLoader", "LabBatch", "pack"):
        assert callable(getattr(pipelines, name))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        photochrom.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        pipelines.nothing  # noqa: B018


def test_the_tested_versions_are_pinned() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    extras = [name for name in extras if not name.startswith("photochrom[")]
    for requirement in [*project["dependencies"], *extras]:
        name = requirement.split(">=")[0].split("==")[0].split("[")[0].lower()
        assert name in {pin.lower().replace("_", "-") for pin in pins}, f"constraints.txt does not pin {name}"
    assert pins["torch"] == "2.13.0"
