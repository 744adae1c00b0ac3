"""Each project's model, saved as the project saves it: whole ones run beside the original, others refused."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from convlstm import ConvLSTM, StackedForecaster, import_checkpoint
from convlstm.importers.checking import check
from convlstm.importers.foreign import Foreign, Imported
from convlstm.importers.sources import SOURCES, import_foreign
from convlstm.models.imported import ImportedNetwork
from tests.convlstm.importers.foreign_models import (
    Automan,
    EncoderForecaster,
    FusedCell,
    Holmdk,
    Ndrplz,
    NormedCell,
    OpenSTL,
    Sladewinter,
)

FRAME = (8, 12)
LEVELS = [(4, 3, 1), (5, 3, 2)]  # channels, kernel and stride of the encoders' stages


def hzzone(peepholes: bool) -> EncoderForecaster:
    levels = iter([FRAME, FRAME, (4, 6), (4, 6)])

    def make_cell(inputs: int, hidden: int) -> FusedCell:
        cell, frame = FusedCell(inputs, hidden, 3, "ifgo", name="_conv"), next(levels)
        if peepholes:
            cell.add_peepholes("Wci Wcf Wco", 1, hidden, *frame)
        return cell

    return EncoderForecaster(make_cell, "forecaster", LEVELS, [6, 3])


class Case(NamedTuple):
    """A foreign model, what it is called with, and what of it the file does not say."""

    make: Callable[[], nn.Module]
    channels: int = 1
    call: tuple[Any, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    wrap: Callable[[dict[str, Tensor]], Any] = dict
    kind: type[nn.Module] = ImportedNetwork
    frame: tuple[int, int] = FRAME


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


STRIDES = [(3, 7, 5), (4, 5, 3)]
PLAIN = partial(FusedCell, kernel=3, order="ifgo", name="_conv")
CASES = {
    "ndrplz": Case(partial(Ndrplz, 2, [4, 3], [3, 5]), 2),
    "ndrplz, all layers alike": Case(partial(Ndrplz, 2, [4, 4], [3, 3], bias=False), 2, kind=ConvLSTM),
    "automan000": Case(
        partial(Automan, 2, [4, 3], FRAME), 2, (5, [1, 4]), {"step": 5, "effective_step": (1, 4)}
    ),
    "automan000, from a GPU": Case(partial(Automan, 2, [3], None), 2, (3, [2]), {"step": 3}),
    "sladewinter, tanh": Case(partial(Sladewinter, 2, 3, FRAME, "tanh"), 2, (), {"activation": "tanh"}),
    "sladewinter, relu": Case(partial(Sladewinter, 1, 4, FRAME, "relu"), 1, (), {"activation": "relu"}),
    "holmdk": Case(partial(Holmdk, 2, 3), 2, (4,)),
    "holmdk, Lightning": Case(
        partial(Holmdk, 1, 3),
        call=(4,),
        wrap=lambda tensors: {"state_dict": prefixed("model.", tensors), "epoch": 3},
    ),
    "hzzone": Case(partial(hzzone, peepholes=True), 1, (4,)),
    "hzzone, from a GPU": Case(partial(hzzone, peepholes=False), 1, (4,), wrap=partial(prefixed, "module.")),
    "hzzone, large strides": Case(
        partial(EncoderForecaster, PLAIN, "forecaster", STRIDES, [3, 2]), 1, (4,), frame=(15, 30)
    ),
    "jhhuang96": Case(
        partial(EncoderForecaster, partial(NormedCell, kernel=5), "decoder", LEVELS, [8, 12]),
        call=(4,),
        wrap=lambda tensors: {"epoch": 3, "state_dict": tensors, "optimizer": {"state": {}}},
    ),
    "openstl, old": Case(
        partial(OpenSTL, 1, [4, 3], 2, None, old=True), 1, (4,), {"generation": "old", "patch_size": 2}
    ),
    "openstl, new": Case(
        partial(OpenSTL, 3, [4, 3], 2, None, old=False),
        3,
        (4,),
        {"generation": "new"},
        lambda tensors: {
            "state_dict": prefixed("model.", tensors),
            "hyper_parameters": {"patch_size": 2, "stride": 1},
        },
        StackedForecaster,
    ),
    "openstl, layer norms": Case(
        partial(OpenSTL, 1, [4, 3], 2, (4, 6), old=False), 1, (4,), {"generation": "new", "patch_size": 2}
    ),
}
"""By the name of the project, and what is special about the model."""


def compare(original: nn.Module, imported: Imported, case: Case) -> None:
    """Compare the outputs for an input in the layout that the import says the original has."""
    sizes = {"b": 2, "t": 3, "c": case.channels, "h": case.frame[0], "w": case.frame[1]}
    frames = torch.randn([sizes[axis] for axis in imported.input_layout.split()])
    with torch.no_grad():
        expected = original(frames, *case.call)
    assert check(imported, frames.numpy(), expected.numpy()) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_the_import_computes_what_the_project_computes(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    torch.manual_seed(sum(map(ord, name)))
    original = case.make().eval()
    torch.save(case.wrap(dict(original.state_dict())), tmp_path / "model.pth")
    imported = import_foreign(tmp_path / "model.pth", "auto", case.options)
    assert type(imported.model) is case.kind
    assert name.split(",")[0] in imported.source.lower()
    never_used = {name for name in original.state_dict() if "conv_o" in name or "tracked" in name}
    assert imported.dropped.keys() <= never_used
    compare(original, imported, case)


@pytest.mark.parametrize("prefix", ["cell_list.0", "cell_list.0."])
def test_a_cell_by_its_prefix(prefix: str, tmp_path: Path) -> None:
    original = Ndrplz(2, [4], [3])
    torch.save(original.state_dict() | {"head.weight": torch.ones(3)}, tmp_path / "model.pth")
    imported = import_foreign(tmp_path / "model.pth", "ndrplz", {"prefix": prefix})
    assert type(imported.model) is ConvLSTM
    compare(original, imported, CASES["ndrplz"])


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


def test_a_part_of_a_larger_model_is_named(tmp_path: Path) -> None:
    tensors = prefixed("net.rnn.", Ndrplz(1, [4], [3]).state_dict()) | {"net.fc.weight": torch.rand(2, 4)}
    torch.save(tensors, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"a larger model .* say prefix='net.rnn' \(ndrplz\)$"):
        import_checkpoint(tmp_path / "whole.pth")
    assert isinstance(import_checkpoint(tmp_path / "whole.pth", prefix="net.rnn"), ConvLSTM)
    with pytest.raises(TypeError, match="path is a dict; it needs a file"):
        import_checkpoint(tensors)  # pyright: ignore[reportArgumentType]
