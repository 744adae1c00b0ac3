"""Who imports whom: the order of the rooms, read off the import statements."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each module may import those on the lines before its own, and none on its own line.
ORDER = """
hashing  functional  files  pictures  arguments  ops.convolution  ops.checks
importers.inert  importers.archives  importers.hdf5_reader
ops.reference  ops.kernels.cpu_language  ops.kernels.cuda_language  video
importers.pickles  importers.plain  importers.keras_files
importers.torch_files  importers.unwrapping
importers.content
ops.kernels.plain_lstm  ops.kernels.plain_gru  ops.kernels.cuda_lstm
ops.kernels.cpu_lstm  ops.kernels.cpu_gru  ops.kernels.cpu_gru_before
ops.kernels  ops.kernels.cpu  ops.kernels.plain
ops.kernels.cuda
ops.choice  ops.lstm_tape
ops.gru_tape
ops.gru_before_tape
ops.head
ops.passes
ops.fused
ops
base
cells
layers  forecaster
networks
sampling  rollouts  metrics  checkpoint  importers.torch_rnn
evaluation  importers  settings
training
__main__
"""
LEVELS = {
    f"convlstm.{name}": level
    for level, line in enumerate(ORDER.strip().splitlines())
    for name in line.split()
}


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


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_the_library_keeps_its_order() -> None:
    files = [path for path in (ROOT / "convlstm").rglob("*.py") if module_name(path) != "convlstm"]
    assert {module_name(path) for path in files} == set(LEVELS)
    for path in files:
        for name in imported_modules(path):
            assert LEVELS.get(name, 99) < LEVELS[module_name(path)], f"{module_name(path)} imports {name}"


def test_datasets_knows_three_modules_of_the_library() -> None:
    for path in (ROOT / "datasets").rglob("*.py"):
        outside = {name for name in imported_modules(path) if not name.startswith("datasets")}
        assert outside <= {"convlstm.files", "convlstm.video", "convlstm.hashing"}, path


def test_nothing_imports_the_training_script() -> None:
    for package in ("convlstm", "datasets"):
        for path in (ROOT / package).rglob("*.py"):
            assert "train" not in imported_modules(path)


@pytest.mark.parametrize("heavy", ["torchvision", "mlxtend", "tensorboard", "matplotlib"])
def test_importing_the_library_leaves_heavy_packages_alone(heavy: str) -> None:
    code = f"import convlstm, convlstm.training, datasets, sys; sys.exit({heavy!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
