"""Train a forecaster on Moving MNIST or on clips, score it, and show its rollout as a GIF.

    python train.py                                     the default preset, minutes on two CPU cores
    python train.py --preset tiny                       seconds, to see that everything works
    python train.py --steps 5000 --data.digits mnist    longer, on all of MNIST
    python train.py --data.clips DIR                    on a folder of your own films, GIFs or frames
    python train.py --resume runs/NAME                  go on with a run that was stopped
    python train.py --init-from runs/NAME --freeze cells.0    fine-tune, the first cell kept as it is
    python train.py --score runs/NAME --test-sequences 10000
    python train.py --help                              every setting, with its default

    torchrun --nproc-per-node 4 train.py                the same run, each step shared by four processes

A run ends as runs/NAME/: model.safetensors and config.json (the checkpoint that was best in validation),
metrics.jsonl and a TensorBoard log, test-DIGITS-COUNT.json (test-clips-COUNT.json), rollout.gif, samples/
of the rollouts on its way, and states/ to resume from: stop it with Ctrl-C whenever you like.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from convlstm import training
from convlstm.hub.checkpoint import read_config
from convlstm.hub.transfer import freeze, start_from
from convlstm.models.encoder_forecaster import EncoderForecasterConfig
from convlstm.models.forecaster import Forecaster, build
from convlstm.models.fully_connected import FullyConnectedForecasterConfig
from convlstm.models.stacked import StackedForecasterConfig
from convlstm.training.sampling import draw_use_target, linear_decay
from convlstm.training.settings import (
    check_range,
    parse_settings,
    provenance,
    require_same,
    resumed,
    settings_of,
    settings_to_dict,
)
from datasets import FIXED_SEQUENCES, DataConfig, Source

LOG_EVERY = 10  # optimizer steps
MAY_CHANGE = "device compile accumulate recompute save_minutes"  # in a run that goes on


@dataclass(frozen=True, kw_only=True)
class Config:
    """A training run."""

    preset: Literal["tiny", "default", "small", "base", "paper", "fully-connected"] = "default"
    """Where the defaults of all settings come from."""
    name: str | None = None
    """Name of the run, a folder under runs/ (default: preset, date and time)."""
    resume: Path | None = None
    """A run's folder, to go on with it under its own settings; with it may be given --device, --compile,
    --accumulate, --recompute and --save-minutes, and another number of processes."""
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
    """Compute in bfloat16 (autocast); auto where that is faster, on a CPU by a short trial. A run keeps what
    it began in."""
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
    short_sequences: float = 0.0
    """Share of the run's work (the pixels that it trains on), from its first step on, with half the context
    and half the horizon: more sequences in the same time. 0, or 0.1 to 0.9."""
    small_frames: float = 0.0
    """The same, on Moving MNIST of 3/4 the height and width (48x48 for 64x64), with digits as fast."""
    minutes: float | None = None
    """Train for so long, validations included, in place of so many steps: the first 200 steps and a
    validation fix how many there are (till then the schedules are those of --steps, or 4,000 if more)."""
    batch_size: int = 4
    """Sequences per step, of all processes together."""
    accumulate: int = 1
    """In how many parts, one after the other, a process computes its share of a step: more need less memory,
    and change nothing but rounding."""
    recompute: bool = False
    """Keep less for the backward pass and compute the rest anew in it: less memory, slower."""
    loss: training.Loss = "mse"
    """What is trained on, and what the best network is chosen by: squared error, or the cross-entropy in nats
    of pixels as probabilities, for which the network needs --model.output sigmoid."""
    optimizer: training.OptimizerName = "muon"
    """Muon, with AdamW for the head and what is no matrix; or AdamW (decoupled weight decay), or Adam."""
    lr: float = 4e-3
    """Highest learning rate."""
    weight_decay: float = 0.0
    """Of the optimizer."""
    schedule: Literal["cosine", "one-cycle"] = "cosine"
    """How the learning rate moves: linear warm-up and cosine, or one cycle."""
    warmup: float = 0.05
    """Share of the run (of its work) in which the learning rate rises."""
    clip_norm: float = 1.0
    """The gradient is scaled down to this norm; the loss is in the field's unit, summed over pixels, so that
    the default acts at every step."""
    ema_decay: float = 0.99
    """Per step, of the running average of the weights that is validated, tested and saved."""
    teacher_forcing: float = 0.8
    """Share of the run (of its work) over which the probability of reading true frames falls from 1 to 0
    (0: never)."""
    validations: int = 5
    """How often in a run, after equal numbers of steps, the averaged weights are scored on held-out digits or
    clips, and the state saved."""
    save_minutes: float = 5.0
    """Minutes between saved states at most; they are saved at each validation and when the run is stopped,
    too."""
    validation_sequences: int = 200
    """Of the 10,000 fixed validation sequences, the first so many; of clips, so many if there are."""
    test_sequences: int = 1000
    """Of the 10,000 fixed test sequences, the first so many; of clips, so many if there are."""
    data: DataConfig = field(default_factory=DataConfig)
    model: StackedForecasterConfig | EncoderForecasterConfig | FullyConnectedForecasterConfig = field(
        default_factory=partial(StackedForecasterConfig, hidden_channels=(32, 32, 32))
    )

    def __post_init__(self) -> None:
        check_range(self, "seed", lambda n: -(2**63) <= n < 2**64, "-2**63 to 2**64 - 1")
        check_range(
            self, "context horizon steps batch_size accumulate validations", lambda n: n >= 1, "1 or more"
        )
        fixed = "validation_sequences test_sequences"
        check_range(self, fixed, lambda n: 1 <= n <= FIXED_SEQUENCES, f"1 to {FIXED_SEQUENCES:,}")
        check_range(self, "lr", lambda x: 0 < x <= 1000, "a number above 0, at most 1,000")
        check_range(self, "clip_norm", lambda x: 0 < x < math.inf, "a number above 0")
        check_range(self, "save_minutes", lambda x: 0 <= x < math.inf, "a number of minutes, 0 or more")
        check_range(self, "minutes", lambda x: x is None or 0 < x <= 1e6, "a number above 0, at most 1e6")
        check_range(self, "weight_decay", lambda x: 0 <= x <= 1000, "0 to 1,000")
        check_range(self, "warmup ema_decay", lambda x: 0 <= x < 1, "0 or more, below 1")
        # At least 0.1, so that the trial of --minutes lies within the first stage.
        first, shares = "short_sequences small_frames", "a share of the run, 0 or 0.1 to 0.9"
        check_range(self, first, lambda x: x == 0 or 0.1 <= x <= 0.9, shares)
        check_range(self, "teacher_forcing", lambda x: 0 <= x <= 1, "a share of the run, 0 to 1")
        if self.teacher_forcing and isinstance(self.model, EncoderForecasterConfig):
            raise ValueError(
                f"teacher_forcing is {self.teacher_forcing}, but an EncoderForecaster never reads its own "
                "predictions, nor true frames in their place; set it to 0"
            )
        for name, known in {"loss": training.Loss, "optimizer": training.OptimizerName}.items():
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it needs one of {get_args(known)}")
        if self.loss == "cross-entropy" and self.model.output != "sigmoid":
            raise ValueError(
                f"loss is cross-entropy, but model.output is {self.model.output}, which gives no "
                "probabilities; pass --model.output sigmoid"
            )
        self.data.check(self.model.channels, self.model.frame_size_error)
        if self.small_frames:
            try:
                smaller = self.data.smaller(*training.SMALL_SHARE)
                smaller.check(self.model.channels, self.model.frame_size_error)
            except ValueError as error:
                raise ValueError(
                    f"small_frames is {self.small_frames}, but there are no smaller frames that would do "
                    f"({error}); pass --small-frames 0"
                ) from error


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
    "paper": Config(
        preset="paper",
        batch_size=16,
        optimizer="adamw",
        lr=1e-3,
        teacher_forcing=0.0,
        model=EncoderForecasterConfig(),
    ),
    "fully-connected": Config(
        preset="fully-connected",
        batch_size=16,
        optimizer="adamw",
        lr=1e-3,
        model=FullyConnectedForecasterConfig(),
    ),
}


def parse(arguments: list[str]) -> Config:
    """Read the command line: first the preset or the stored run, then every setting that differs from it."""
    return parse_settings(arguments, Config, PRESETS, __doc__, training.mend)


def main(config: Config) -> Path:
    """Train from the first step, or from where a run stopped, to the table of test scores and the GIF."""
    with training.join() as world:
        return train_or_score(config, world)


def command(arguments: list[str]) -> Path:
    """Do what a command line asks for; of several processes, the first alone says what is wrong with it."""
    with training.join() as world:
        with world.first_alone():
            config = parse(arguments)
        return train_or_score(config, world)


def train_or_score(config: Config, world: training.World) -> Path:
    """Train or score; return the run's directory."""
    return score(config, config.score, world) if config.score else train(config, world)


