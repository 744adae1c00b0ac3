"""AIS-Bonn/vp-suite: Hzzone's encoder-forecaster, saved as a whole pickled module.

The module's attributes say the strides; nothing of it is executed. Of a bare state dict only the user can say
that it is vp-suite's: its names are Hzzone's, and so is what it computes.
"""

from convlstm.importers import hzzone
from convlstm.importers.foreign import Foreign, Imported, Source


def recognises(foreign: Foreign) -> bool:
    """Whether this is a module of the project."""
    return any(str(module.get("class", "")).startswith("vp_suite.") for module in foreign.modules.values())


def convert(foreign: Foreign) -> Imported:
    """Return an ImportedNetwork."""
    return hzzone.imported(foreign, "AIS-Bonn/vp-suite, EF_ConvLSTM", "b t c h w")


SOURCE = Source("vp-suite", recognises, convert, hzzone.OPTIONS)
