"""Files that do not hold the whole model, or more than it: nothing is imported in part without a word."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from convlstm import import_checkpoint
from convlstm.importers.checking import check
from convlstm.importers.foreign import Foreign, Imported
from convlstm.importers.sources import SOURCES, import_foreign
from tests.convlstm.importers.foreign_models import Ndrplz
from tests.convlstm.importers.test_sources import CASES, Case, hzzone

NEEDLESS = ("conv_o.", "num_batches_tracked")
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
    whole = [n for n in tensors if not any(word in n for word in NEEDLESS) and ".conv_last." not in n]
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


@pytest.mark.parametrize("name", ["automan000", "sladewinter, tanh", "hzzone, from a GPU", "openstl, old"])
@pytest.mark.parametrize(
    "change", [lambda t: t.new_ones(()), torch.flatten, lambda t: t[None], lambda t: t[:0]]
)
def test_tensors_of_other_shapes_are_refused(
    name: str, change: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    case = CASES[name]
    tensors = case.make().state_dict()
    options = {"patch_size": 2} | case.options if case.source == "openstl" else case.options
    read = [n for n in tensors if not any(word in n for word in (*NEEDLESS, ".conv_last."))]
    for changed in (name for name in read if name.endswith("weight")):
        save_file(tensors | {changed: change(tensors[changed])}, tmp_path / "model.safetensors")
        if tensors[changed].shape != change(tensors[changed]).shape:
            with pytest.raises(ValueError, match=r"model\.safetensors"):
                import_foreign(tmp_path / "model.safetensors", case.source, options)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_an_output_that_is_not_finite_checks_nothing(value: float, tmp_path: Path) -> None:
    torch.save(Ndrplz(1, [2], [3]).state_dict(), tmp_path / "model.pth")
    imported = import_foreign(tmp_path / "model.pth", "ndrplz", {})
    frames = np.zeros((1, 2, 1, 4, 4), ">f4")  # as older files have them
    output = imported.model(torch.zeros(1, 2, 1, 4, 4))[0].detach().numpy()
    assert check(imported, frames, output) < 1e-5
    output[0, 0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="output has values that are not finite"):
        check(imported, frames, output)