def train(config: Config, world: training.World) -> Path:
    """Train, test, and show the rollout; return the run's directory."""
    resume = config.resume
    path = resume or world.from_first(lambda: training.new_path(config.name, config.preset))
    if resume:
        require_same(config, settings_of(Config, resume), "resume", MAY_CHANGE)
    world.check_batch(config.batch_size, config.accumulate)
    device = world.device(config.device)
    bfloat16 = world.from_first(partial(training.choose_bfloat16, config.bfloat16, device))
    config = dataclasses.replace(config, resume=None, bfloat16=bfloat16)
    if config.minutes and not resume:
        config = dataclasses.replace(config, steps=max(config.steps, training.LEAST_STEPS))
    if config.init_from and not resume and "training" in read_config(config.init_from):
        config.data.require_unseen_by(settings_of(Config, config.init_from).data)
    with world.first_alone():  # what it downloads or decodes then lies there for the others
        train_sets = {False: make_source(config, "train")}
        if config.small_frames:
            small = {"seed": config.seed, "length": config.context + config.horizon}
            train_sets[True] = config.data.open_smaller(*training.SMALL_SHARE, **small)
        val_set = make_source(config, "val")
        notes = provenance(config) | noted_clips(config, resume)

    torch.manual_seed(config.seed)
    model = build(config.model).to(device)
    training.set_recompute(model, config.recompute)
    if not resume:
        notes |= start_from(model, config.init_from, world.say)
    frozen = freeze(model, config.freeze)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    averaged = cast(Forecaster, ema.module)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options = {"weight_decay": config.weight_decay, "bfloat16": bfloat16 == "on"}
    optimizer = training.make_optimizer(config.optimizer, model, **options)
    replica = world.wrap(model, device)
    forward = torch.compile(replica, dynamic=False) if config.compile else replica
    curriculum = make_curriculum(config)

    def loss_of(network: Callable[..., Tensor], step: int, indices: Tensor) -> Tensor:
        """What some of a step's sequences add to its loss."""
        given, horizon, small = curriculum.stage(step)
        clips = train_sets[small].batch(indices, device)[:, : given + horizon]  # (B, T, C, H, W)
        context, targets = clips.split((given, horizon), dim=1)
        with training.autocast(bfloat16, device):
            if model.feedback:
                teacher = linear_decay(curriculum.done(step), config.teacher_forcing * config.steps)
                told = draw_use_target(teacher, config.seed, step, indices, horizon).to(device)
                options = {"targets": targets, "use_target": told, "return_context": True}
                predictions = network(context, horizon, **options)
                targets = clips[:, 1:]  # every frame but the first was predicted
            else:
                predictions = network(context, horizon)
        # In the field's unit: summed over the pixels of a frame, averaged over frames and sequences.
        each = training.frame_loss(config.loss, predictions, targets)
        return each.sum() / (config.batch_size * targets.shape[1])

    def seconds(step: int) -> float:
        """What the passes of a step take; its gradients are dropped."""
        share = world.shares(torch.arange(config.batch_size), config.accumulate)[0]
        once = training.least_seconds(lambda: loss_of(forward, step, share).backward(), device, times=3)
        return config.accumulate * once

    count = sum(p.numel() for p in model.parameters())
    size = f"{count:,} parameters" + (f" ({frozen:,} frozen)" if frozen else "")
    where = training.describe(device, bfloat16) + (f", {world.size} processes" if world.size > 1 else "")
    say = partial(world.say, write=tqdm.write)  # which leaves the bar whole
    parts = {"model": model, "ema": ema, "optimizer": optimizer}
    with (
        training.Stopping(alone=world.size == 1) as stopping,
        training.open_run(path, world, parts, new=not resume) as run,
        training.explained_memory(device, config.batch_size, config.accumulate, world.size),
        tqdm(total=config.steps, unit="step", dynamic_ncols=True, disable=not world.first) as bar,
    ):
        say(f"{path}: {size}, {config.data.title}, on {where}")
        if resume:
            run.restore()
            notes = resumed(read_config(path), config, run.progress.step)
            run.note(notes)
        else:  # so that a run can be resumed from its first second
            run.save_best(averaged, {"step": 0} | notes)
            run.save()
        now = run.progress
        bar.initial = bar.n = bar.last_print_n = now.step
        watch, logged = training.Stopwatch(device), now.step
        allowance, more = training.Allowance(config.minutes, fixed=now.steps > 0), 0.0
        if not now.steps:  # the passes of every kind of step, so that too little memory shows now
            with watch.paused():
                more = curriculum.mean_above_first(seconds)
        if not config.minutes and (told := curriculum.told(config.batch_size)):
            say(told)
        while True:
            # Before the next step, so that a run that was stopped in its validation begins with it.
            if now.validated < now.step and training.ends_part(now.step, config.steps, config.validations):
                with watch.paused():
                    say(training.validate(config, run, world, stopping, averaged, val_set, notes))
            if now.step == config.steps:
                break
            step, done = now.step, curriculum.done(now.step)
            lr = config.lr * training.lr_factor(done, config.steps, config.schedule, config.warmup)
            for group in optimizer.param_groups:
                group["lr"] = lr
            batch = torch.arange(step * config.batch_size, (step + 1) * config.batch_size)
            shares, total = world.shares(batch, config.accumulate), torch.zeros((), device=device)
            optimizer.zero_grad()
            for share in shares:
                with world.averaging(replica, last=share is shares[-1]):
                    part = loss_of(forward, step, share)
                    (part * world.size).backward()  # the processes' gradients are averaged, not summed
                total += part.detach()
            now.step += 1
            logs = now.step % LOG_EVERY == 0 or now.step == config.steps
            norms = training.gradient_norms(model) if logs else {}
            whole = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
            own, norm = torch.stack((total, whole)).tolist()  # the device is waited for once
            loss, asked = world.totals(own, stopping.asked())
            if math.isfinite(loss) and math.isfinite(norm):
                nn.utils.clip_grads_with_norm_(trained, config.clip_norm, whole)
                optimizer.step()
                ema.update_parameters(model)
                now.in_a_row = 0
            else:
                again = [partial(loss_of, model, step, share) for share in shares]
                say(training.skip_step(run, loss, world, partial(training.where_it_began, model, again)))
            bar.update()
            if logs:
                speed, logged = (now.step - logged) * config.batch_size / watch.lap(), now.step
                teacher = linear_decay(done, config.teacher_forcing * config.steps)
                values = {"loss": loss, "gradient_norm": norm, "lr": lr, "teacher_forcing": teacher}
                values |= {"skipped": now.skipped, "sequences_per_second": speed}
                values |= {"memory_gib": training.memory_peak(device)}
                run.log({f"train/{name}": value for name, value in values.items()} | norms)
                bar.set_postfix_str(f"loss {loss:.1f}, gradient {norm:.0f}, {speed:.1f} seq/s")
            if allowance.ends_trial():
                with watch.paused(), allowance.validating():
                    say(training.validate(config, run, world, stopping, averaged, val_set, notes))
                fitting = partial(allowance.steps, now.step, config.validations, more)
                now.steps = world.from_first(fitting)
                config = dataclasses.replace(config, steps=now.steps)
                curriculum = make_curriculum(config)
                notes |= {"training": settings_to_dict(config)}
                run.note(notes)  # a resumed run has as many
                bar.total = now.steps
                say(f"step {now.step}: {now.steps:,} steps in all, for {config.minutes:g} minutes")
                if told := curriculum.told(config.batch_size):
                    say(told)
            stopping.stop_if(asked > 0)
            run.save_after(config.save_minutes)
        bar.close()
        test(path, config, world, stopping)
        show(path, config, world)
    return path


