"""Files that hold less or more than the whole model, or tensors of other shapes: refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from convlstm import import_checkpoint
from convlstm.importers.foreign import Foreign, Imported
from convlstm.importers.sources import SOURCES, import_foreign
from tests.convlstm.importers.foreign_models import Ndrplz
from tests.convlstm.importers.test_sources import CASES, compare, hzzone, prefixed

UNUSED = ("conv_o.", ".conv_last.", "num_batches_tracked")
PATCHES = {"patch_size": 2, "generation": "old"}  # what a file of OpenSTL may not say


def convert(name: str, tensors: dict[str, Tensor], **options: Any) -> Imported:
    source, known = SOURCES[name.split(",")[0]], PATCHES | CASES[name].options | options
    needed = {key: value for key, value in known.items() if key in source.options}
    return source.convert(Foreign(tensors, needed))


@pytest.mark.parametrize("name", CASES)
def test_no_tensor_may_be_missing_or_of_another_shape(name: str) -> None:
    tensors = CASES[name].make().state_dict()
    convert(name, tensors)
    lost = r"missing|without|has no place|has cells|channels|does not turn states"
    for changed, tensor in tensors.items():
        if any(word in changed for word in UNUSED):
            continue
        if name != "ndrplz, all layers alike":  # without its last cell, of one tensor, a stack is a stack
            with pytest.raises(ValueError, match=lost):
                convert(name, {key: value for key, value in tensors.items() if key != changed})
        # Shapes that no project has: a number, a prime one, none at all, one more axis.
        for shape in ((), (7,), (0, *tensor.shape[1:]), (*tensor.shape, 1)):
            with pytest.raises(ValueError, match=r"^[^\n]+$"):
                convert(name, {**tensors, changed: torch.zeros(shape)})


@pytest.mark.parametrize(
    "more", ["cell_list.0.conv_x.0.bias", "cell_list.5.conv_x.0.weight", "conv_last.bias"]
)
def test_parts_that_the_project_has_not_are_refused(more: str) -> None:
    tensors = CASES["openstl, layer norms"].make().state_dict() | {more: torch.ones(4)}
    with pytest.raises(ValueError, match=f"{more} has no place in the project's model"):
        convert("openstl, layer norms", tensors)


def test_a_stack_with_a_gap_is_refused() -> None:
    tensors = Ndrplz(2, [4, 4, 4], [3, 3, 3]).state_dict()
    with pytest.raises(ValueError, match=r"cell_list\.2\.conv\.bias has no place"):
        convert("ndrplz", {name: tensor for name, tensor in tensors.items() if ".1." not in name})


def test_averaged_weights_and_what_stands_beside_a_model(tmp_path: Path) -> None:
    tensors, path = Ndrplz(2, [4], [3]).state_dict(), tmp_path / "model.pth"
    for prefix in ("module.", "module._orig_mod."):
        torch.save({"n_averaged": torch.tensor(7), **prefixed(prefix, tensors)}, path)
        assert not import_foreign(path, "auto", {}).dropped
    torch.save({**tensors, "head.weight": torch.ones(3)}, path)
    with pytest.warns(UserWarning, match=r"head\.weight left out, as the project's model has no such part"):
        import_checkpoint(path)


def test_layers_whose_names_were_sorted_keep_their_order(tmp_path: Path) -> None:
    original = hzzone(peepholes=False).eval()
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    compare(original, import_foreign(tmp_path / "model.safetensors", "hzzone", {}), CASES["hzzone"])
    renamed = {name.replace("conv1_2", "conv1_1"): t for name, t in original.state_dict().items()}
    with pytest.raises(ValueError, match="may stand in either order"):
        convert("hzzone", dict(sorted(renamed.items())))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ndrplz", {"batch_first": "no"}, "batch_first is 'no'; it needs one of True, False"),
        ("automan000, from a GPU", {"effective_step": 3}, "effective_step is .3,.; it needs numbers below"),
        ("automan000", {"step": (5, 6)}, r"step is \(5, 6\); it needs a whole number"),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(name, CASES[name].make().state_dict(), **options)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"padding": [1, 1]}, "has stride None; it needs two whole numbers"),
        ({"stride": [1, 1], "padding": "same"}, "has padding 'same'; it needs two whole numbers"),
        ({"stride": [1, 1], "padding": [1, 1], "groups": 2}, "has groups 2, which the project's layers"),
    ],
)
def test_a_pickled_layer_of_another_kind_is_refused(attributes: dict[str, Any], message: str) -> None:
    tensors, layer = CASES["hzzone"].make().state_dict(), "encoder.stage1.conv1_leaky_1"
    with pytest.raises(ValueError, match=f"{layer} {message}"):
        SOURCES["vp-suite"].convert(Foreign(tensors, modules={layer: attributes}))
