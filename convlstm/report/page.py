"""The page as a whole: which sections it has and in which order."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from convlstm.clips.pictures import FORECAST, OBSERVED
from convlstm.core.files import write_atomically
from convlstm.evaluation.results import Evaluation
from convlstm.report.frames import Shown, animation, strip
from convlstm.report.markup import Html, data_uri, joined, tag
from convlstm.report.run import Run
from convlstm.report.tables import curves, score_table, verdict
from convlstm.report.training_curves import training_curves

__all__ = ["render_report", "write_report"]

# The page asks for nothing, and the browser is told to refuse whatever would.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_report(
    path: str | Path,
    evaluation: Evaluation,
    sequences: Sequence[Shown] = (),
    long: Shown | None = None,
    run: Run | None = None,
) -> None:
    """Write an evaluation as one self-contained page, over the one that stands there.

    The page needs no other file, no script and no network. Its content is a function of the arguments alone.

    Args:
        path: of the page, such as report.html.
        evaluation: what `convlstm.evaluate` found.
        sequences: rollouts to show, such as those of the best, the median and the worst sequence.
        long: a rollout beyond the horizon of the evaluation, or None (default) for none.
        run: how the checkpoint was made, from `read_run`, or None (default) where that is not known.

    Raises:
        ValueError: a path that is a directory or lies in none.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        fault = "is a directory" if path.is_dir() else f"lies in {path.parent}, which is no directory"
        raise ValueError(f"path is {path}, which {fault}; it needs the name of a file in one that is there")
    page = render_report(evaluation, sequences, long, run)
    # Paths may hold bytes that are no UTF-8, which Python keeps as surrogates: shown as question marks.
    write_atomically(path, lambda file: file.write_bytes(page.encode("utf-8", "replace")))


def render_report(
    evaluation: Evaluation,
    sequences: Sequence[Shown] = (),
    long: Shown | None = None,
    run: Run | None = None,
) -> str:
    """Return the page that `write_report` writes."""
    sections = {"Scores": _scores(evaluation), "Frame by frame": curves(evaluation)}
    if sequences:
        sections["Forecasts"] = joined(_key(), *map(_rollout, sequences))
    if long is not None:
        beyond = "Further ahead than the scores above: how long the forecast holds."
        sections["Long rollout"] = joined(tag("p", beyond), _rollout(long))
    training = training_curves(run.metrics) if run else None
    if training is not None:
        sections["Training"] = training
    sections["How it was made"] = _origin(evaluation, run)

    ids = {title: title.lower().replace(" ", "-") for title in sections}
    links = (tag("li", tag("a", title, href=f"#{ids[title]}")) for title in sections)
    name = f"Forecasts of {evaluation.model.name}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", name),
        tag("style", Html(files("convlstm.report").joinpath("style.css").read_text(encoding="utf-8"))),
    )
    of = [x for x in (evaluation.checkpoint, evaluation.clips) if x]
    top = tag(
        "header",
        tag("h1", name),
        tag("p", joined(*_between(" on ", [tag("code", x) for x in of])), class_="of") if of else "",
        verdict(evaluation),
        _facts(evaluation),
        tag("nav", tag("ul", *links), aria_label="Sections"),
    )
    parts = [tag("section", tag("h2", title), part, id=ids[title]) for title, part in sections.items()]
    body = tag("body", top, tag("main", *parts))
    return joined(Html("<!doctype html>\n"), tag("html", head, body, lang="en"), "\n")


def _facts(evaluation: Evaluation) -> Html:
    channels, height, width = evaluation.frame
    low, high = evaluation.value_range
    values = f"{low:g} to {high:g} {evaluation.unit}".rstrip()
    facts = {
        "Sequences": f"{evaluation.sequences:,}",
        "Frames given": f"{evaluation.context:,}",
        "Frames forecast": f"{evaluation.horizon:,}",
        "Frame": f"{height} by {width} pixels" + (f", {channels} channels" if channels > 1 else ""),
        "Values": values,
        "Protocol": evaluation.protocol.name,
    }
    return tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in facts.items()), class_="facts")


