"""How a run is judged: its loss, its validations, its test, and the rollouts that it shows."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from einops import reduce
from torch import Tensor, nn
from tqdm import tqdm

from convlstm.clips import write_clip
from convlstm.clips.pictures import comparison
from convlstm.core.files import write_json
from convlstm.evaluation import (
    RESAMPLES,
    TRAINING,
    Evaluation,
    Predict,
    Rows,
    Source,
    copy_last,
    format_evaluation,
    measure,
    summarize,
)
from convlstm.evaluation.metrics import Contingency
from convlstm.hub.checkpoint import load_checkpoint
from convlstm.models.forecaster import as_forecaster
from convlstm.training.distributed import Distributed
from convlstm.training.hardware import predictor
from convlstm.training.run import VALIDATED, RunDirectory
from convlstm.training.stopping import Stopped

Loss = Literal["mse", "cross-entropy"]
Progress = Callable[[int], object]  # called with a number of sequences; may raise `Stopped`

GIF_FPS = 5  # frames per second
SHOWN = 3  # sequences of a GIF


def frame_loss(name: Loss, predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each frame, in the field's units: summed over its pixels.

        mse            sum over C, H, W of (p - y)^2
        cross-entropy  -sum over C, H, W of (y log p + (1 - y) log(1 - p)), in nats

    With p = sigmoid(z), the gradient of the cross-entropy with respect to z is p - y. A p of exactly 0 or 1
    is replaced by the number next to it, so that its loss stays finite; its gradient is 0. Networks give
    probabilities in float32, which are rarely so close (see `convlstm.ops.functional.probabilities`).

    Args:
        name: name of the loss.
        predictions: p, (B, T, C, H, W); for the cross-entropy probabilities, in [0, 1].
        targets: y, of the same shape, in [0, 1].

    Returns:
        (B, T), in float32 or float64; not finite where predictions are not.

    Raises:
        ValueError: an unknown loss.
    """
    # Not torch's binary_cross_entropy, which raises at a NaN, and on a GPU ends the process; a run skips it.
    p = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
    if name == "mse":
        pixel_loss = (p - targets).square()
    elif name == "cross-entropy":
        numbers = torch.finfo(p.dtype)
        p = p.clamp(numbers.tiny, 1 - numbers.eps / 2)
        pixel_loss = -torch.lerp(torch.log1p(-p), p.log(), targets.to(p.dtype))
    else:
        raise ValueError(f"loss is {name!r}; it needs one of {', '.join(get_args(Loss))}")
    return reduce(pixel_loss, "b t c h w -> b t", "sum")


def validate(
    settings: Any, network: nn.Module, source: Source, distributed: Distributed, progress: Progress
) -> Evaluation:
    """Score a network on the first sequences of the validation set; see `score_predictors`."""
    predictors = {"val": predictor(as_forecaster(network, "network"), settings.bfloat16)}
    count = min(settings.validation_sequences, len(source))
    device = next(network.parameters()).device
    return score_predictors(settings, predictors, source, count, device, distributed, progress)


def score_predictors(
    settings: Any,
    predictors: Mapping[str, Predict],
    source: Source,
    count: int,
    device: torch.device,
    distributed: Distributed,
    progress: Progress,
    resamples: int = 0,
) -> Evaluation:
    """Score predictors on sequences that the processes share; the scores do not depend on their number.

    Args:
        settings: `Config` of train.py.
        predictors: the network first, then the baselines, by name.
        source: sequences to score on.
        count: number of sequences, from the first on.
        device: device of the predictors.
        distributed: processes of the run.
        progress: called after each batch.
        resamples: of the bootstrap. Default: 0, for no intervals.

    Raises:
        Stopped: `progress` raised it, in any of the processes.
    """
    own, rows, stopped = _Share(source, count, distributed), None, None
    name = next(iter(predictors))
    options = {"probabilities": {name} if settings.loss == "cross-entropy" else (), "progress": progress}
    try:
        if len(own):
            rows = measure(predictors, own, settings.context, settings.horizon, device=device, **options)
    except Stopped as stop:
        stopped = stop.signal
    results = distributed.gather((rows, stopped))
    for _, number in results:
        if number is not None:
            raise Stopped(number)
    shares = [share for share, _ in results if share is not None]
    order = torch.cat([torch.arange(n, count, distributed.size) for n in range(distributed.size)]).argsort()
    merged = {name: _merged([share[name] for share in shares], order) for name in predictors}
    return summarize(merged, settings.context, TRAINING, resamples=resamples)


class _Share:
    """The sequences of a process: rank, rank + size, ... of the first so many of a source."""

    def __init__(self, source: Source, count: int, distributed: Distributed):
        self._source, self._numbers = source, range(distributed.rank, count, distributed.size)

    def __len__(self) -> int:
        return len(self._numbers)

    def batch(self, indices: Any, device: Any = "cpu") -> Tensor:
        return self._source.batch([self._numbers[n] for n in indices], device)


