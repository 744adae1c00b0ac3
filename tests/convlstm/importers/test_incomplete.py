"""Files that hold less or more than the whole model, or tensors of other shapes: refused in one line."""

from functools import partial
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
from tests.convlstm.importers.test_sources import CASES, Case, hzzone

NEEDLESS = ("conv_o.", ".conv_last.", "num_batches_tracked")
# A stack without its last cell is a stack: only those whose cells have two tensors show a loss.
SHOWN = [name for name in CASES if name not in ("ndrplz, all layers alike", "ndrplz, one cell")]


def convert(case: Case, tensors: dict[str, Tensor]) -> Imported:
    foreign = Foreign(tensors, {key: value for key, value in case.options.items() if key != "source"})
    return SOURCES[case.source].convert(foreign)


@pytest.mark.parametrize("name", SHOWN)
def test_no_tensor_may_be_missing(name: str) -> None:
    case = CASES[name]
    tensors = case.make().state_dict()
    options = {"patch_size": 2} if case.source == "openstl" else {}
    case = case._replace(options=options | case.options)
    convert(case, tensors)
    whole = [n for n in tensors if not any(word in n for word in NEEDLESS)]
    for missing in whole:
        with pytest.raises(
            ValueError, match=r"missing|without|has no place|has cells|channels|does not turn states"
        ):
            convert(case, {n: tensor for n, tensor in tensors.items() if n != missing})


@pytest.mark.parametrize(
    "more", ["cell_list.0.conv_x.0.bias", "cell_list.5.conv_x.0.weight", "conv_last.bias"]
)
def test_parts_that_the_project_has_not_are_refused(more: str) -> None:
    case = CASES["openstl, layer norms"]
    with pytest.raises(ValueError, match=f"{more} has no place in the project's model"):
        convert(case, case.make().state_dict() | {more: torch.ones(4)})


def test_a_stack_with_a_gap_is_refused() -> None:
    tensors = Ndrplz(2, [4, 4, 4], [3, 3, 3]).state_dict()
    gap = {name: tensor for name, tensor in tensors.items() if ".1." not in name}
    with pytest.raises(ValueError, match=r"cell_list\.2\.conv\.bias has no place"):
        convert(CASES["ndrplz, all layers alike"], gap)


def test_what_stands_beside_the_project_s_model_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({**Ndrplz(2, [4], [3]).state_dict(), "head.weight": torch.ones(3)}, path)
    with pytest.warns(UserWarning, match=r"head\.weight left out, as the project's model has no such part"):
        import_checkpoint(path)


def test_layers_whose_names_were_sorted_keep_their_order(tmp_path: Path) -> None:
    original = hzzone(peepholes=False).eval()
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    model = import_checkpoint(tmp_path / "model.safetensors", "hzzone")
    frames = torch.randn(2, 3, 1, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(model(frames, 4), original(frames, 4), rtol=0, atol=1e-5)


def test_an_order_that_nothing_says_is_refused() -> None:
    tensors = hzzone(peepholes=False).state_dict()
    renamed = {name.replace("conv1_2", "conv1_1"): tensor for name, tensor in tensors.items()}
    with pytest.raises(ValueError, match="may stand in either order"):
        convert(CASES["hzzone"], {name: renamed[name] for name in sorted(renamed)})


@pytest.mark.parametrize("prefix", ["module.", "module._orig_mod."])
def test_averaged_weights(prefix: str, tmp_path: Path) -> None:
    make = partial(Ndrplz, 2, [4], [3])
    tensors = {f"{prefix}{name}": tensor for name, tensor in make().state_dict().items()}
    torch.save({"n_averaged": torch.tensor(7), **tensors}, tmp_path / "ema.pth")
    assert not import_foreign(tmp_path / "ema.pth", "auto", {}).dropped


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ndrplz", {"batch_first": "no"}, "batch_first is 'no'; it needs one of True, False"),
        ("automan000", {"effective_step": 1}, "effective_step is given without step"),
        ("automan000", {"step": (5, 6)}, r"step is \(5, 6\); it needs a whole number"),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    case = CASES[name]._replace(options=options)
    with pytest.raises(ValueError, match=message):
        convert(case, case.make().state_dict())


def shapes(tensor: Tensor) -> list[Tensor]:
    """Shapes that no project has: a number, a prime one, none at all, one more axis."""
    return [torch.zeros(()), torch.zeros(7), torch.zeros(0, *tensor.shape[1:]), tensor.unsqueeze(-1)]


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"ndrplz, one cell"}))  # which may have more axes
def test_a_tensor_of_another_shape_is_refused(name: str) -> None:
    case = CASES[name]
    tensors = case.make().state_dict()
    options = {"patch_size": 2} if case.source == "openstl" else {}
    case = case._replace(options=options | case.options)
    for changed in (key for key in tensors if not any(word in key for word in NEEDLESS)):
        for other in shapes(tensors[changed]):
            with pytest.raises(ValueError, match=r"^[^\n]+$"):
                convert(case, {**tensors, changed: other})


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
