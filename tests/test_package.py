"""The house: what is where, what imports what, what the wheel holds."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import networkx
import photochrom
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(photochrom.__file__).resolve().parent
FOLDERS = ("bench", "engine", "losses", "models", "pipelines", "recipes")
# The folders that each folder must not import from; a dotted name allows that module alone.
FORBIDDEN = {
    "pipelines": {"models", "losses", "engine", "bench"},
    "models": {"pipelines", "engine", "bench"},
    "losses": {"pipelines", "models", "engine", "bench"},
    "engine": {"bench"},
}
COMPILERS = "torch._dynamo torch._inductor numba"
ALLOWED = {"pipelines": {"losses.quantization"}}  # a set's statistics are those of the bins


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
    hidden = shutil.ignore_patterns(".git", ".venv", ".*_cache", "build", "demo", "*.egg-info", "__pycache__")
    source = shutil.copytree(ROOT, tmp_path / "source", symlinks=True, ignore=hidden)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("photochrom-*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kinds = ("*.py", "*.yaml", "*.html", "*.safetensors", "*.md")
    expected = {
        f"photochrom/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for kind in kinds
        for path in (ROOT / folder).rglob(kind)
    }
    assert names == expected | {f"photochrom/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}


def module_name(path: Path, root: Path = ROOT) -> str:
    """The dotted name of a module's file."""
    parts = ("photochrom", *path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path, root: Path = ROOT) -> Iterator[tuple[int, str, bool]]:
    """Line, absolute dotted name and laziness of each import from photochrom; lazy ones stand in a function."""
    tree = ast.parse(path.read_text())
    package = module_name(path, root) if path.name == "__init__.py" else module_name(path, root).rpartition(".")[0]
    lazy = {
        id(node)
        for scope in ast.walk(tree)
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(scope, ast.If) and "TYPE_CHECKING" in ast.unparse(scope.test))
        for node in ast.walk(scope)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names = [dynamic_name(node.args[0], package)] if node.args else []
        yield from ((node.lineno, name, id(node) in lazy) for name in names if name.split(".")[0] == "photochrom")


def dynamic_name(argument: ast.expr, package: str) -> str:
    """Returns the argument of import_module, up to the first part that is computed."""
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    text = str(argument.value) if isinstance(argument, ast.Constant) else ""
    return resolve_name(text or ".", package) if text.startswith(".") or not text else text


def forbidden_imports(folder: str, root: Path = ROOT) -> list[str]:
    return [
        f"{path.relative_to(root)}:{line} imports {name}"
        for path in sorted((root / folder).rglob("*.py"))
        for line, name, _ in imported_names(path, root)
        if (parts := name.split("."))[1:]
        and parts[1] in FORBIDDEN[folder]
        and ".".join(parts[1:3]) not in ALLOWED.get(folder, ())
    ]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_arrows_go_one_way(folder: str) -> None:
    assert forbidden_imports(folder) == []


@pytest.mark.parametrize(
    "line",
    [
        "from ...engine import cli",
        "import photochrom.engine.cli",
        "import_module('photochrom.engine.cli')",
        "import_module('...engine.cli', __package__)",
        "importlib.import_module(f'...engine.{name}', __package__)",
        "def later():\n    from ...engine.cli import main",
    ],
)
def test_an_arrow_that_goes_back_is_seen(line: str, tmp_path: Path) -> None:
    folder = tmp_path / "pipelines" / "loading"
    folder.mkdir(parents=True)
    (folder / "base.py").write_text(f"{line}\n")
    assert len(forbidden_imports("pipelines", tmp_path)) == 1


def test_docstrings_begin_with_what_they_return_or_do() -> None:
    questions = {"What", "Whether", "How", "Where", "Of", "From", "That", "Who", "Which"}
    for path in (path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = (ast.get_docstring(node) or "").split()
                assert not words or words[0].strip(",:") not in questions, f"{path}: {' '.join(words[:8])}"


def import_cycles(root: Path = ROOT) -> list[list[str]]:
    """Groups of modules that import each other when they are imported."""
    paths = {module_name(path, root): path for folder in FOLDERS for path in (root / folder).rglob("*.py")}
    graph = networkx.DiGraph()
    for module, path in paths.items():
        for _, name, lazy in imported_names(path, root):
            target = name if name in paths else name.rpartition(".")[0]
            if target in paths and target != module and not lazy:
                graph.add_edge(module, target)
    return [sorted(group) for group in networkx.strongly_connected_components(graph) if len(group) > 1]


def test_no_module_imports_another_in_a_circle() -> None:
    assert import_cycles() == []


def test_a_circle_is_seen(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one.py").write_text("from .two import b\n")
    (tmp_path / "models" / "two.py").write_text("from . import one\n")
    assert import_cycles(tmp_path) == [["photochrom.models.one", "photochrom.models.two"]]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("photochrom", "torch numpy nvidia kornia accelerate tensorboard"),
        ("photochrom.pipelines", "torch nvidia kornia accelerate tensorboard"),
        ("photochrom.pipelines.packing.process_image", "torch nvidia kornia accelerate tensorboard webdataset"),
        ("photochrom.pipelines.loading.dali_loader", f"{COMPILERS} nvidia kornia accelerate tensorboard scipy skimage"),
        ("photochrom.models", f"{COMPILERS} nvidia kornia accelerate tensorboard scipy skimage"),  # and its losses
        ("photochrom.engine.training.run", "nvidia kornia tensorboard matplotlib"),
        ("photochrom.engine.commands.evaluate", "torch nvidia kornia accelerate matplotlib"),
        ("photochrom.engine.cli", "torch nvidia kornia accelerate tensorboard"),
    ],
)
def test_importing_does_not_bring_what_it_does_not_need(module: str, absent: str) -> None:
    code = f"import sys, {module}; print(*(set('{absent}'.split()) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_type_checkers_elsewhere_know_the_package(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(
        "import photochrom\nfrom photochrom.pipelines import DaliLoader\n\n"
        "reveal_type(photochrom.load)\nreveal_type(DaliLoader.__iter__)\nphotochrom.nothing\n"
    )
    # Reading the libraries below us would take half a minute.
    libraries = ("torch", "numpy", "numba", "kornia", "nvidia", "accelerate", "matplotlib", "scipy", "yaml", "PIL")
    sections = "mypy-" + ",".join(f"{name}.*" for name in libraries)
    (tmp_path / "mypy.ini").write_text(f"[mypy]\n[{sections}]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "photochrom.engine.inference." in done.stdout, done.stdout
    assert "photochrom.pipelines.loading.batch.LabBatch" in done.stdout
    assert 'use.py:6: error: Module has no attribute "nothing"' in done.stdout
    assert "Found 1 error in 1 file" in done.stdout


def test_the_public_names() -> None:
    from photochrom import losses, pipelines

    assert "load" in dir(photochrom)

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


def test_the_lowest_versions_are_those_that_are_tested() -> None:
    lines = (ROOT / "constraints-lowest.txt").read_text().lower().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [names for extra, names in project["optional-dependencies"].items() if extra not in ("cuda12", "rivals")]
    requirements = [Requirement(text) for names in (project["dependencies"], *extras) for text in names]
    for name, bound in ((each.name.lower(), str(each.specifier)[2:]) for each in requirements if each.specifier):
        if name == "torch":  # a release that is no build for CPUs alone takes gigabytes
            bound = "2.13.0"
        assert Version(pins[name]) == Version(bound), f"constraints-lowest.txt pins {name} to {pins[name]}"
