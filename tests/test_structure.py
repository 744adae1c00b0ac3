"""Who imports whom: the order of the rooms, read off the import statements."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The rooms of the library, each with those that it may import: all of them stand above its own line.
ROOMS = {
    "core": "",
    "ops": "",
    "nn": "core ops",
    "clips": "core",
    "models": "core ops nn",
    "hub": "core nn models",
    "importers": "core nn models",
    "exporters": "core ops nn models",
    "evaluation": "core ops models",
    "report": "core clips hub evaluation",
    "training": "core ops nn clips models hub evaluation",
    "demo": "core clips hub models",
    "cli": "core clips models hub importers exporters evaluation report training demo",
}
OTHERS = {"datasets": "core clips", "train": "convlstm models hub training datasets"}


def imported_modules(path: Path) -> set[str]:
    """Return the dotted names of the project's modules that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if is_module(name) else str(node.module) for name in inner}
    return {name for name in found if name.split(".")[0] in ("convlstm", "datasets", "train")}


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def room_of(name: str) -> str:
    """Return the folder of convlstm that a module is in, or the package beside it."""
    package, *rest = name.split(".")
    return rest[0] if package == "convlstm" and rest else package


def imported_rooms(path: Path) -> set[str]:
    return {room_of(name) for name in imported_modules(path)}


def test_at_the_root_there_are_only_the_face_and_the_folders() -> None:
    root = ROOT / "convlstm"
    assert sorted(path.name for path in root.glob("*.py")) == ["__init__.py", "__main__.py"]
    folders = {path.parent.name for path in root.glob("*/__init__.py")}
    assert folders == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room: str) -> None:
    allowed = set(ROOMS[room].split())
    before = list(ROOMS)[: list(ROOMS).index(room)]
    assert allowed <= set(before)
    imported = {name for path in (ROOT / "convlstm" / room).rglob("*.py") for name in imported_rooms(path)}
    assert imported - {room} == allowed


def test_what_stands_beside_the_library_imports_no_more_than_it_says() -> None:
    for name, allowed in OTHERS.items():
        files = [ROOT / "train.py"] if name == "train" else (ROOT / name).rglob("*.py")
        for path in files:
            assert imported_rooms(path) - {name} <= set(allowed.split()), path


def test_importing_the_library_leaves_heavy_packages_alone() -> None:
    heavy = {"torchvision", "mlxtend", "tensorboard", "matplotlib", "huggingface_hub", "numba"}
    heavy.add("torch._dynamo")  # torch's compiler, whose import takes as long as torch's own
    code = f"import convlstm, convlstm.training.scoring, datasets, sys; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
