"""Networks as files that run without this library: ONNX, torch.export, Keras and torch.nn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from convlstm.core.checks import choice
from convlstm.core.files import check_output, write_atomically
from convlstm.core.saving import unwrap
from convlstm.exporters.graphs import UNUSED, Form, make_graph
from convlstm.exporters.keras import keras_file, weights_file
from convlstm.exporters.onnx_file import onnx_file
from convlstm.exporters.torch_rnn import torch_file
from convlstm.exporters.tracing import Shape, largest_difference, program_file

__all__ = ["FORMATS", "Exported", "Format", "export"]

Format = Literal["onnx", "program", "keras", "torch"]
FORMATS: dict[str, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "program": (".pt2",),
    "keras": (".keras", ".weights.h5"),
    "torch": (".pt", ".pth"),
}
"""The formats, with the endings of their files' names."""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote. All from `inputs` on is of graphs: empty or None for "keras" and "torch"."""

    path: Path
    """The file."""
    size: int
    """Its size, in bytes."""
    inputs: dict[str, Shape]
    """The shape of each input by its name, numbers where a size is fixed, else names such as "4*rows"."""
    outputs: dict[str, Shape]
    """The shape of each output by its name."""
    free: tuple[str, ...]
    """The sizes that are left free, of "batch", "rows" and "columns"."""
    difference: float | None
    """The largest difference between what the file and the network compute."""


