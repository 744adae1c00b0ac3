"""Ship a finished run of train.py under a name: its best network in bfloat16, scored, with a card.

    python studies/ship.py runs/NAME moving_mnist_small

Written is convlstm/weights/NAME: model.safetensors, config.json, evaluation.json, the card README.md and
rollout.gif. The scores are those of the very file, loaded by `convlstm.from_pretrained` as its users do and
computed in float32 (no TF32), on the fixed test sequences of the run's digits. They are measured once and
noted in both protocols: the metrics of "openstl" are some of those of "strict".
"""

import argparse
import dataclasses
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout's folders are used, uninstalled
import train
from benchmarks.timing import exact_convolutions, machine_name
from convlstm import Forecaster, evaluate, rollout
from convlstm.clips import write_clip
from convlstm.clips.pictures import comparison
from convlstm.evaluation import OPENSTL, STRICT, Evaluation, Source, format_evaluation
from convlstm.hub.checkpoint import read_config
from convlstm.hub.pretrained import ARCHITECTURES
from convlstm.models.forecaster import config_from_dict
from convlstm.training.hardware import choose_device
from convlstm.training.settings import settings_of, versions
from datasets import FIXED_SEQUENCES, DataConfig
from studies.study import is_finished

WEIGHTS = Path(__file__).parents[1] / "convlstm" / "weights"
LENGTHS = 10, 10  # frames of context and of forecast: Moving MNIST's
GIF, GIF_FPS, SHOWN, SHADES = "rollout.gif", 5, 3, 16  # sequences; shades of gray that keep it below 500 KB


def main(arguments: Sequence[str] | None = None) -> None:
    """Ship what the command line asks for, and print its scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished run of train.py")
    parser.add_argument("name", choices=ARCHITECTURES, help="that the weights get")
    parser.add_argument(
        "--sequences",
        type=int,
        default=FIXED_SEQUENCES,
        help="of the test, from the first on (default: %(default)s)",
    )
    parser.add_argument("--root", type=Path, help="of MNIST (default: the run's)")
    parser.add_argument(
        "--hardware", help="that the run was trained on, for the card (default: this machine)"
    )
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu (default: the first there is)")
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="of all weights (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not 1 <= options.sequences <= FIXED_SEQUENCES:
        parser.error(f"--sequences is {options.sequences}; it needs 1 to {FIXED_SEQUENCES:,}")
    command = shlex.join(["python", "studies/ship.py", *(sys.argv[1:] if arguments is None else arguments)])
    try:
        device = choose_device(options.device)
        config, model, notes = read_run(options.run, options.name, options.root)
        source = train.make_source(config, "test")
        options.folder.mkdir(parents=True, exist_ok=True)
        # Beside what it replaces, in one rename: what is shipped is whole.
        temporary = tempfile.TemporaryDirectory(dir=options.folder, prefix=".")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    notes["trained"]["hardware"] = options.hardware or hardware(device)
    with exact_convolutions(), temporary:
        made, target = Path(temporary.name) / options.name, options.folder / options.name
        model.bfloat16().save_pretrained(made)
        shipped = Forecaster.from_pretrained(made, device=device)
        scores = score(shipped, source, config, options.sequences, device)
        scores = dataclasses.replace(
            scores,
            checkpoint=options.name,
            command=command + again(config.data.digits, options.name, options.sequences),
        )
        draw(shipped, config, device, made / GIF)
        evaluations = [evaluation.to_dict() for evaluation in (scores, in_openstl(scores))]
        model.save_pretrained(made, notes | {"rollout": GIF}, evaluations)  # the same weights, the whole card
        if target.exists():
            target.rename(Path(temporary.name) / "before")
        made.rename(target)
    print(format_evaluation(scores))
    print(f"{target}: shipped")


def read_run(run: Path, name: str, root: Path | None) -> tuple[train.Config, Forecaster, dict[str, Any]]:
    """Return a run's settings, its best network, and what the shipped config.json notes of its training.

    Args:
        run: its folder.
        name: that it is shipped under.
        root: where MNIST is, None for where it was when the run was made.

    Raises:
        FileNotFoundError: no such run.
        ValueError: a run that is not finished, of another network than the name's, or of anything but ten
            frames from ten of two digits on 64x64, which is what is compared.
    """
    config, notes = settings_of(train.Config, run), read_config(run)
    plain = DataConfig(digits=config.data.digits, root=config.data.root)
    if (config.context, config.horizon, config.data) != (*LENGTHS, plain):
        raise ValueError(
            f"{run} was trained on other sequences; it needs {LENGTHS[1]} frames from {LENGTHS[0]} of plain "
            "Moving MNIST, without --data options but digits and root"
        )
    if config_from_dict(notes["network"]) != ARCHITECTURES[name]:
        raise ValueError(f"{run} has another network than {name}; give a run of {ARCHITECTURES[name]}")
    if not is_finished(run):
        raise ValueError(f"{run} is not finished; it needs python train.py --resume {run}")
    minutes = round(seconds_of(run) / 60, 1)
    notes["trained"] = {"sequences": config.steps * config.batch_size, "minutes": minutes}
    if scores := notes.get("validation"):  # without its curves: evaluation.json has those of the test
        notes["validation"] = {name: value for name, value in scores.items() if not isinstance(value, list)}
    if stops := notes.get("resumed"):
        notes["resumed"] = [{"step": stop["step"], "command": stop["command"]} for stop in stops]
    if config.data.root.is_absolute():  # a place that is nobody's but this machine's
        notes = replaced(notes, str(config.data.root), "data")
    if root:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=root))
    return config, Forecaster.from_pretrained(run), notes | {"license": "mit"}


def replaced(value: Any, old: str, new: str) -> Any:
    """Return JSON values in which a text is another where it is a value, a word of one, or after an =."""
    if isinstance(value, dict):
        return {name: replaced(one, old, new) for name, one in value.items()}
    if isinstance(value, list):
        return [replaced(one, old, new) for one in value]
    if isinstance(value, str):
        return re.sub(rf"(?<![^\s=]){re.escape(old)}(?!\S)", lambda _: new, value)
    return value


def seconds_of(run: Path) -> float:
    """Return how long a run was trained by the clock, validations included, by its TensorBoard log.

    Each process that trained it has a file there, from before its first step to its last validation.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted(run.glob("events.out.tfevents.*"))
    if not files:
        raise FileNotFoundError(f"{run} has no TensorBoard log, which says how long it was trained")
    seconds = 0.0
    for file in files:
        times = [event.wall_time for event in EventFileLoader(str(file)).Load()]
        seconds += max(times, default=0.0) - min(times, default=0.0)
    return seconds