def score(config: Config, run: Path, world: training.World) -> Path:
    """Score a run's checkpoint on the test set of --data.digits; return the run's directory."""
    stored = settings_of(Config, run)
    require_same(config, stored, "score", "device bfloat16 test_sequences data.digits data.root")
    config.data.require_unseen_by(stored.data)
    with world.first_alone():
        noted_clips(config, run)
    device = world.device(config.device)
    bfloat16 = world.from_first(partial(training.choose_bfloat16, config.bfloat16, device))
    with training.Stopping(alone=world.size == 1) as stopping:
        test(run, dataclasses.replace(config, bfloat16=bfloat16), world, stopping)
    return run


def make_source(config: Config, split: str, length: int | None = None) -> Source:
    """Return the training stream ("train") or a fixed set ("val", "test") of a run's sequences."""
    length = length or config.context + config.horizon
    return config.data.open(split, seed=config.seed, length=length, channels=config.model.channels)


def make_curriculum(config: Config) -> training.Curriculum:
    """Return what each step of a run trains on."""
    return training.Curriculum(
        config.steps, config.context, config.horizon, config.short_sequences, config.small_frames
    )


def noted_clips(config: Config, run: Path | None) -> dict[str, Any]:
    """Return the note of the clips kept for the test; raise ValueError if a run's own note names others."""
    length, noted = config.context + config.horizon, read_config(run) if run else None
    return config.data.test_clips(noted, length=length, channels=config.model.channels)


def test(path: Path, config: Config, world: training.World, stopping: training.Stopping) -> None:
    """Score a run's checkpoint beside copy-last-frame: print the table, write test-DIGITS-COUNT.json."""
    source, device = make_source(config, "test"), world.device(config.device)
    title = f"{'Test' if config.data.clips else 'Moving MNIST test'}, {config.data.title}"
    world.say(training.test(config, path, world, stopping, source, device, title, config.data.label))


def show(path: Path, config: Config, world: training.World) -> None:
    """Write rollout.gif: up to three test sequences, forecast for twice the horizon trained on."""
    horizon, device = 2 * config.horizon, world.device(config.device)
    # Clips need be no longer than what is trained on: beyond it, what really follows is not shown.
    known = config.horizon if config.data.clips else horizon
    if world.first:
        source = make_source(config, "test", config.context + known)
        print(training.show(config, path, source, horizon, device))


if __name__ == "__main__":
    sys.exit(training.exit_status("train.py", lambda: command(sys.argv[1:])))
