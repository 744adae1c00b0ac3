"""Train a forecaster on Moving MNIST or your own clips, test it, show a rollout.

    python train.py                        default preset: minutes on two CPU cores
    python train.py --preset tiny          seconds, to see that everything works
    python train.py --data.clips DIR       on a folder of videos, GIFs or frames
    python train.py --init-from runs/NAME --freeze cells.0  fine-tune
    torchrun --nproc-per-node 4 train.py   each step shared by four processes

Ctrl-C stops a run; --resume continues it. A run writes to runs/NAME/:
    model.safetensors, config.json  the best network in validation
    metrics.jsonl, events.*         the log, events for TensorBoard
    test-*.json, rollout.gif        scores and a rollout on the test set
    samples/, states/               rollouts on the way, what --resume reads

To change the batch or the loss, edit `get_batch` or `forecast_loss`; --loss still selects the best network.
To train a network of your own, import its module, and edit PRESETS and the types of `preset` and `model`.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from convlstm import EncoderForecasterConfig, FullyConnectedForecasterConfig, StackedForecasterConfig
from convlstm.hub.transfer import freeze, start_from
from convlstm.models.forecaster import build, network_of
from convlstm.training import hardware, optimizers, scoring, settings
from convlstm.training.distributed import Distributed, join
from convlstm.training.run import new_path, open_run
from convlstm.training.sampling import draw_use_target, true_frame_probability
from convlstm.training.stopping import Stopping, exit_status, explain_out_of_memory, find_nonfinite
from datasets import FIXED_SEQUENCES, DataConfig, Source

LOG_EVERY = 10  # optimizer steps


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a training run."""

    preset: Literal["tiny", "default", "small", "base", "paper", "fully-connected"] = "default"
    """Named set of defaults. `--preset paper --help` shows the options of that network."""
    name: str | None = None
    """Name of the run, which makes its folder runs/NAME. Without one: the preset, date and time."""
    resume: Path | None = None
    """Folder of a run to continue. May change: device, compile, accumulate, recompute and save_minutes."""
    score: Path | None = None
    """Folder of a run to score on the test set once more. Nothing is trained."""
    init_from: Path | None = None
    """Folder of a checkpoint to start from; tensors that do not fit keep their fresh values."""
    freeze: tuple[str, ...] = ()
    """Modules to freeze, such as cells.0, encoder or head."""
    device: str = "auto"
    """Device to train on: cuda, mps or cpu. auto: the first available."""
    bfloat16: Literal["auto", "on", "off"] = "auto"
    """Autocast to bfloat16. auto turns it on where it is faster; CPUs are timed."""
    compile: bool = False
    """Compile the network with torch.compile: a slow start, faster steps on GPUs."""
    seed: int = 0
    """Seed of the initial weights, the training sequences and scheduled sampling."""
    context: int = 10
    """Frames that the network is given."""
    horizon: int = 10
    """Frames that the network predicts."""
    steps: int = 2500
    """Optimizer steps. The schedules scale with it."""
    minutes: float | None = None
    """Minutes to train for, validations included, in place of --steps. The speed is measured first."""
    batch_size: int = 4
    """Sequences per optimizer step, over all processes."""
    accumulate: int = 1
    """Gradient accumulation: micro-batches per step and process."""
    recompute: bool = False
    """Activation checkpointing: less memory, slower."""
    loss: scoring.Loss = "mse"
    """Training loss, which also selects the best network. cross-entropy needs --model.output sigmoid."""
    optimizer: optimizers.OptimizerName = "muon"
    """Optimizer: muon (with AdamW for the head, biases and peepholes), adamw or adam."""
    lr: float = 4e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Weight decay of the optimizer, per step (muon and adamw multiply it by the learning rate)."""
    schedule: Literal["cosine", "one-cycle"] = "cosine"
    """Schedule of the learning rate: cosine (linear warm-up, then half a cosine) or one-cycle."""
    warmup: float = 0.05
    """Fraction of the steps in which the learning rate rises."""
    clip_norm: float = 1.0
    """Largest norm of the gradient. Losses are summed over pixels: at 1 practically every step is clipped."""
    ema_decay: float = 0.99
    """Decay, per step, of the moving average of the weights, which is validated, tested and saved."""
    teacher_forcing: float = 0.8
    """Scheduled sampling: fraction of steps over which the true frame's probability falls to 0. 0: off."""
    validations: int = 5
    """Validations in a run, evenly spaced. Each of them saves the state."""
    save_minutes: float = 5.0
    """Minutes between saved states, at most."""
    validation_sequences: int = 200
    """Sequences per validation: the first of Moving MNIST's 10,000, or of your clips (all, if fewer)."""
    test_sequences: int = 1000
    """Sequences of the test: the first of Moving MNIST's 10,000, or of your clips (all, if fewer)."""
    data: DataConfig = field(default_factory=DataConfig)
    model: StackedForecasterConfig | EncoderForecasterConfig | FullyConnectedForecasterConfig = field(
        default_factory=partial(StackedForecasterConfig, hidden_channels=(32, 32, 32))
    )

    def __post_init__(self) -> None:
        settings.check_settings(self, most_sequences=FIXED_SEQUENCES)
        self.data.check(self.model.channels, self.model.frame_size_error)


