"""Hzzone/Precipitation-Nowcasting: an encoder-forecaster of ConvLSTMs with per-pixel peepholes.

One convolution over [x | h] per cell, gates i, f, g, o. Files of models that trained on a GPU hold no
peepholes: they were never registered as parameters, and stayed zero.

AIS-Bonn/vp-suite has the same network under the same names, and saves it as a whole pickled module, whose
attributes say the strides. Only the user can say that a state dict is vp-suite's.
"""

import dataclasses
from typing import Any

from convlstm.importers.building import Part, fused_cell, with_peepholes
from convlstm.importers.encoder_forecaster import STRIDES, import_nowcaster
from convlstm.importers.foreign import Foreign, Imported, Source

PEEPHOLES = ("Wci", "Wcf", "Wco")
CELL = ("_conv.weight", "_conv.bias", *PEEPHOLES)


def recognizes(foreign: Foreign) -> bool:
    """Return whether these are the project's tensors, by their names."""
    ours = "_conv.weight" in foreign.tensors or "encoder.rnn1._conv.weight" in foreign.tensors
    return ours and not foreign.modules


def convert(foreign: Foreign) -> Imported:
    """Return an ImportedNetwork; of a lone cell a ConvLSTM."""
    found = _convert(foreign, "Hzzone/Precipitation-Nowcasting", "t b c h w")
    guess = "the input has its time first (in vp-suite, which has the same names, its batch: source vp-suite)"
    return dataclasses.replace(found, guesses=(*found.guesses, guess)) if found.forecasts else found


def convert_vp_suite(foreign: Foreign) -> Imported:
    """Return an ImportedNetwork; of a lone cell a ConvLSTM."""
    return _convert(foreign, "AIS-Bonn/vp-suite, EF_ConvLSTM", "b t c h w")


def _convert(foreign: Foreign, source: str, layout: str) -> Imported:
    return import_nowcaster(foreign, "forecaster", _cell, CELL, ("_conv.",), layout, source=source)


def _cell(foreign: Foreign, before: str, **fields: Any) -> Part:
    part = fused_cell(foreign, f"{before}_conv", "ifgo", **fields)
    return with_peepholes(part, foreign, [f"{before}{name}" for name in PEEPHOLES])


SOURCE = Source("hzzone", recognizes, convert, {"strides": STRIDES})
VP_SUITE = Source(
    "vp-suite",
    lambda foreign: any(str(m.get("class", "")).startswith("vp_suite.") for m in foreign.modules.values()),
    convert_vp_suite,
    {"strides": STRIDES},
)
