"""Weights for other code: plain stacks of cells as files that Keras and torch.nn read."""

from pathlib import Path

from torch import nn

from convlstm.core.files import write_atomically
from convlstm.core.saving import unwrap
from convlstm.exporters.keras import keras_file, weights_file
from convlstm.exporters.torch_rnn import torch_file

__all__ = ["export_checkpoint"]

_SUFFIXES = {"keras": (".keras", ".weights.h5"), "torch": (".pt", ".pth")}


def export_checkpoint(
    model: nn.Module, path: str | Path, target: str, *, frame_size: tuple[int, ...] | None = None
) -> None:
    """Write a plain stack of cells as a file that Keras or torch.nn reads, and computes the same with.

    With the target "keras", of a ConvLSTM, or of an ImportedNetwork that is nothing but recurrent stages:

        model.keras         `keras.saving.load_model(path)` gives the model: ConvLSTM1D, 2D or 3D layers that
                            read (B, T, *S, I) and return (B, T, *S, C), for frames of one size, as all of
                            Keras's ConvLSTM layers.
        model.weights.h5    the weights alone, for `load_weights` of a model of the same layers that was built
                            for frames of any size.

    With the target "torch", of a ConvRNN, ConvLSTM or ConvGRU with a 1x1 kernel, or such a cell: a state dict
    for torch.nn.RNN, LSTM, GRU or their cells, in a file that `torch.load(path, weights_only=True)` reads.
    `import_checkpoint` reads it back. The file does not say the RNN's nonlinearity.

    Neither holds dropout, which only training has. Keras's weights are float64 for a model in float64 and
    float32 for any other; torch's have the model's type. Keras files need h5py:
    pip install "convlstm[import]".

    Args:
        model: the stack; of one in the wrapper of torch.compile, DistributedDataParallel or AveragedModel,
            what is inside.
        path: ends in .keras or .weights.h5, or for torch in .pt or .pth; a file that stands there is replaced
            once the new one is whole.
        target: "keras" or "torch".
        frame_size: of the frames that the model in a .keras file reads, in pixels, such as (H, W); given for
            that file alone.

    Raises:
        ImportError: h5py is not installed, and the target is "keras".
        TypeError: a model of another class.
        ValueError: a model that the target has no layers for (peepholes in either, kernels above 1x1 in
            torch.nn, and whatever else: the reason is given), or another argument that does not fit.
    """
    path, model = Path(path), unwrap(model)
    if target not in _SUFFIXES:
        raise ValueError(f"target is {target!r}; it needs 'keras' or 'torch'")
    suffix = next((suffix for suffix in _SUFFIXES[target] if path.name.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"{path} does not end in {' or '.join(_SUFFIXES[target])}, which {target} reads")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is no directory, but {path} should go there; make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give the name of a file")
    if suffix == ".keras":
        data = keras_file(model, frame_size)
    elif frame_size is not None:
        raise ValueError(f"frame_size is {frame_size}, but {suffix} files hold none; leave it out")
    else:
        data = torch_file(model) if target == "torch" else weights_file(model)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
