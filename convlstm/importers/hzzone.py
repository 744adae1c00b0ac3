"""Hzzone/Precipitation-Nowcasting: an encoder-forecaster of ConvLSTMs with per-pixel peepholes.

One convolution over [x | h] per cell, gates i, f, g, o. Files of models that trained on a GPU hold no
peepholes: they were never registered as parameters, and stayed zero. vp-suite has the same network.
"""

import dataclasses
from functools import partial
from typing import Any

from convlstm.importers.building import Part, fused_cell, stack, unused, with_peepholes
from convlstm.importers.encoder_forecaster import STRIDES, encoder_forecaster
from convlstm.importers.foreign import Foreign, Imported, Source

PEEPHOLES = ("Wci", "Wcf", "Wco")
CELL = ("_conv.weight", "_conv.bias", *PEEPHOLES)
OPTIONS = {"strides": STRIDES}


def recognises(foreign: Foreign) -> bool:
    """Whether these are the project's tensors, by their names."""
    ours = "_conv.weight" in foreign.tensors or "encoder.rnn1._conv.weight" in foreign.tensors
    return ours and not foreign.modules


def convert(foreign: Foreign) -> Imported:
    """Return an ImportedNetwork, or of a lone cell a ConvLSTM."""
    found = imported(foreign, "Hzzone/Precipitation-Nowcasting", "t b c h w")
    guess = "the input has its time first (in vp-suite, which has the same names, its batch: source vp-suite)"
    return dataclasses.replace(found, guesses=(*found.guesses, guess)) if found.forecasts else found


def imported(foreign: Foreign, source: str, layout: str) -> Imported:
    """Return the network under the name of a project that has it."""
    if "_conv.weight" in foreign.tensors:
        cell = _cell(foreign, "")
        lines, dropped = (str(cell.stage),), unused(foreign, CELL, own=("_conv.",))
        model, guesses, forecasts = stack([cell]), [], False
    else:
        make_cell = partial(_cell_of, foreign)
        model, lines, guesses, dropped = encoder_forecaster(foreign, "forecaster", make_cell, CELL)
        forecasts = True
    return Imported(
        model,
        source=source,
        gates="i, f, g, o",
        input_layout=layout,
        output_layout=layout,
        forecasts=forecasts,
        guesses=tuple(guesses),
        layers=lines,
        dropped=dropped,
    )


def _cell_of(foreign: Foreign, name: str, **fields: Any) -> Part:
    return _cell(foreign, f"{name}.", **fields)


def _cell(foreign: Foreign, before: str, **fields: Any) -> Part:
    part = fused_cell(foreign, f"{before}_conv", "ifgo", **fields)
    return with_peepholes(part, foreign, [f"{before}{name}" for name in PEEPHOLES])


SOURCE = Source("hzzone", recognises, convert, OPTIONS)
