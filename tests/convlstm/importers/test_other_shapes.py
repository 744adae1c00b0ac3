"""Files with a project's names and other shapes: refused in one line, never a fault of the program."""

import pytest
import torch
from torch import Tensor

from convlstm.importers.foreign import Foreign
from convlstm.importers.sources import SOURCES
from tests.convlstm.importers.test_sources import CASES

NEEDLESS = ("conv_o.", ".conv_last.", "num_batches_tracked")


def others(tensor: Tensor) -> list[Tensor]:
    """Shapes that no project has: a number, a prime one, none at all, one more axis."""
    return [torch.zeros(()), torch.zeros(7), torch.zeros(0, *tensor.shape[1:]), tensor.unsqueeze(-1)]


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"ndrplz, one cell"}))  # which may have more axes
def test_a_tensor_of_another_shape_is_refused(name: str) -> None:
    case = CASES[name]
    tensors = case.make().state_dict()
    options = {"patch_size": 2} if case.source == "openstl" else {}
    options |= {key: value for key, value in case.options.items() if key != "source"}
    for changed in (key for key in tensors if not any(word in key for word in NEEDLESS)):
        for other in others(tensors[changed]):
            with pytest.raises(ValueError, match=r"^[^\n]+$"):
                SOURCES[case.source].convert(Foreign({**tensors, changed: other}, options))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"padding": [1, 1]}, "encoder.stage1.conv1_1 has stride None; it needs two whole numbers"),
        ({"stride": [1, 1], "padding": "same"}, "has padding 'same'; it needs two whole numbers"),
        (
            {"stride": [1, 1], "padding": [1, 1], "groups": 2},
            "has groups 2, which the project's layers never have",
        ),
    ],
)
def test_a_pickled_layer_of_another_kind_is_refused(attributes: dict, message: str) -> None:
    case = CASES["hzzone"]
    tensors = case.make().state_dict()
    layer = next(name for name in tensors if name.startswith("encoder.stage1.")).removesuffix(".weight")
    with pytest.raises(ValueError, match=message.replace("encoder.stage1.conv1_1", layer)):
        SOURCES["vp-suite"].convert(Foreign(tensors, modules={layer: attributes}))
