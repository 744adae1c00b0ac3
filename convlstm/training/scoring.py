"""How a run is judged: its validations, its test, the rollouts that it shows."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from convlstm.clips import write_clip
from convlstm.clips.pictures import comparison
from convlstm.core.files import write_json
from convlstm.evaluation import RESAMPLES, Predict, Source, copy_last, format_evaluation
from convlstm.hub.checkpoint import load_checkpoint
from convlstm.models.forecaster import Forecaster, as_forecaster
from convlstm.training.hardware import BFloat16, predictor
from convlstm.training.losses import Loss, judged
from convlstm.training.run import VALIDATED, RunDirectory
from convlstm.training.stopping import Stopping
from convlstm.training.world import World

GIF_FPS = 5  # frames per second
SHOWN = 3  # sequences of a GIF


class Settings(Protocol):
    """What is asked of a run's settings here."""

    @property
    def context(self) -> int:
        """Frames given."""
        ...

    @property
    def horizon(self) -> int:
        """Frames to predict."""
        ...

    @property
    def validation_sequences(self) -> int:
        """How many are scored on the way."""
        ...

    @property
    def test_sequences(self) -> int:
        """How many at the end."""
        ...

    @property
    def loss(self) -> Loss:
        """What is trained on, and so what the best network is chosen by."""
        ...

    @property
    def bfloat16(self) -> BFloat16:
        """Whether to compute in it."""
        ...


def validate(
    settings: Settings,
    run: RunDirectory,
    world: World,
    stopping: Stopping,
    model: Forecaster,
    source: Source,
    notes: Mapping[str, Any],
) -> str:
    """Score a network; keep it if it is the best so far, show a rollout of it, save the run's state.

    Args:
        settings: of the run.
        run: where all that goes.
        world: the processes, which share the sequences.
        stopping: ends it early when the run is to stop.
        model: the averaged weights.
        source: the validation set, of which `validation_sequences` are scored if there are so many.
        notes: for config.json, if this is the best.

    Returns:
        The result, for the terminal.

    Raises:
        ArithmeticError: the network's forecasts are not finite.
        Stopped: the run is to stop; it has not been validated then.
    """
    now, device, predict = run.progress, next(model.parameters()).device, predictor(model, settings.bfloat16)
    lengths, count = (settings.context, settings.horizon), min(settings.validation_sequences, len(source))
    options = {"sequences": count, "device": device, "progress": stopping.check}
    options["probabilities"] = {"val"} if settings.loss == "cross-entropy" else ()
    scores = world.score({"val": predict}, source, *lengths, **options).model
    name, score = judged(settings.loss, scores)
    if not math.isfinite(score):
        raise ArithmeticError(
            f"the validation {name} is {score} at step {now.step}; lower --lr or --clip-norm and begin "
            f"anew, from the best network so far with --init-from {run.path}"
        )
    now.validated = now.step
    logged = {VALIDATED: "mse", "val/mae": "mae", "val/ssim": "ssim", "val/cross_entropy": "cross_entropy"}
    run.log({tag: scores[name].mean for tag, name in logged.items() if name in scores.metrics})
    if score < now.best:
        now.best = score
        run.save_best(
            model, {"step": now.step, "validation": {"sequences": count} | scores.summary(), **notes}
        )
    clips = source.batch(range(min(SHOWN, len(source))), device)
    run.sample(lambda path: _write_rollout(path, predict, clips, *lengths))
    run.save()
    return f"step {now.step}: validation {name} {score:.1f} on {count} sequences"


def test(
    settings: Settings,
    run: Path,
    world: World,
    stopping: Stopping,
    source: Source,
    device: torch.device,
    title: str,
    label: str,
) -> str:
    """Score a run's checkpoint beside copy-last-frame, and write test-LABEL-COUNT.json.

    Args:
        settings: of the run.
        run: its directory.
        world: the processes, which share the sequences.
        stopping: ends it early.
        source: the test set, of which `test_sequences` are scored if there are so many.
        device: to compute on.
        title: of the set, in words.
        label: of the set, for the file's name.

    Returns:
        The table, for the terminal.

    Raises:
        Stopped: the run is to stop.
    """
    from tqdm import tqdm  # needed by training alone

    model = as_forecaster(world.from_first(lambda: load_checkpoint(run)), str(run)).to(device)
    name = type(model).__name__
    predictors = {name: predictor(model, settings.bfloat16), "copy last frame": copy_last}
    lengths, count = (settings.context, settings.horizon), min(settings.test_sequences, len(source))
    bar = tqdm(total=count, desc="test", unit="seq", dynamic_ncols=True, leave=False, disable=not world.first)

    def progress(scored: int) -> None:
        stopping.check()
        bar.update(scored * world.size)

    with bar:
        options = {"sequences": count, "device": device, "progress": progress}
        options["probabilities"] = {name} if settings.loss == "cross-entropy" else ()
        found = world.score(predictors, source, *lengths, **options, resamples=RESAMPLES)
    title = f"{title}, {count:,} of {len(source):,} sequences"
    if world.first:
        results: dict[str, Any] = {"set": title}
        for scores in (found.model, *found.baselines):
            results[scores.name] = {"sequences": count} | scores.summary()
        write_json(run / f"test-{label}-{count}.json", results)
    return f"{title}\n{format_evaluation(found)}"


def show(settings: Settings, run: Path, source: Source, horizon: int, device: torch.device) -> str:
    """Write rollout.gif, a forecast of the first sequences of a source; return a line about it."""
    model = as_forecaster(load_checkpoint(run, device), str(run))
    clips = source.batch(range(min(SHOWN, len(source))), device)
    _write_rollout(run / "rollout.gif", predictor(model, settings.bfloat16), clips, settings.context, horizon)
    return f"{run / 'rollout.gif'}: {settings.context} context frames and {horizon} forecast ones"


def _write_rollout(path: Path, predict: Predict, clips: Tensor, context: int, horizon: int) -> None:
    """Write a forecast of clips (B, T, C, H, W) beside them, as a GIF.

    The horizon is T - context or more; beyond T the truth is not known.
    """
    given, truth = clips[:, :context], clips[:, context:]
    forecast = predict(given, horizon)
    write_clip(path, comparison(*(x.float().cpu().numpy() for x in (given, forecast, truth))), GIF_FPS)