def _merged(shares: list[Rows], order: Tensor) -> Rows:
    """Return the rows of all sequences, in this order of those of the processes laid end to end."""

    def merged(*parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=1)[:, order]

    counts = Contingency(*map(merged, *(share.counts for share in shares)))
    return shares[0]._replace(metrics=merged(*(share.metrics for share in shares)), counts=counts)


def validate_if_due(
    settings: Any, run: RunDirectory, network: nn.Module, source: Source, progress: Progress
) -> None:
    """Validate a network if one of the run's equal parts has ended: score it, keep the best, save the state.

    Args:
        settings: `Config` of train.py.
        run: the run, which also gets a rollout of the network.
        network: the averaged weights.
        source: validation set, of which `validation_sequences` are scored if there are so many.
        progress: called after each batch.

    Raises:
        ArithmeticError: the network's forecasts are not finite.
        Stopped: `progress` raised it; the run resumes with this validation.
    """
    now = run.progress
    if not now.validation_is_due(settings.steps, settings.validations):
        return
    with run.watch.paused():
        found = validate(settings, network, source, run.distributed, progress)
        scores = found.model
        metric, name = ("mse", "MSE") if settings.loss == "mse" else ("cross_entropy", "cross-entropy")
        best = scores[metric].mean
        if not math.isfinite(best):
            raise ArithmeticError(
                f"the validation {name} is {best} at step {now.step}; lower --lr or --clip-norm and begin "
                f"anew, from the best network so far with --init-from {run.path}"
            )
        now.validated = now.step
        logged = {VALIDATED: "mse", "val/mae": "mae", "val/ssim": "ssim"}
        logged["val/cross_entropy"] = "cross_entropy"
        run.log({tag: scores[key].mean for tag, key in logged.items() if key in scores.metrics})
        if best < now.best:
            now.best = best
            means = {name: value for name, value in scores.summary().items() if not isinstance(value, list)}
            run.save_best(network, {"validation": {"sequences": found.sequences} | means})
        run.sample(lambda path: _write_comparison(path, settings, network, source, settings.horizon))
        run.save()
        run.distributed.print(f"step {now.step}: validation {name} {best:.1f} on {found.sequences} sequences")


def test(settings: Any, run: Path, source: Source, distributed: Distributed, progress: Progress) -> None:
    """Score a run's checkpoint beside copy-last-frame: print the table, write test-LABEL-COUNT.json.

    Args:
        settings: `Config` of train.py.
        run: directory of the run.
        source: test set, of which `test_sequences` are scored if there are so many.
        distributed: processes of the run.
        progress: called after each batch.

    Raises:
        Stopped: `progress` raised it.
    """
    device, count = distributed.device(settings.device), min(settings.test_sequences, len(source))
    model = as_forecaster(distributed.from_first(lambda: load_checkpoint(run)), str(run)).to(device)
    predictors = {type(model).__name__: predictor(model, settings.bfloat16), "copy last frame": copy_last}
    with tqdm(total=count, desc="test", unit="seq", leave=False, disable=not distributed.is_first) as bar:

        def advance(sequences: int) -> None:
            progress(sequences)
            bar.update(sequences * distributed.size)

        arguments = settings, predictors, source, count, device, distributed, advance
        found = score_predictors(*arguments, resamples=RESAMPLES)
    name = "Test" if settings.data.clips else "Moving MNIST test"
    title = f"{name}, {settings.data.title}, {count:,} of {len(source):,} sequences"
    if distributed.is_first:
        results: dict[str, Any] = {"set": title}
        for scores in (found.model, *found.baselines):
            results[scores.name] = {"sequences": count} | scores.summary()
        write_json(run / f"test-{settings.data.label}-{count}.json", results)
    distributed.print(f"{title}\n{format_evaluation(found)}")


def write_rollout(
    settings: Any, run: Path, make_source: Callable[[int], Source], device: torch.device
) -> None:
    """Write rollout.gif, a forecast of some test sequences for twice the horizon that was trained on.

    Args:
        settings: `Config` of train.py.
        run: directory of the run.
        make_source: returns the test set, with sequences of so many frames.
        device: device to compute on.
    """
    # Clips may be no longer than what is trained on: beyond it, what really follows is not shown.
    known = settings.horizon if settings.data.clips else 2 * settings.horizon
    source, path = make_source(settings.context + known), run / "rollout.gif"
    _write_comparison(path, settings, load_checkpoint(run, device), source, 2 * settings.horizon)
    print(f"{path}: {settings.context} context frames and {2 * settings.horizon} forecast ones")


def _write_comparison(path: Path, settings: Any, network: nn.Module, source: Source, horizon: int) -> None:
    """Write a network's forecast of the first sequences of a source beside them, as a GIF."""
    clips = source.batch(range(min(SHOWN, len(source))), next(network.parameters()).device)
    given, truth = clips[:, : settings.context], clips[:, settings.context :]
    forecast = predictor(as_forecaster(network, "network"), settings.bfloat16)(given, horizon)
    write_clip(path, comparison(*(x.float().cpu().numpy() for x in (given, forecast, truth))), GIF_FPS)