adamw_config = partial(Config, batch_size=16, optimizer="adamw", lr=1e-3)
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
    "small": Config(  # python train.py --preset small --minutes 110, on two CPU cores
        preset="small",
        steps=20_000,
        lr=3e-3,
        ema_decay=0.995,
        validations=10,
        validation_sequences=500,
        data=DataConfig(digits="mnist"),
        model=StackedForecasterConfig(hidden_channels=(64,) * 4, kernel_size=3),
    ),
    "base": Config(  # python train.py --preset base --minutes 20, on a GPU
        preset="base",
        steps=125_000,
        batch_size=16,
        lr=2e-3,
        ema_decay=0.999,
        compile=True,
        validations=20,
        validation_sequences=1000,
        data=DataConfig(digits="mnist"),
        model=StackedForecasterConfig(hidden_channels=(128,) * 4, kernel_size=3),
    ),
    "paper": adamw_config(preset="paper", teacher_forcing=0.0, model=EncoderForecasterConfig()),
    "fully-connected": adamw_config(preset="fully-connected", model=FullyConnectedForecasterConfig()),
}
parse = partial(settings.parse_settings, kind=Config, presets=PRESETS, description=__doc__)


def get_batch(
    config: Config, source: Source, step: int, indices: Tensor, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sequences with these numbers, and where the network reads their true frames.

    Returns:
        context (B, context, C, H, W) and targets (B, horizon, C, H, W), in [0, 1];
        use_target, bool (B, horizon - 1), drawn for this step (scheduled sampling).
    """
    clips = source.batch(indices, device)  # (B, T, C, H, W)
    context, targets = clips.split((config.context, config.horizon), dim=1)
    probability = true_frame_probability(config, step)
    use_target = draw_use_target(probability, config.seed, step, indices, config.horizon)
    return context, targets, use_target.to(device)


def forecast_loss(
    config: Config, network: nn.Module, context: Tensor, targets: Tensor, use_target: Tensor
) -> Tensor:
    """Return the loss of a batch (see `get_batch`): summed over each frame's pixels, averaged over frames."""
    with hardware.autocast(config.bfloat16, context.device):
        if not network_of(config.model).feedback:  # it never reads its own predictions
            predictions = network(context, config.horizon)
        else:
            options = {"targets": targets, "use_target": use_target, "return_context": True}
            predictions = network(context, config.horizon, **options)
            targets = torch.cat((context[:, 1:], targets), dim=1)  # every frame but the first was predicted
    return scoring.frame_loss(config.loss, predictions, targets).mean()


def train(config: Config, distributed: Distributed) -> Path:
    """Train a network, test it and show its rollout; return the run's directory."""
    resume = config.resume
    path = resume or distributed.from_first(lambda: new_path(config.name, config.preset))
    distributed.check_batch(config.batch_size, config.accumulate)
    device = distributed.device(config.device)
    bfloat16 = distributed.from_first(partial(hardware.choose_bfloat16, config.bfloat16, device))
    config = replace(config, resume=None, bfloat16=bfloat16)
    with distributed.first_alone():  # what it downloads or decodes is there for the others
        train_set, val_set = make_source(config, "train"), make_source(config, "val")
        notes = settings.test_clips(config, resume)  # entries of config.json

    torch.manual_seed(config.seed)
    model = build(config.model).to(device)
    hardware.set_recompute(model, config.recompute)
    if config.init_from and not resume:
        settings.check_unseen(config, config.init_from)
        notes |= start_from(model, config.init_from, distributed.print)
    freeze(model, config.freeze)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    optimizer = optimizers.make_optimizer(config.optimizer, model, config.weight_decay, bfloat16 == "on")
    network = distributed.wrap(model, device, compile=config.compile)

    def losses(forecaster: nn.Module, step: int) -> Iterator[Tensor]:
        """Recompute a step's losses outside the loop: to time it (--minutes) or find what is not finite."""
        for indices in distributed.split(step, config.batch_size, config.accumulate):
            yield forecast_loss(config, forecaster, *get_batch(config, train_set, step, indices, device))

    saved = {"model": model, "ema": ema, "optimizer": optimizer}
    where = hardware.describe(device, config.bfloat16, distributed.size)
    distributed.print(f"{path}: {hardware.count_parameters(model)}, {config.data.title}, on {where}")
    with (
        Stopping(alone=distributed.size == 1) as stopping,
        explain_out_of_memory(device, config.batch_size, config.accumulate, distributed.size),
        open_run(path, distributed, saved, new=not resume) as run,
    ):
        if config.minutes and not resume:
            validation = partial(scoring.validate, config, ema.module, val_set, distributed, stopping.check)
            measure = partial(hardware.steps_in_time, config, saved, partial(losses, network), validation)
            steps = measure(lambda: stopping.stop_if(distributed.sum(stopping.is_requested())[0] > 0), device)
            config = replace(config, steps=distributed.from_first(lambda: steps))
        progress = run.begin_or_restore(config, ema.module, notes, new=not resume)
        validate = partial(scoring.validate_if_due, config, run, ema.module, val_set, stopping.check)
        validate()  # due if the run was stopped during a validation
        with tqdm(total=config.steps, initial=progress.step, disable=not distributed.is_first) as bar:
            for step in range(progress.step, config.steps):
                lr = config.lr * optimizers.lr_factor(step, config.steps, config.schedule, config.warmup)
                optimizers.set_lr(optimizer, lr)
                optimizer.zero_grad()
                own_loss = torch.zeros((), device=device)
                parts = distributed.split(step, config.batch_size, config.accumulate)
                for indices in parts:
                    context, targets, use_target = get_batch(config, train_set, step, indices, device)
                    with distributed.average_gradients(last=indices is parts[-1]):
                        loss = forecast_loss(config, network, context, targets, use_target)
                        loss = loss * (len(indices) / config.batch_size)  # its share of the step's mean
                        (loss * distributed.size).backward()  # DDP divides by the size: undo it
                    own_loss += loss.detach()
                logs = (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps
                layer_norms = optimizers.gradient_norms(model) if logs else {}
                total = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
                share, norm = torch.stack((own_loss, total)).tolist()  # waits for the device, once
                step_loss, stops = distributed.sum(share, stopping.is_requested())
                progress.step += 1  # a step that is skipped counts, too
                if math.isfinite(step_loss) and math.isfinite(norm):
                    nn.utils.clip_grads_with_norm_(model.parameters(), config.clip_norm, total)
                    optimizer.step()
                    ema.update_parameters(model)
                    progress.skipped_in_a_row = 0
                else:
                    run.skip_step(step_loss, partial(find_nonfinite, model, losses(model, step)))
                bar.update()
                if logs:
                    values = {"loss": step_loss, "gradient_norm": norm, "lr": lr}
                    values["true_frame_probability"] = true_frame_probability(config, step)
                    run.log_training(values, layer_norms)
                    bar.set_postfix_str(f"loss {step_loss:.1f}, gradient {norm:.0f}")
                stopping.stop_if(stops > 0)
                run.save_after(config.save_minutes)
                validate()
        scoring.test(config, path, make_source(config, "test"), distributed, stopping.check)
        if distributed.is_first:
            scoring.write_rollout(config, path, partial(make_source, config, "test"), device)
    return path


def test_again(config: Config, path: Path, distributed: Distributed) -> Path:
    """Score the checkpoint of a run on its test set; return the run's directory."""
    settings.check_unseen(config, path)
    with distributed.first_alone():
        settings.test_clips(config, path)
    with Stopping(alone=distributed.size == 1) as stopping:
        scoring.test(config, path, make_source(config, "test"), distributed, stopping.check)
    return path


def make_source(config: Config, split: str, length: int | None = None) -> Source:
    """Return the training stream ("train") or a fixed set ("val", "test") of a run's sequences."""
    length = length or config.context + config.horizon
    return config.data.open(split, seed=config.seed, length=length, channels=config.model.channels)


def main(config: Config | None = None) -> Path:
    """Train or score, as the settings say (None: the command line's); return the run's directory."""
    with join() as distributed:
        if config is None:
            with distributed.first_alone():  # which alone says what is wrong with them
                config = parse(sys.argv[1:])
        return test_again(config, config.score, distributed) if config.score else train(config, distributed)


if __name__ == "__main__":
    sys.exit(exit_status("train.py", main))
