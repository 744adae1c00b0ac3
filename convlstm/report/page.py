"""The page as a whole: what its template, report.html, is given."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convlstm.clips.pictures import FORECAST, OBSERVED
from convlstm.core.files import write_atomically
from convlstm.evaluation.results import Evaluation
from convlstm.report.frames import Shown, animation, strip
from convlstm.report.plots import AREA, KINDS
from convlstm.report.tables import curves, score_groups, verdict
from convlstm.report.training import Run, chosen_step, training_curves

KEY = (
    (OBSERVED, "observed; in the error: too dark"),
    (FORECAST, "forecast; in the error: too bright"),
)


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    sequences: Sequence[Shown] = (),
    long: Sequence[Shown] = (),
    run: Run | None = None,
) -> None:
    """Write an evaluation as one self-contained page, replacing a file that exists.

    The page needs no other file, no script and no network. Its content is a function of the arguments alone.

    Args:
        path: of the page, such as report.html.
        evaluation: what `convlstm.evaluate` found.
        sequences: rollouts to show, such as `example_rollouts` of the best, the median and the worst
            sequence. Default: none.
        long: rollouts beyond the horizon of the evaluation. Default: none.
        run: how the checkpoint was made, from `read_run`. Default: unknown.

    Raises:
        ValueError: the path is a directory, or its directory does not exist.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        fault = "is a directory" if path.is_dir() else f"lies in {path.parent}, which is no directory"
        raise ValueError(f"path is {path}, which {fault}; it needs the name of a file in one that exists")
    page = render_report(evaluation, sequences, long, run)
    # Paths may hold bytes that are not UTF-8, which Python keeps as surrogates: shown as question marks.
    write_atomically(path, lambda file: file.write_bytes(page.encode("utf-8", "replace")))


def render_report(
    evaluation: Evaluation,
    sequences: Sequence[Shown] = (),
    long: Sequence[Shown] = (),
    run: Run | None = None,
) -> str:
    """Return the page that `write_report` writes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only reports need it

    environment = Environment(
        loader=PackageLoader("convlstm.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    config = run.config if run else {}
    training = training_curves(run.metrics if run else ())
    present = {"Forecasts": sequences, "Long rollout": long, "Training": training["charts"]}
    names = [predictor.name for predictor in evaluation.predictors]
    versions = ", ".join(f"{package} {version}" for package, version in evaluation.versions.items())
    channels, height, width = evaluation.frame
    low, high = evaluation.value_range
    values = f"{low:g} to {high:g} {evaluation.unit}".rstrip()
    return environment.get_template("report.html").render(
        name=evaluation.model.name,
        subjects=[subject for subject in (evaluation.checkpoint, evaluation.clips) if subject],
        verdict=verdict(evaluation),
        overview=[
            ("Sequences", f"{evaluation.sequences:,}"),
            ("Frames given", f"{evaluation.context:,}"),
            ("Frames forecast", f"{evaluation.horizon:,}"),
            ("Frame", f"{height} by {width} pixels" + (f", {channels} channels" if channels > 1 else "")),
            ("Values", values),
            ("Protocol", evaluation.protocol.name),
        ],
        sections=["Scores", "Frame by frame", *filter(present.get, present), "How it was made"],
        note=evaluation.protocol.note,
        values=values if evaluation.value_range != (0, 1) else "",
        predictors=names,
        score_groups=score_groups(evaluation),
        lines=[(name, kind % KINDS) for kind, name in enumerate(names)],
        curves=curves(evaluation),
        frames=range(1, evaluation.horizon + 1),
        area=AREA,
        key=KEY,
        rollouts=[_rollout(shown) for shown in sequences],
        long=[_rollout(shown) for shown in long],
        training=training,
        command=evaluation.command,
        versions=versions,
        config=config,
        config_text=json.dumps(config, indent=2, ensure_ascii=False) if config else "",
        step=chosen_step(config),
    )


def _rollout(shown: Shown) -> dict[str, Any]:
    """Return a rollout's animation, and beside it the frames that were forecast."""
    chosen, pictures = strip(shown)
    given, horizon = len(shown.context), len(shown.prediction)
    words = f"{', '.join(pictures)}, side by side: {given} context and {horizon} forecast frames"
    return {
        "title": shown.title,
        "note": shown.note,
        "words": f"{shown.title}: {words}",
        "animation": _data_uri("image/webp", animation(shown)),
        "times": [f"+{frame}" for frame in chosen],
        "pictures": [(label, _data_uri("image/png", picture)) for label, picture in pictures.items()],
    }


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
