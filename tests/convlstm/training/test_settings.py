"""The settings of a run: to JSON and back, and what a later command may not change."""

import json
from pathlib import Path

import pytest

import train  # the settings are those of the script
from convlstm import StackedForecaster, StackedForecasterConfig
from convlstm.core.saving import save_checkpoint
from convlstm.models.encoder_forecaster import EncoderForecasterConfig
from convlstm.training import settings


@pytest.mark.parametrize(
    "config",
    [
        train.Config(model=StackedForecasterConfig(cell="gru"), data=train.DataConfig(root=Path("x/y"))),
        train.Config(model=EncoderForecasterConfig(), teacher_forcing=0.0, freeze=("encoder", "head")),
        train.Config(init_from=Path("runs/first"), data=train.DataConfig(clips=Path("x"), size=(32, 64))),
    ],
    ids=["gru", "encoder", "clips"],
)
def test_settings_survive_json(config: train.Config) -> None:
    text = json.dumps(settings.settings_to_dict(config))
    assert settings.settings_from_dict(train.Config, json.loads(text)) == config


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"colour": 1}, "settings have 'colour', which Config does not know"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": "x"}, "lr is 'x'; it needs a finite number, above 0, at most 1,000"),
    ],
)
def test_settings_that_do_not_fit_are_refused(value: dict, message: str) -> None:
    values = settings.settings_to_dict(train.PRESETS["tiny"]) | value
    with pytest.raises(ValueError, match=message):
        settings.settings_from_dict(train.Config, values)


@pytest.mark.parametrize("share", [0.0, 0.65])
def test_a_removed_setting_is_dropped_only_if_it_did_nothing(tmp_path: Path, share: float) -> None:
    model = {"network": "StackedForecaster", "hidden_channels": [3], "kernel_size": 3}
    stored = {"steps": 7, "short_sequences": share, "small_frames": 0.0, "model": model}
    (tmp_path / "config.json").write_text(json.dumps({"network": model, "training": stored}))
    if share:
        with pytest.raises(ValueError, match="settings have 'short_sequences', which Config does not know"):
            settings.settings_of(train.Config, tmp_path)
    else:
        assert settings.settings_of(train.Config, tmp_path).steps == 7


def test_settings_are_read_from_the_run(tmp_path: Path) -> None:
    config = train.Config(seed=5, model=StackedForecasterConfig(hidden_channels=(3,)))
    model = StackedForecaster(StackedForecasterConfig(hidden_channels=(3,)))
    save_checkpoint(tmp_path, model, settings.provenance(config))
    assert settings.settings_of(train.Config, tmp_path) == config
    save_checkpoint(tmp_path, model)
    with pytest.raises(
        ValueError, match=r"no training settings: this checkpoint was not written by train.py"
    ):
        settings.settings_of(train.Config, tmp_path)