def _scores(evaluation: Evaluation) -> Html:
    words = (
        "Means over all frames of all sequences, with 95% bootstrap intervals over the sequences beneath "
        f"them; the best of each row in bold. {evaluation.protocol.note}"
    )
    low, high = evaluation.value_range
    if (low, high) != (0, 1):
        words += (
            f" Errors and similarities are of pixels in [0, 1], which stand for "
            f"{low:g} to {high:g} {evaluation.unit}".rstrip()
            + "."
        )
    return joined(tag("p", words), score_table(evaluation))


def _key() -> Html:
    meanings = (
        (OBSERVED, "observed; in the error: too dark"),
        (FORECAST, "forecast; in the error: too bright"),
    )
    items = [tag("li", tag("i", style=f"background: rgb{colour}"), " ", words) for colour, words in meanings]
    return tag("ul", *items, class_="key")


def _rollout(shown: Shown) -> Html:
    """Return a figure: the animation, and beside it the frames that were forecast."""
    times, pictures = strip(shown)
    given, horizon = len(shown.context), len(shown.prediction)
    said = (
        f"{shown.title}: {', '.join(pictures)}, side by side: {given} context and {horizon} forecast frames"
    )
    uri = data_uri("image/webp", animation(shown))
    columns = (tag("span", f"+{time}") for time in times)
    rows = [tag("div", tag("span"), tag("span", *columns, class_="times"), class_="row", aria_hidden="true")]
    for label, picture in pictures.items():
        alt = f"{shown.title}, {label}: frames {', '.join(f'+{time}' for time in times)}"
        image = tag("img", src=data_uri("image/png", picture), alt=alt)
        rows.append(tag("div", tag("span", label), image, class_="row"))
    return tag(
        "figure",
        tag("figcaption", tag("h3", shown.title), tag("small", shown.note) if shown.note else ""),
        tag("div", tag("img", src=uri, alt=said), tag("div", *rows, class_="strip"), class_="screens"),
        class_="rollout",
    )


def _origin(evaluation: Evaluation, run: Run | None) -> Html:
    parts = []
    if evaluation.command:
        parts += [tag("h3", "Command of this evaluation"), tag("pre", evaluation.command)]
    if evaluation.versions:
        versions = ", ".join(f"{package} {version}" for package, version in evaluation.versions.items())
        parts.append(tag("p", versions, class_="muted"))
    config: Mapping[str, Any] = run.config if run else {}
    if isinstance(config.get("command"), str):
        parts += [tag("h3", "Command of the training"), tag("pre", config["command"])]
    if isinstance(config.get("step"), int):
        words = f"The weights are those of optimizer step {config['step']:,}"
        validation = config["validation"] if isinstance(config.get("validation"), dict) else {}
        if isinstance(validation.get("mse"), float):
            words += f", chosen by validation (MSE {validation['mse']:,.2f}), not by the scores above"
        parts.append(tag("p", f"{words}.", class_="muted"))
    settings = config["training"] if isinstance(config.get("training"), dict) else {}
    for title, found in (("Network", config.get("network")), ("Data trained on", settings.get("data"))):
        if isinstance(found, dict):
            parts += [tag("h3", title), _settings(found)]
    if config:
        whole = tag("pre", json.dumps(config, indent=2, ensure_ascii=False))
        parts.append(tag("details", tag("summary", "Everything in config.json"), whole))
    return joined(*parts) if parts else tag("p", "Nothing is known of it.", class_="muted")


def _settings(values: Mapping[str, Any]) -> Html:
    def words(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(map(words, value))
        if value is None:
            return "none"
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    pairs = (tag("div", tag("dt", name), tag("dd", words(value))) for name, value in values.items())
    return tag("dl", *pairs, class_="facts settings")


def _between(separator: str, parts: Sequence[Html]) -> list[str]:
    """Return the parts with a separator between them."""
    return [x for part in parts for x in (separator, part)][1:]
