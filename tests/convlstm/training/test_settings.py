"""The settings of a run: to JSON and back, and what a later command may not change."""

import dataclasses
import json
from pathlib import Path

import pytest

import train  # the settings are those of the script
from convlstm import StackedForecaster, StackedForecasterConfig
from convlstm.core.saving import save_checkpoint
from convlstm.models.encoder_forecaster import EncoderForecasterConfig
from convlstm.training import settings


@pytest.mark.parametrize("model", [StackedForecasterConfig(cell="gru"), EncoderForecasterConfig()])
def test_settings_survive_json(model) -> None:
    config = train.Config(
        model=model, teacher_forcing=0.0, data=train.DataConfig(digits="mnist", root=Path("x/y"))
    )
    text = json.dumps(settings.settings_to_dict(config))
    assert settings.settings_from_dict(train.Config, json.loads(text)) == config


def test_paths_and_tuples_come_back_as_such() -> None:
    config = train.Config(init_from=Path("runs/first"), freeze=("cells.0", "head"))
    read = settings.settings_from_dict(
        train.Config, json.loads(json.dumps(settings.settings_to_dict(config)))
    )
    assert read == config


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="settings have 'colour', which Config does not know"):
        settings.settings_from_dict(train.Config, {"colour": 1})
    with pytest.raises(ValueError, match="steps is 0"):
        settings.settings_from_dict(train.Config, {"steps": 0})


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


def test_a_run_keeps_its_settings() -> None:
    stored = train.Config()
    same = dataclasses.replace(
        stored, score=Path("runs/x"), device="cpu", data=train.DataConfig(root=Path("y"))
    )
    settings.require_same(same, stored, "score")
    other = dataclasses.replace(same, data=train.DataConfig(image_size=32), seed=3)
    said = r"score: a run keeps .*, but data.image_size, seed was given; what may be given with --score"
    with pytest.raises(ValueError, match=said):
        settings.require_same(other, stored, "score")
    small = dataclasses.replace(stored, model=StackedForecasterConfig(hidden_channels=(3,)))
    with pytest.raises(ValueError, match=r"but model.hidden_channels was given"):
        settings.require_same(small, stored, "resume")


def test_a_value_of_another_type_is_named() -> None:
    values = settings.settings_to_dict(train.PRESETS["tiny"]) | {"lr": "x"}
    with pytest.raises(ValueError, match="lr is 'x'; it needs a finite number, above 0, at most 1,000"):
        settings.settings_from_dict(train.Config, values)