def again(digits: str, name: str, sequences: int) -> str:
    """Return the commands that score shipped weights anew, for the lines after ship.py's own."""
    options = f"--digits {digits} --split test --sequences {sequences}"
    return f"""
# and the same from what is shipped:
python -m datasets write clips.npy {options}
python -m convlstm evaluate {name} clips.npy"""


def hardware(device: torch.device) -> str:
    """Return the name of what this machine computes on."""
    name = machine_name(device)
    return name if device.type == "cuda" else f"{name}, {torch.get_num_threads()} threads"


def score(
    model: Forecaster, source: Source, config: train.Config, sequences: int, device: torch.device
) -> Evaluation:
    """Score a network, beside copying the last frame, on a run's test sequences."""
    with tqdm(total=sequences, desc="test", unit="seq", dynamic_ncols=True, leave=False) as bar:
        found = evaluate(
            model,
            source,
            config.context,
            config.horizon,
            protocol=STRICT,
            sequences=sequences,
            device=device,
            progress=bar.update,
        )
    title = f"Moving MNIST test, {config.data.title}"
    return dataclasses.replace(found, baselines=found.baselines[:1], clips=title, versions=versions())


def in_openstl(strict: Evaluation) -> Evaluation:
    """Return what of an evaluation OpenSTL reports: the same numbers, fewer of them."""
    names = {column.name for column in OPENSTL.columns}
    model, *baselines = (
        dataclasses.replace(of, metrics={name: of[name] for name in of.metrics if name in names})
        for of in (strict.model, *strict.baselines)
    )
    return dataclasses.replace(strict, protocol=OPENSTL, model=model, baselines=tuple(baselines))


def draw(model: Forecaster, config: train.Config, device: torch.device, path: Path) -> None:
    """Write the forecast of the first test sequences, twice as far as trained, as a GIF."""
    horizon = 2 * config.horizon
    source = train.make_source(config, "test", config.context + horizon)
    clips = source.batch(range(SHOWN), device)
    given, truth = clips[:, : config.context], clips[:, config.context :]
    pictures = (x.float().cpu().clamp(0, 1).numpy() for x in (given, rollout(model, given, horizon), truth))
    write_clip(path, comparison(*(np.rint(x * (SHADES - 1)) / (SHADES - 1) for x in pictures)), GIF_FPS)


if __name__ == "__main__":
    main()
