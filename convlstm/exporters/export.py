"""Export: networks as torch.export programs and as ONNX files, which run without this library.

Letters: T time, B batch, C image channels, H W pixels, hidden the channels of a state, h w its pixels. All is
float32, pixels in [0, 1], forecasts unclipped. Batch and frame size are left free where the exporter allows:
H and W any multiples of the patch (times the strides), twice it or more.

Three forms of a graph, each in a file of its own, inputs -> outputs:

    rollout   context (B, T, C, H, W)                      -> frames (B, horizon, C, H, W)
    step      frame (B, C, H, W), h0, c0, h1, c1, ...      -> next_frame, h0_out, c0_out, h1_out, c1_out, ...
    encode    context (B, T, C, H, W)                      -> h0_out, c0_out, h1_out, c1_out, ...

A `ImportedNetwork`, as imports may give, has the form rollout alone. The states are (B, hidden, h, w); only
LSTMs have c. An output `h0_out` is the next call's input `h0`. T and the horizon of a file are fixed: the
graph repeats the step for each frame.

A forecast of any length, frame by frame, as a program with nothing but onnxruntime runs it:

- A `StackedForecaster` reads every frame, also its own. Set all states to zeros, h = H / p and w = W / p, and
  call step with each frame of the context, of any length: the `next_frame` of the last one is the first
  forecast, and is the `frame` of the next call. (Or let encode read the context; the first step's `frame` is
  the context's last.)
- An `EncoderForecaster` reads nothing after the context, and its step has no input `frame`. Call encode once
  with the context; each step gives the next frame.

In Python, with onnxruntime and a StackedForecaster:

    session = onnxruntime.InferenceSession("step.onnx")
    states = {name: zeros for each input but "frame"}
    for frame in context:
        frame, *new = session.run(None, {"frame": frame, **states})
        states = dict(zip(states, new))
    # frame is the first forecast: session.run(None, {"frame": frame, **states}) gives the second

What a file says of itself (the network's config as JSON, form, context, horizon, pixel range, names and
versions) is in the metadata of an ONNX file, under keys "convlstm.form" and so on, and in a .pt2 file's extra
file "convlstm.json".
"""

from pathlib import Path

from torch.export import ExportedProgram

from convlstm.exporters.graphs import Form, make_graph
from convlstm.exporters.onnx_file import save_onnx
from convlstm.exporters.program import Exported, trace
from convlstm.models.forecaster import Forecaster
from convlstm.models.imported import ImportedNetwork

__all__ = ["Exported", "export_onnx", "export_program"]


def export_program(
    model: Forecaster | ImportedNetwork,
    *,
    form: Form = "rollout",
    context: int = 10,
    horizon: int = 10,
    size: tuple[int, int] = (64, 64),
) -> ExportedProgram:
    """Trace a network with torch.export, into a graph of torch's own operators alone.

    `torch.export.save(program, "model.pt2")` writes it; `torch.export.load("model.pt2").module()` is the
    graph, called with the inputs in order, in a process that need not have this library.

    Args:
        model: a forecaster or ImportedNetwork; it is copied, and not changed.
        form: "rollout" (default), "step" or "encode", see `convlstm.exporters.export`.
        context: T, context frames of a rollout or encode (default 10).
        horizon: forecast frames of a rollout (default 10).
        size: H and W of the frames that are traced, in pixels (default 64 x 64): the only ones that the graph
            takes where torch.export cannot leave the size free.

    Returns:
        The program, on the model's device and in its type.

    Raises:
        TypeError: a model that is no forecaster.
        ValueError: an argument that does not fit, named with what is needed.
    """
    return trace(make_graph(model, form, context, horizon, size)).program


def export_onnx(
    model: Forecaster | ImportedNetwork,
    path: str | Path,
    *,
    form: Form = "rollout",
    context: int = 10,
    horizon: int = 10,
    size: tuple[int, int] = (64, 64),
) -> Exported:
    """Write a network as one ONNX file (opset 18), once onnxruntime gives the network's numbers with it.

    Needs onnx, onnxscript and onnxruntime: pip install "convlstm[export]".

    Args:
        model: a forecaster or ImportedNetwork with float32 weights; it is copied, and not changed.
        path: of the file; one that stands there is replaced once the new one is whole and right.
        form: "rollout" (default), "step" or "encode", see `convlstm.exporters.export`.
        context: T, context frames of a rollout or encode (default 10).
        horizon: forecast frames of a rollout (default 10).
        size: H and W of the frames that are traced, in pixels (default 64 x 64): the only ones that the file
            takes where the exporter cannot leave the size free.

    Returns:
        What was written: the names and shapes of inputs and outputs, and the largest difference found.

    Raises:
        ImportError: a package that is missing, named.
        TypeError: a model that is no forecaster.
        ValueError: an argument that does not fit, named with what is needed; a model of another type or of
            more than 2 GB; a path that is no place for a file; or numbers that differ by more than 1e-4.
    """
    return save_onnx(make_graph(model, form, context, horizon, size), Path(path))
