"""Who imports whom: the order of the rooms, read off the import statements."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Each module may import those on the lines before its own, and none on its own line.
ORDER = """
arguments  card  evaluation.protocols  files  functional  hashing  importers.reading \
    importers.reading.archives  importers.reading.hdf5_reader  importers.reading.inert  metrics \
    ops.checks  ops.convolution  ops.kernels  ops.kernels.cpu_language  ops.kernels.cuda_language \
    ops.kernels.plain_gru  ops.kernels.plain_lstm  pictures  report.markup  staged.functions \
    training.curriculum  training.minutes  training.optimizers  training.output  training.schedule \
    video.fitting  video.images  video.values
evaluation.baselines  evaluation.results  importers.foreign  importers.keras_config \
    importers.reading.keras_files  importers.reading.pickles  importers.reading.plain  ops.choice \
    ops.kernels.cpu_gru  ops.kernels.cpu_gru_before  ops.kernels.cpu_lstm  ops.kernels.cpu_windows \
    ops.kernels.cuda_lstm  ops.kernels.plain  ops.reference  report.frames  report.plots  sampling \
    saving  staged.stages  training.states  training.stopping  video.arrays  video.gif
evaluation.tables  hub  importers.keras_weights  importers.reading.torch_files \
    importers.reading.unwrapping  ops.kernels.cpu  ops.kernels.cuda  ops.lstm_tape  report.tables \
    report.training_curves  video.films
importers.reading.content  ops.gru_tape  ops.head  video.reading
ops.gru_before_tape  video.sources
ops.passes  video  video.command
ops.fused
ops
base
cells  forecaster  importers.checking  staged.cells
convolutional  layers  next_frame  rollouts  staged.modules
exporters.torch_rnn  fully_connected  networks  staged.network
evaluation.sources  matching  staged
evaluation.rows  export.graphs  exporters.keras  importers.building  registry  report.examples
checkpoint  evaluation.bootstrap  evaluation.scores  export.program  exporters  importers.automan000 \
    importers.encoder_forecaster  importers.holmdk  importers.keras_layers  importers.ndrplz \
    importers.openstl  importers.sladewinter  importers.torch_rnn
evaluation.evaluating  export.onnx_file  importers.hzzone  importers.jhhuang96  importers.keras_bare \
    pretrained  report.run  settings  training.directory  transfer
evaluation  export  export.command  importers.keras  importers.vpsuite  report.page
importers.sources  report  training.hardware  training.losses
importers  importers.command  training.world
training.run
training.scoring  training.trouble
training
evaluation.command
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


def test_importing_the_library_leaves_heavy_packages_alone() -> None:
    heavy = {"torchvision", "mlxtend", "tensorboard", "matplotlib", "huggingface_hub"}
    code = f"import convlstm, convlstm.training, datasets, sys; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
