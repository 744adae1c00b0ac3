"""Train a forecaster on Moving MNIST or on clips, score it, and show its rollout as a GIF.

    python train.py                                     the default preset, minutes on two CPU cores
    python train.py --preset tiny                       seconds, to see that everything works
    python train.py --steps 5000 --data.digits mnist    longer, on all of MNIST
    python train.py --data.clips DIR                    on a folder of your own films, GIFs or frames
    python train.py --resume runs/NAME                  go on with a run that was stopped
    python train.py --init-from runs/NAME --freeze cells.0    fine-tune, the first cell kept as it is
    python train.py --score runs/NAME --test-sequences 10000
    python train.py --help                              every setting, with its default

A run ends as runs/NAME/: model.safetensors and config.json (the checkpoint that was best in validation),
metrics.jsonl and a TensorBoard log, test-DIGITS-COUNT.json (test-clips-COUNT.json), rollout.gif, and
training.pt to resume from.
"""

import dataclasses
import math
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from convlstm import training
from convlstm.checkpoint import load_checkpoint, read_config, save_checkpoint
from convlstm.evaluation import copy_last, evaluate_all, format_scores
from convlstm.forecaster import Forecaster, as_forecaster
from convlstm.networks import EncoderForecasterConfig, StackedForecasterConfig
from convlstm.registry import build
from convlstm.sampling import draw_use_target, linear_decay
from convlstm.settings import check_range, parse_settings, provenance, require_same, settings_of
from convlstm.transfer import freeze, origin_of, start_from
from datasets import FIXED_SEQUENCES, DataConfig, Source

LOG_EVERY = 10  # optimizer steps
GIF_FPS = 5  # frames per second


@dataclass(frozen=True, kw_only=True)
class Config:
    """A training run."""

    preset: Literal["tiny", "default", "paper"] = "default"
    """Where the defaults of all settings come from."""
    name: str | None = None
    """Name of the run, a folder under runs/ (default: preset, date and time)."""
    resume: Path | None = None
    """A run's folder, to go on with it under its own settings; with it may be given --device and
    --compile."""
    score: Path | None = None
    """A run's folder, to score on the test set of --data.digits; nothing is trained."""
    init_from: Path | None = None
    """A checkpoint's folder, such as a run's, whose weights the run begins with. The network may be another:
    what fits is loaded, and what was done is printed (see `convlstm.load_weights`)."""
    freeze: tuple[str, ...] = ()
    """Parts of the network that keep the weights they begin with: whole beginnings of its parameters' names,
    such as cells.0, encoder or head."""
    device: str = "auto"
    """cuda, mps or cpu; auto takes the first of them that there is."""
    bfloat16: Literal["auto", "on", "off"] = "auto"
    """Compute in bfloat16 (autocast); auto where the hardware multiplies it. A run keeps what it began in."""
    compile: bool = False
    """Run the network through torch.compile: slow to begin, of use on GPUs."""
    seed: int = 0
    """Decides the weights' initialisation, the training sequences and the scheduled-sampling draws."""
    context: int = 10
    """Frames that the network is given."""
    horizon: int = 10
    """Frames that it is to predict."""
    steps: int = 2500
    """Optimizer steps; all schedules stretch with them."""
    batch_size: int = 4
    """Sequences per step."""
    optimizer: Literal["adamw", "adam"] = "adamw"
    """AdamW (decoupled weight decay) or Adam."""
    lr: float = 4e-3
    """Highest learning rate."""
    weight_decay: float = 0.0
    """Of the optimizer."""
    schedule: Literal["cosine", "one-cycle"] = "cosine"
    """How the learning rate moves: linear warm-up and cosine, or one cycle."""
    warmup: float = 0.05
    """Share of the run in which the learning rate rises."""
    clip_norm: float = 1.0
    """The gradient is scaled down to this norm; the loss is in the field's unit, summed over pixels, so that
    the default acts at every step."""
    ema_decay: float = 0.99
    """Per step, of the running average of the weights that is validated, tested and saved."""
    teacher_forcing: float = 0.8
    """Share of the run over which the probability of reading true frames falls from 1 to 0 (0: never)."""
    validations: int = 5
    """How often in a run the averaged weights are scored on held-out digits or clips, and the state saved."""
    validation_sequences: int = 200
    """Of the 10,000 fixed validation sequences, the first so many; of clips, so many if there are."""
    test_sequences: int = 1000
    """Of the 10,000 fixed test sequences, the first so many; of clips, so many if there are."""
    data: DataConfig = field(default_factory=DataConfig)
    model: StackedForecasterConfig | EncoderForecasterConfig = field(
        default_factory=partial(StackedForecasterConfig, hidden_channels=(32, 32, 32))
    )

    def __post_init__(self) -> None:
        check_range(self, "seed", lambda n: -(2**63) <= n < 2**64, "-2**63 to 2**64 - 1")
        check_range(self, "context horizon steps batch_size validations", lambda n: n >= 1, "1 or more")
        fixed = "validation_sequences test_sequences"
        check_range(self, fixed, lambda n: 1 <= n <= FIXED_SEQUENCES, f"1 to {FIXED_SEQUENCES:,}")
        check_range(self, "lr", lambda x: 0 < x <= 1000, "a number above 0, at most 1,000")
        check_range(self, "clip_norm", lambda x: 0 < x < math.inf, "a number above 0")
        check_range(self, "weight_decay", lambda x: 0 <= x <= 1000, "0 to 1,000")
        check_range(self, "warmup ema_decay", lambda x: 0 <= x < 1, "0 or more, below 1")
        check_range(self, "teacher_forcing", lambda x: 0 <= x <= 1, "a share of the run, 0 to 1")
        if self.teacher_forcing and isinstance(self.model, EncoderForecasterConfig):
            raise ValueError(
                f"teacher_forcing is {self.teacher_forcing}, but an EncoderForecaster never reads its own "
                "predictions, nor true frames in their place; set it to 0"
            )
        self.data.check(self.model.channels, self.model.patch_size)


