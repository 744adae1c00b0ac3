"""The model card: README.md of a saved network, as the Hugging Face Hub reads it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

__all__ = ["is_as_written", "model_card"]

LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
# The last line of a card: what the lines before it were when it was written.
SEAL = "<!-- written by convlstm, sha256 {} -->\n"
LOAD = 'model = convlstm.from_pretrained("PATH")  # this folder, or hf://OWNER/NAME where it is on the Hub'
# The columns of the table, and under which key and with how many digits.
SCORES = {
    "MSE": ("mse", 2),
    "MAE": ("mae", 2),
    "SSIM (range 1)": ("ssim", 4),
    "SSIM (range 2)": ("ssim_range2", 4),
    "PSNR": ("psnr", 2),
    "cross-entropy (nats per frame)": ("cross_entropy", 2),
}
# What is shown of "trained", in words.
TRAINED = {
    "sequences": "training sequences seen",
    "stages": "of these",
    "minutes": "minutes by the clock, validations included",
    "hardware": "hardware",
}
CURVES = ("mse", "ssim", "ssim_range2")  # of an evaluation, shown frame by frame
CONVENTIONS = (
    "Means over all frames of all sequences. MSE and MAE are summed over the pixels of a frame, unclipped; "
    "SSIM and PSNR (in decibels) are of values clipped to [0, 1]. The validation scores are those by which "
    "the checkpoint was chosen."
)


def model_card(
    network: Mapping[str, Any], *, summary: str, parameters: int, example: str, notes: Mapping[str, Any]
) -> str:
    """Return the card as Markdown, with the front matter that the Hub reads.

    Args:
        network: what the network is built from, its class's name under "network".
        summary: what it is, in a sentence.
        parameters: how many it has.
        example: how the network named `model` is called.
        notes: what config.json holds beside the network. A license, and training, command, versions, step,
            validation and test as train.py writes them, have places of their own. So have "trained"
            ("sequences", "stages", "minutes", "hardware"), "evaluations" (a list of `Evaluation.to_dict`, the
            frames of the first shown one by one) and "rollout" (a picture beside the card). Of "resumed", as
            train.py writes it, the steps are shown. The rest is shown as it is.

    Raises:
        ValueError: a license that is no identifier.
    """
    name, kept = network["network"], dict(notes)  # what has found its place is taken out of the notes
    front = ["library_name: convlstm", "tags:", "- convlstm", "- video-prediction"]
    if "license" in kept:
        license = kept.pop("license")
        if not isinstance(license, str) or not LICENSE.fullmatch(license):
            raise ValueError(
                f"license is {license!r}; it needs an identifier of the Hub, such as 'mit' or 'other'"
            )
        front.append(f"license: {license}")
    parts = [
        "\n".join(["---", *front, "---"]),
        f"# {name}",
        f"{summary}\n\n{parameters:,} parameters. `{name}` of the library convlstm, built from:",
        _json({k: v for k, v in network.items() if k != "network"}),
        "## Use",
        _fence("python", f"import convlstm\n\n{LOAD}\n{example}"),
    ]
    settings = kept.pop("training") if isinstance(kept.get("training"), dict) else {}
    if isinstance(settings.get("data"), dict):
        data = {key: value for key, value in settings["data"].items() if value not in (None, "")}
        items = (f"- {_words(key)}: {_words(value)}" for key, value in data.items())
        parts += ["## Data", "\n".join(items)]
    rows = _take_scores(kept)
    if rows:
        heads = ["", "sequences", *SCORES]
        if not any(row[-1] for row in rows):  # cross-entropy is of probabilities alone
            heads, *rows = (row[:-1] for row in (heads, *rows))
        parts += ["## Metrics", _table(heads, rows), CONVENTIONS]
    parts += _take_evaluations(kept)
    if isinstance(kept.get("rollout"), str):
        parts += ["## Rollout", f"![a forecast beside what came to be]({quote(kept.pop('rollout'))})"]
    effort = kept.pop("trained") if isinstance(kept.get("trained"), dict) else {}
    facts = [f"{kept.pop('step')} optimizer steps"] if isinstance(kept.get("step"), int) else []
    facts += _take_resumed(kept)
    if isinstance(kept.get("versions"), dict):
        facts += [f"{_words(package)} {_words(version)}" for package, version in kept.pop("versions").items()]
    if settings or facts or effort or "command" in kept:
        parts.append("## Training")
        parts += [_fence("", str(kept.pop("command")))] if "command" in kept else []
        parts += [f"{', '.join(facts)}."] if facts else []
        items = [f"- {label}: {_amount(effort[key])}" for key, label in TRAINED.items() if key in effort]
        parts += ["\n".join(items)] if items else []
        options = {k: v for k, v in settings.items() if k not in ("data", "model")}
        parts += ["All settings:", _json(options)] if options else []
    if kept:
        parts += ["## Notes", _json(kept)]
    text = "\n\n".join(parts) + "\n\n"
    return text + SEAL.format(hashlib.sha256(text.encode()).hexdigest())


def is_as_written(card: bytes) -> bool:
    """Whether a card is one that `model_card` made and nobody edited."""
    text, _, seal = card.rstrip(b"\n").rpartition(b"\n")
    text += b"\n"
    return seal + b"\n" == SEAL.format(hashlib.sha256(text).hexdigest()).encode()


def _take_scores(notes: dict[str, Any]) -> list[list[str]]:
    """Take the scores out of the notes, as rows of the table: of validation, and of all that was tested."""
    scores = {}
    if isinstance(notes.get("validation"), dict):
        scores["validation"] = notes.pop("validation")
    if isinstance(notes.get("test"), dict):
        test = notes.pop("test")
        title = test.pop("set", "test")
        scores |= {f"{name} ({title})": found for name, found in test.items() if isinstance(found, dict)}
    rows = []
    for name, found in scores.items():
        numbers = [
            f"{found[key]:.{digits}f}" if isinstance(found.get(key), int | float) else ""
            for key, digits in SCORES.values()
        ]
        rows.append([_words(name), _words(found.get("sequences", "")), *numbers])
    return rows


def _take_evaluations(notes: dict[str, Any]) -> list[str]:
    """Take the evaluations out of the notes, as paragraphs; leave there what is none."""
    try:
        evaluations = list(notes["evaluations"])
        parts = [part for evaluation in evaluations for part in _evaluation(evaluation)]
        commands = dict.fromkeys(str(evaluation["command"]) for evaluation in evaluations)
        scored = evaluations[0]["model"]["metrics"]
        labels = {column["name"]: column for column in evaluations[0]["protocol"]["columns"]}
        curves = [
            [_words(labels[name]["label"]), *(_number(v, labels[name]) for v in scored[name]["per_frame"])]
            for name in CURVES
            if name in scored
        ]
        if curves:
            heads = ["frame", *map(str, range(1, len(curves[0])))]
            parts += ["Frame by frame, nearest first:", _table(heads, curves)]
        parts += ["Measured by", *(_fence("", command) for command in commands)]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return []
    del notes["evaluations"]
    return parts


def _evaluation(evaluation: Mapping[str, Any]) -> list[str]:
    protocol, model, baselines = (evaluation[key] for key in ("protocol", "model", "baselines"))
    count, lengths = evaluation["sequences"], (evaluation["context"], evaluation["horizon"])
    told = f"{_words(evaluation['clips'])}: {count:,} sequences, {lengths[1]} frames from {lengths[0]}"
    heads = ["", model["name"], "95% interval", *(baseline["name"] for baseline in baselines)]
    rows = []
    for column in protocol["columns"]:
        if column["name"] in model["metrics"]:
            score = model["metrics"][column["name"]]
            mean, low, high = (_number(score[key], column) for key in ("mean", "low", "high"))
            others = (baseline["metrics"].get(column["name"]) for baseline in baselines)
            beside = ["" if other is None else _number(other["mean"], column) for other in others]
            rows.append([_words(column["label"]), mean, f"{low} to {high}", *beside])
    return [
        f"## Scores of this file, protocol {_words(protocol['name'])}",
        f"{told}.",
        _table([_words(head) for head in heads], rows),
        _words(f"Means {protocol['average']}; bootstrap intervals over sequences. {protocol['note']}"),
    ]


def _take_resumed(notes: dict[str, Any]) -> list[str]:
    """Take out of the notes where the run was stopped and went on, as words; leave there what is no such."""
    try:
        steps = [int(stop["step"]) for stop in notes["resumed"]]
    except (KeyError, TypeError, ValueError):
        return []
    del notes["resumed"]
    return [f"stopped and resumed after step {' and '.join(map(str, steps))}"] if steps else []


def _number(value: float | None, column: Mapping[str, Any]) -> str:
    return "-" if value is None else f"{value:.{column['decimals']}f}"


def _amount(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _words(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _json(values: Any) -> str:
    return _fence("json", json.dumps(values, indent=2))


def _fence(language: str, text: str) -> str:
    """A block of code, whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _words(value: Any) -> str:
    """A value within a line or a table, with nothing in it that Markdown would act on."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(value).split()))
