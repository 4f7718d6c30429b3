"""The house rules: who may import whom, what the wheel holds, what light imports stay light."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ALLOWED = {
    "isae": set(),
    "kernels": {"isae"},
    "store": {"isae", "kernels"},
    "train": {"isae", "kernels", "store"},
    "analysis": {"isae", "kernels", "store", "train"},
    "benchmarks": {"isae", "kernels", "store", "train", "analysis"},
}
ROOMS = set(ALLOWED) - {"isae"}


def sources(repository: Path, room: str) -> list[Path]:
    return [
        path
        for path in sorted((repository / room).rglob("*.py"))
        if room != "isae" or path.relative_to(repository / room).parts[0] not in ROOMS
    ]


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] in ROOMS | {"tests"}:
        return parts[0]
    if parts[0] != "isae":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "isae"


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_go_one_way(repository: Path, room: str) -> None:
    files = sources(repository, room)
    assert files
    for path in files:
        for name in imported_names(path):
            target = room_of(name)
            allowed = ALLOWED[room] | {room}
            assert target is None or target in allowed, f"{path} imports {name}"
            assert name.split(".")[0] not in ROOMS, f"{path}: import isae.{name}, not {name}"


def test_the_rule_sees_a_wrong_import(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("def f():\n    from isae.train import SAE\n")
    assert {room_of(name) for name in imported_names(tmp_path / "x.py")} == {"train"}


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_kernels_import_with_torch_triton_and_numpy_alone(repository: Path, tmp_path: Path) -> None:
    """In a site folder that has every installed package but the other direct dependencies."""
    owners = importlib.metadata.packages_distributions()
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    direct = {re.split(r"[^a-z]", wanted)[0] for wanted in project["dependencies"]}
    absent = direct - {"torch", "triton", "numpy"}
    assert {"zarr", "numba", "scipy", "typer", "safetensors", "pyarrow"} <= absent
    banned = {top for top, names in owners.items() if {name.lower() for name in names} & absent}
    site = Path(sysconfig.get_path("purelib"))
    for entry in site.iterdir():
        if entry.name.partition(".")[0] not in banned and not entry.name.endswith(".pth"):
            (tmp_path / entry.name).symlink_to(entry)
    code = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}, {str(repository)!r}]
import torch, isae.kernels
x, w = torch.randn(3, 4), torch.randn(6, 4)
values, indices = isae.kernels.topk_encode(x, w, torch.zeros(6), 2)
assert values.shape == (3, 2)
assert not {{"zarr", "numba", "scipy", "typer"}} & set(sys.modules)
try:
    import numba
except ModuleNotFoundError:
    print("alone")
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout == "alone\n", done.stderr


@pytest.mark.parametrize("heavy", ["torch", "zarr", "numba", "matplotlib"])
def test_the_foundation_is_light(tmp_path: Path, heavy: str) -> None:
    code = (
        f"import sys, isae, isae.errors, isae.files, isae.cli; assert '{heavy}' not in sys.modules"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_importing_isae_does_not_change_zarr_for_others(tmp_path: Path) -> None:
    code = (
        "import zarr; before = dict(zarr.config.get('codec_pipeline')); import isae.store; "
        "assert dict(zarr.config.get('codec_pipeline')) == before"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def packages(repository: Path) -> dict[str, Path]:
    """Every package folder of the checkout by its import name."""
    settings = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {"isae": "isae", **{f"isae.{room}": room for room in ROOMS}}
    assert settings["package-dir"] == rooms
    found = {}
    for name, folder in rooms.items():
        for path in sorted((repository / folder).rglob("__init__.py")):
            inner = path.parent.relative_to(repository / folder)
            if name == "isae" and inner.parts and inner.parts[0] in ROOMS:
                continue
            found[".".join([name, *inner.parts])] = path.parent
    assert sorted(settings["packages"]) == sorted(found)
    return found


def test_rooms_are_linked_into_the_package(repository: Path) -> None:
    for room in ROOMS:
        link = repository / "isae" / room
        assert link.is_symlink()
        assert str(link.readlink()) == f"../{room}"


def test_the_wheel_holds_modules_weights_pages_and_tables(repository: Path, tmp_path: Path) -> None:
    """Built from a copy: a build writes folders beside the sources."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=repository, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, listed):
        source, target = repository / name, tmp_path / "src" / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_symlink():
                target.symlink_to(source.readlink())
            else:
                target.write_bytes(source.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)],
        cwd=tmp_path / "src", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    expected = {"isae/py.typed", "isae/inception/inceptionv1_tin200.safetensors"}
    expected |= {"isae/analysis/label/wordnet.tsv"}
    pages = repository / "analysis" / "report" / "static"
    expected |= {f"isae/analysis/report/static/{path.name}" for path in pages.iterdir()}
    assert "isae/analysis/report/static/index.html" in expected
    for name, folder in packages(repository).items():
        expected |= {f"{name.replace('.', '/')}/{path.name}" for path in folder.glob("*.py")}
    inside = {name for name in held if ".dist-info/" not in name}
    assert inside == expected
    assert any(name.endswith("licenses/LICENSE") for name in held)