def export(
    model: nn.Module,
    path: str | Path,
    format: Format | None = None,
    *,
    form: Form | None = None,
    context: int | None = None,
    horizon: int | None = None,
    size: tuple[int, ...] | None = None,
) -> Exported:
    """Write a network as one file that runs without this library.

    - "onnx" (.onnx, operator set 18) for onnxruntime and others; needs `pip install "convlstm[export]"`.
    - "program" (.pt2) for `torch.export.load(path).module()`.
    - "keras" (.keras or .weights.h5) for `keras.saving.load_model(path)`, or for `load_weights` of a Keras
      model of the same layers; needs `pip install "convlstm[import]"`.
    - "torch" (.pt or .pth) for `load_state_dict` of torch.nn's module, after
      `torch.load(path, weights_only=True)`.

    **"onnx" and "program"** hold a forecaster or an ImportedNetwork as a graph. The graph is checked against
    the network on random frames (to 1e-4) before it is written. Batch and frame size stay free where the
    exporter allows it: H and W are then any multiples of the patch (times the strides), at least two. With
    torch 2.7 to 2.11 some graphs of the form "step" keep the frame size that they are traced with; `free` of
    the result says what is free. T and the horizon are fixed, because the graph repeats the step for each
    frame. Pixels are in [0, 1]. A graph has one of three forms, inputs -> outputs:

    - "rollout": context `(B, T, C, H, W)` -> frames `(B, horizon, C, H, W)`
    - "step": frame `(B, C, H, W)`, h0, c0, h1, c1, ... -> next_frame, h0_out, c0_out, h1_out, c1_out, ...
    - "encode": context `(B, T, C, H, W)` -> h0_out, c0_out, h1_out, c1_out, ...

    The states are `(B, hidden, h, w)`, where h and w are the rows and columns of the layer's grid. Only LSTMs
    have c. The output `h0_out` is the next call's input `h0`. An ImportedNetwork has the form "rollout" only.

    With "step" you forecast frame by frame, for any horizon. A StackedForecaster starts from states of zeros
    and reads each frame of the context, then its own `next_frame`; or "encode" reads the context up to its
    last frame, the first that "step" reads. An EncoderForecaster reads no frames after the context, and its
    step has no input `frame`: call encode once, then each step gives the next frame.

    The file also holds the network's config as JSON, the form, context and horizon, and the versions that
    wrote it: under keys such as "convlstm.form" in the metadata of an ONNX file, and in the extra file
    "convlstm.json" of a .pt2 file.

    **"keras"** holds a ConvLSTM, or an ImportedNetwork that consists of ConvLSTM stages, as ConvLSTM1D, 2D or
    3D layers that map `(B, T, *S, I)` to `(B, T, *S, C)`. The weights are float64 for a float64 model, else
    float32. A .keras file is for frames of one size; .weights.h5 has the weights alone, for any size.

    **"torch"** holds a ConvRNN, ConvLSTM or ConvGRU with a 1x1 kernel, or one of their cells, as the state
    dict of torch.nn.RNN, LSTM, GRU or their cells, in the model's type. It does not say the RNN's
    nonlinearity. `import_checkpoint` reads it back. Neither of these two formats holds dropout.

    Args:
        model: the network. It is not changed. Of a network that torch.compile, DistributedDataParallel or
            AveragedModel wraps, the inner one is exported.
        path: the file. One that is there is replaced once the new one is whole.
        format: "onnx", "program", "keras" or "torch". Default: the one that the end of `path` names.
        form: "rollout", "step" or "encode", for a graph. Default: "rollout".
        context: T, the number of context frames of a rollout or encode. Default: 10.
        horizon: the number of forecast frames of a rollout. Default: 10.
        size: H and W of the frames, in pixels. For a graph, those it is traced with. Default: (64, 64). For a
            .keras file, those of the frames that the model reads, one number per spatial axis; required.

    Returns:
        What was written.

    Raises:
        ImportError: a package that the format needs is not installed.
        ValueError: the format cannot hold this model (peepholes in Keras and torch.nn, kernels above 1x1 in
            torch.nn, other weights than float32 in ONNX, ...); an argument does not fit, or does not belong
            to the format; or the numbers of a graph differ from the network's by more than 1e-4.

    Example:
        >>> model = convlstm.StackedForecaster(hidden_channels=(8,), patch_size=4)
        >>> exported = convlstm.export(model, "step.onnx", form="step")
        >>> exported.outputs["h0_out"]
        ('batch', 8, 'rows', 'columns')
        >>> import onnxruntime
        >>> session = onnxruntime.InferenceSession("step.onnx")
        >>> zeros = np.zeros((1, 8, 16, 16), "float32")  # 64 pixels / patch size 4
        >>> states = {"h0": zeros, "c0": zeros}
        >>> for frame in np.random.rand(10, 1, 1, 64, 64).astype("float32"):  # the context
        ...     forecast, *new = session.run(None, {"frame": frame, **states})
        ...     states = dict(zip(states, new))
        >>> forecast.shape  # the first frame of the forecast, and the next call's frame
        (1, 1, 64, 64)
    """
    path, model = Path(path), unwrap(model)
    kind, suffix = _format_and_suffix(path, format)
    values = {"form": form, "context": context, "horizon": horizon, "size": size}
    options: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    is_graph = kind in ("onnx", "program")
    for name in options:
        if not (is_graph or (name == "size" and suffix == ".keras")):
            raise ValueError(f"{name} is {options[name]!r}, but {suffix} files have no {name}; leave it out")
        if name in UNUSED.get(form or "rollout", ()):
            raise ValueError(f"{name} is {options[name]!r}, but form {form!r} has no {name}; leave it out")
    check_output(path)
    inputs, outputs, free, difference = {}, {}, (), None
    if is_graph:
        graph = make_graph(model, **options)
        data, traced, run = onnx_file(graph) if kind == "onnx" else program_file(graph)
        _, inputs, outputs, free = traced
        difference = largest_difference(graph, free, run)
    elif kind == "torch":
        data = torch_file(model)
    else:
        data = keras_file(model, size) if suffix == ".keras" else weights_file(model)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return Exported(path, len(data), inputs, outputs, free, difference)


def _format_and_suffix(path: Path, format: str | None) -> tuple[str, str]:
    """Return the format of a file and the ending of its name; raise ValueError where they do not fit."""
    if format is not None:
        choice("format", format, tuple(FORMATS))
    formats = FORMATS if format is None else {format: FORMATS[format]}
    for known, suffixes in formats.items():
        for suffix in suffixes:
            if path.name.endswith(suffix):
                return known, suffix
    endings = ", ".join(f"{' or '.join(suffixes)} for {known!r}" for known, suffixes in formats.items())
    raise ValueError(f"path is {path}; its name needs to end in {endings}")