PRESETS = {
    "tiny": Config(
        preset="tiny",
        steps=6,
        validations=2,
        validation_sequences=8,
        test_sequences=16,
        model=StackedForecasterConfig(hidden_channels=(8, 8), kernel_size=3),
    ),
    "default": Config(),
    "paper": Config(
        preset="paper", batch_size=16, lr=1e-3, teacher_forcing=0.0, model=EncoderForecasterConfig()
    ),
}


def parse(arguments: list[str]) -> Config:
    """Read the command line: first the preset or the stored run, then every setting that differs from it."""
    return parse_settings(arguments, Config, PRESETS, __doc__)


def main(config: Config) -> Path:
    """Train from the first step, or from where a run stopped, to the table of test scores and the GIF."""
    if config.score:
        stored = settings_of(Config, config.score)
        require_same(config, stored, "score", "device bfloat16 test_sequences data.digits data.root")
        config.data.require_unseen_by(stored.data)
        noted_clips(config, config.score)
        test(config.score, config)
        return config.score
    resume = config.resume
    path = resume or training.new_path(config.name, config.preset)
    if resume:
        require_same(config, settings_of(Config, resume), "resume", "device compile")
    device = training.choose_device(config.device)
    bfloat16 = training.choose_bfloat16(config.bfloat16, device)
    config = dataclasses.replace(config, resume=None, bfloat16=bfloat16)
    if config.init_from and not resume and "training" in read_config(config.init_from):
        config.data.require_unseen_by(settings_of(Config, config.init_from).data)
    train_set, val_set = make_source(config, "train"), make_source(config, "val")

    torch.manual_seed(config.seed)
    model = build(config.model).to(device)
    notes = provenance(config) | noted_clips(config, resume)
    notes |= origin_of(resume) if resume else start_from(model, config.init_from)
    frozen = freeze(model, config.freeze)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    averaged = cast(Forecaster, ema.module)
    predict, lengths = training.predictor(averaged, bfloat16), (config.context, config.horizon)
    optimizer_type = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer_type(trained, weight_decay=config.weight_decay)
    forward = torch.compile(model) if config.compile else model
    parts = {"model": model, "ema": ema, "optimizer": optimizer}
    step, best = training.load_state(path, **parts) if resume else (0, math.inf)

    count = sum(p.numel() for p in model.parameters())
    where = training.describe(device, bfloat16)
    size = f"{count:,} parameters" + (f" ({frozen:,} frozen)" if frozen else "")
    print(f"{path}: {size}, {config.data.title}, on {where}")
    with (
        training.open_run(path, step, new=not resume) as run,
        tqdm(total=config.steps, initial=step, unit="step", dynamic_ncols=True) as bar,
    ):
        if not resume:  # so that a run can be resumed from its first second
            save_checkpoint(path, averaged, {"step": 0} | notes)
            run.save_state(0, best, **parts)
        watch, logged = training.Stopwatch(device), step
        while step < config.steps:
            lr = config.lr * training.lr_factor(step, config.steps, config.schedule, config.warmup)
            for group in optimizer.param_groups:
                group["lr"] = lr
            teacher = linear_decay(step, config.teacher_forcing * config.steps)
            indices = torch.arange(step * config.batch_size, (step + 1) * config.batch_size)
            clips = train_set.batch(indices, device)  # (B, context + horizon, 1, H, W)
            context, targets = clips.split(lengths, dim=1)
            with training.autocast(bfloat16, device):
                if model.feedback:
                    told = draw_use_target(teacher, config.seed, step, indices, config.horizon).to(device)
                    options = {"targets": targets, "use_target": told, "return_context": True}
                    predictions = forward(context, config.horizon, **options)
                    targets = clips[:, 1:]  # every frame but the first was predicted
                else:
                    predictions = forward(context, config.horizon)
            # In the field's unit: summed over the pixels of a frame, averaged over frames and sequences.
            loss = (predictions - targets).square().sum(dim=(2, 3, 4)).mean()
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trained, config.clip_norm)
            optimizer.step()
            ema.update_parameters(model)
            step += 1
            bar.update()
            if step % LOG_EVERY == 0 or step == config.steps:
                speed, logged = (step - logged) * config.batch_size / watch.lap(), step
                values = {"loss": loss.item(), "gradient_norm": norm.item(), "lr": lr}
                values |= {"teacher_forcing": teacher, "sequences_per_second": speed}
                if not math.isfinite(values["loss"]):
                    raise ArithmeticError(f"the loss is {loss} at step {step}; lower --lr or --clip-norm")
                run.log(step, {f"train/{name}": value for name, value in values.items()})
                bar.set_postfix_str(f"loss {values['loss']:.1f}, gradient {norm:.0f}, {speed:.1f} seq/s")
            if step * config.validations // config.steps > (step - 1) * config.validations // config.steps:
                with watch.paused():
                    count = min(config.validation_sequences, len(val_set))
                    options = {"sequences": count, "device": device}
                    scores = evaluate_all({"val": predict}, val_set, *lengths, **options)["val"]
                    if not math.isfinite(scores.mse):
                        raise ArithmeticError(f"validation MSE is {scores.mse} at step {step}; lower --lr")
                    run.log(step, {"val/mse": scores.mse, "val/mae": scores.mae, "val/ssim": scores.ssim})
                    bar.write(f"step {step}: validation MSE {scores.mse:.1f} on {scores.sequences} sequences")
                    if scores.mse < best:
                        best = scores.mse
                        scored = {"step": step, "validation": scores.to_dict()}
                        save_checkpoint(path, averaged, scored | notes)
                    run.save_state(step, best, **parts)
        bar.close()
        test(path, config)
        show(path, config)
    return path


