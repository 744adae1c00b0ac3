"""import_checkpoint: turn a file of another project into a model of this library."""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from convlstm.core.checks import shortened
from convlstm.importers import (
    automan000,
    holmdk,
    hzzone,
    jhhuang96,
    keras,
    ndrplz,
    openstl,
    sladewinter,
    torch_rnn,
)
from convlstm.importers.building import NO_SUCH_PART
from convlstm.importers.foreign import Foreign, Imported, Source
from convlstm.importers.reading.files import read_foreign

_SOURCES = (
    *(ndrplz.SOURCE, automan000.SOURCE, jhhuang96.SOURCE, hzzone.SOURCE, hzzone.VP_SUITE),
    *(sladewinter.SOURCE, holmdk.SOURCE, openstl.SOURCE, keras.SOURCE, torch_rnn.SOURCE),
)
SOURCES: dict[str, Source] = {source.name: source for source in _SOURCES}
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""Prefixes that DataParallel, torch.compile, Lightning and others put before all names."""
COUNTER = "n_averaged"  # what torch's AveragedModel has beside its "module."


def import_checkpoint(path: str | Path, source: str = "auto", **options: Any) -> nn.Module:
    """Return a model that computes what the model in another project's checkpoint computes.

    Nothing in the file is executed. Where the file does not say what the model computes (an activation, say),
    an error asks for an option; nothing is guessed in silence.

    Args:
        path: a checkpoint of ndrplz/ConvLSTM_pytorch (or conv-lstm of PyPI), automan000, jhhuang96, Hzzone,
            vp-suite, sladewinter, holmdk, OpenSTL, Keras (ConvLSTM1D, 2D, 3D, Bidirectional; Keras 2 and 3;
            needs h5py) or torch.nn (RNN, LSTM, GRU); what it is shows by its content, not by its suffix.
        source: the project, such as "ndrplz"; an error lists them. Default: "auto", by the names of the
            tensors.
        options: what the file does not say; an error lists the options where one is needed. All sources
            take `prefix`, the beginning of the names to import, as in prefix="enc1".

    Returns:
        A ConvLSTM, ConvRNN, ConvGRU or StackedForecaster where one computes the same, otherwise an
        ImportedNetwork. Batch first, in evaluation mode, on the CPU. All have `save_pretrained`.

    Warns:
        UserWarning: tensors beside the project's own were left out.

    Raises:
        TypeError: path is no path.
        FileNotFoundError: no such file.
        ImportError: a Keras file, without h5py.
        ValueError: a damaged file, one that is not recognized, cannot be expressed, or leaves something open
            that only the user knows; an option that the source does not have.

    Example:
        >>> torch.save({"cell_list.0.conv.weight": torch.rand(32, 9, 3, 3)}, "ndrplz.pt")
        >>> convlstm.import_checkpoint("ndrplz.pt").cells[0]
        ConvLSTMCell(1, 8, kernel_size=3, bias=False)
    """
    imported = import_foreign(path, source, options)
    if lost := [name for name, why in imported.dropped.items() if why == NO_SUCH_PART]:
        warnings.warn(
            f"{path}: {shortened(lost)} left out, as {NO_SUCH_PART}: the result is not the whole of the file",
            stacklevel=2,
        )
    return imported.model


def import_foreign(path: str | Path, source: str, options: Mapping[str, Any]) -> Imported:
    """Import a checkpoint as `import_checkpoint` does; return the model with all that was recognized."""
    if not isinstance(path, str | Path):
        raise TypeError(
            f"path is a {type(path).__name__}; it needs a file, as torch.save writes of a state dict"
        )
    foreign = _without_prefix(read_foreign(path), path, options)
    found = _source(foreign, source, path)
    if unknown := sorted(options.keys() - found.options.keys() - {"prefix"}):
        known = "; ".join(f"{name}: {meaning}" for name, meaning in found.options.items()) or "none"
        raise ValueError(f"{unknown[0]} is no option of {found.name}, whose options are: {known}; and prefix")
    try:
        return found.convert(foreign)
    except ValueError as error:
        raise ValueError(f"{path} ({found.name}): {error}") from error
    except (RuntimeError, IndexError, TypeError) as error:  # torch's, for shapes that no project's have
        line = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} ({found.name}): its tensors have shapes that make no model of the project: {line}"
        ) from error


def _without_prefix(foreign: Foreign, path: str | Path, options: Mapping[str, Any]) -> Foreign:
    """Return a file's tensors without the prefix that the user names, or that a wrapper gave them all."""
    names = list(foreign.tensors)
    prefix = options.get("prefix", "")
    if not isinstance(prefix, str):
        raise ValueError(f"prefix is {prefix!r}; it needs the beginning of the tensors' names")
    if prefix:
        prefix = prefix.removesuffix(".") + "."
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"prefix is {prefix!r}, but {path} has {shortened(names)}")
    elif foreign.config is None:
        own = [name for name in names if name != COUNTER]
        while found := [w for w in WRAPPERS if own and all(n.startswith(prefix + w) for n in own)]:
            prefix += found[0]
    start = len(prefix)
    return dataclasses.replace(
        foreign,
        tensors={name[start:]: t for name, t in foreign.tensors.items() if name.startswith(prefix)},
        options=options,
        prefix=prefix,
        modules={n[start:]: m for n, m in foreign.modules.items() if f"{n}.".startswith(prefix)},
    )


def _source(foreign: Foreign, name: str, path: str | Path) -> Source:
    """Return the source that the user names, or the one whose names the tensors have."""
    if name != "auto":
        if name not in SOURCES:
            raise ValueError(f"source is {name!r}; it needs 'auto' or one of {', '.join(SOURCES)}")
        return SOURCES[name]
    found = [source for source in SOURCES.values() if source.recognizes(foreign)]
    if len(found) == 1:
        return found[0]
    names = list(foreign.tensors)
    if found:
        either = " or ".join(f"source={source.name!r}" for source in found)
        raise ValueError(f"{path} may be of several projects by its names ({shortened(names)}); say {either}")
    if parts := _recognized_parts(foreign):
        either = " or ".join(f"prefix={prefix!r} ({source})" for prefix, source in parts.items())
        raise ValueError(f"{path} holds a larger model ({shortened(names)}); for a part of it say {either}")
    raise ValueError(
        f"{path} is of no known project by its names ({shortened(names)}); where it is one of "
        f"{', '.join(SOURCES)}, say source=..., or prefix=... for a part of a larger model"
    )


def _recognized_parts(foreign: Foreign) -> dict[str, str]:
    """Return the prefixes under which a file holds what one project saves, and the names of the projects."""
    found = {}
    for prefix in {name[:n]: None for name in foreign.tensors for n, sign in enumerate(name) if sign == "."}:
        start = len(prefix) + 1
        tensors = {n[start:]: t for n, t in foreign.tensors.items() if n.startswith(f"{prefix}.")}
        part = dataclasses.replace(foreign, tensors=tensors)
        if len(sources := [s.name for s in SOURCES.values() if s.recognizes(part)]) == 1:
            found[foreign.prefix + prefix] = sources[0]
    return found
