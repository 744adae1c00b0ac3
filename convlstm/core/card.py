"""The model card: README.md of a saved network, as the Hugging Face Hub reads it."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath, PureWindowsPath
from typing import Any

__all__ = ["is_as_written", "model_card"]

# The last line of a card: what the lines before it were when it was written.
SEAL = "<!-- written by convlstm, sha256 {} -->\n"
CURVES, FRAMES = ("mse", "ssim"), 10  # metrics that are shown frame by frame, and of how many frames at most


def model_card(
    *,
    name: str,
    summary: str,
    parameters: int,
    example: str,
    task: str | None,
    notes: Mapping[str, Any],
    evaluations: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the card as Markdown, with the front matter that the Hub reads; card.md is its template.

    Args:
        name: of the network's class.
        summary: what it is, in a sentence.
        parameters: how many it has.
        example: how the network named `model` is called.
        task: the Hub's name for what it does, if it has one.
        notes: what config.json holds. The card has the license, command, step, validation, trained and
            versions as train.py and ship.py write them, and rollout, a picture beside the card.
        evaluations: of `Evaluation.to_dict`. Those of the same sequences share a table.
    """
    from jinja2 import Environment, PackageLoader  # only cards need it

    environment = Environment(
        loader=PackageLoader("convlstm.core", ""), trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"words": _words, "fence": _fence, "table": _table, "plain": _plain}
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "sort_keys": True}
    checkpoint = evaluations[0].get("checkpoint") if evaluations else None
    text = environment.get_template("card.md").render(
        title=PurePath(checkpoint or name).name,
        name=name,
        summary=summary,
        parameters=parameters,
        example=example,
        task=task,
        notes=dict(notes),
        tables=_tables(evaluations),
    )
    return text + SEAL.format(hashlib.sha256(text.encode()).hexdigest())


def is_as_written(card: bytes) -> bool:
    """Return whether a card is one that `model_card` made and nobody edited."""
    text, _, seal = card.rstrip(b"\n").rpartition(b"\n")
    text += b"\n"
    return seal + b"\n" == SEAL.format(hashlib.sha256(text).hexdigest()).encode()


def _tables(evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the card shows of each set of sequences: the columns of all protocols, each once."""
    same: dict[tuple, list[Mapping[str, Any]]] = {}
    for evaluation in evaluations:
        clips = tuple(evaluation[key] for key in ("clips", "sequences", "horizon", "context"))
        same.setdefault(clips, []).append(evaluation)
    return [_merged(of) for of in same.values()]


def _merged(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    count, horizon, context = (evaluations[0][key] for key in ("sequences", "horizon", "context"))
    # Of a path, its end: cards are public.
    title = PureWindowsPath(evaluations[0]["clips"] or "").name or "clips"
    columns = {column["name"]: column for of in evaluations for column in of["protocol"]["columns"]}
    metrics = {name: score for of in evaluations for name, score in of["model"]["metrics"].items()}
    baselines: dict[str, dict[str, Any]] = {}
    for baseline in (baseline for of in evaluations for baseline in of["baselines"]):
        baselines.setdefault(baseline["name"], {}).update(baseline["metrics"])
    shown = [column for name, column in columns.items() if name in metrics]
    # Without those that say the same per pixel, or of clipped predictions.
    main = [of for of in shown if of["data_range"] or not (of["clipped"] or of["per"] == "mean")]
    scores = [["", evaluations[0]["model"]["name"], "95% interval", *baselines]]
    for column in shown:
        mean, low, high = (_number(metrics[column["name"]], column, key) for key in ("mean", "low", "high"))
        beside = (_number(of.get(column["name"], {}), column) for of in baselines.values())
        scores.append([column["label"], mean, f"{low} to {high}", *beside])
    frames = sorted({round(k * (horizon - 1) / (FRAMES - 1)) for k in range(FRAMES)})
    curve = [["frame", *(str(t + 1) for t in frames)]]
    for column in (column for column in main if column["name"] in CURVES):
        means = metrics[column["name"]]["per_frame"]
        curve.append([column["label"], *(_number({"mean": means[t]}, column) for t in frames)])
    return {
        "clips": f"{title}: {count:,} sequences, {horizon} frames from {context}",
        "type": re.sub(r"[^a-z0-9]+", "-", re.split("[,:]", title)[0].lower()).strip("-") or "clips",
        "main": [
            (column, mean) for column in main if (mean := _number(metrics[column["name"]], column)) != "-"
        ],
        "scores": scores,
        "curve": curve,
        "protocols": [of["protocol"] for of in evaluations],
        "command": evaluations[0].get("command"),
    }


def _number(score: Mapping[str, Any], column: Mapping[str, Any], key: str = "mean") -> str:
    return "-" if score.get(key) is None else f"{score[key]:.{column['decimals']}f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    heads, *others = ([_words(cell) for cell in row] for row in rows)
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fence(text: object) -> str:
    """Return a block of code, whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", str(text))), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"


def _plain(value: Any) -> str:
    """Return what is plain in a note, on one line."""
    if not isinstance(value, dict):
        return str(value)
    short = {key: f"{x:.6g}" if isinstance(x, float) else x for key, x in value.items()}
    return ", ".join(f"{key} {x}" for key, x in short.items() if not isinstance(x, list | dict))


def _words(value: Any) -> str:
    """Return a value for a line or a table, with nothing in it that Markdown would act on."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(value).split()))