def make_source(config: Config, split: str, length: int | None = None) -> Source:
    """Return the training stream ("train") or a fixed set ("val", "test") of a run's sequences."""
    length = length or config.context + config.horizon
    return config.data.open(split, seed=config.seed, length=length, channels=config.model.channels)


def noted_clips(config: Config, run: Path | None) -> dict[str, Any]:
    """Return the note of the clips kept for the test; raise ValueError if a run's own note names others."""
    length, noted = config.context + config.horizon, read_config(run) if run else None
    return config.data.test_clips(noted, length=length, channels=config.model.channels)


def test(path: Path, config: Config) -> None:
    """Score a run's checkpoint beside copy-last-frame: print the table, write test-DIGITS-COUNT.json."""
    device = training.choose_device(config.device)
    model = as_forecaster(load_checkpoint(path, device), str(path))
    predict = training.predictor(model, config.bfloat16)
    source = make_source(config, "test")
    count = min(config.test_sequences, len(source))
    with tqdm(total=count, desc="test", unit="seq", dynamic_ncols=True, leave=False) as bar:
        predictors = {type(model).__name__: predict, "copy last frame": copy_last}
        options = {"sequences": count, "device": device, "progress": bar.update}
        scores = evaluate_all(predictors, source, config.context, config.horizon, **options)
    what = "Test" if config.data.clips else "Moving MNIST test"
    title = f"{what}, {config.data.title}, {count:,} of {len(source):,} sequences"
    print(f"{title}\n{format_scores(scores)}")
    training.write_scores(path / f"test-{config.data.label}-{count}.json", title, scores)


def show(path: Path, config: Config) -> None:
    """Write rollout.gif: up to three test sequences, forecast for twice the horizon trained on."""
    device, horizon = training.choose_device(config.device), 2 * config.horizon
    model = as_forecaster(load_checkpoint(path, device), str(path))
    predict = training.predictor(model, config.bfloat16)
    # Clips need be no longer than what is trained on: beyond it, what really follows is not shown.
    known = config.horizon if config.data.clips else horizon
    source = make_source(config, "test", config.context + known)
    clips = source.batch(range(min(3, len(source))), device)
    training.write_rollout(path / "rollout.gif", predict, clips, config.context, horizon, GIF_FPS)
    print(f"{path / 'rollout.gif'}: {config.context} context frames and {horizon} forecast ones")


if __name__ == "__main__":
    sys.exit(training.exit_status("train.py", lambda: main(parse(sys.argv[1:]))))
