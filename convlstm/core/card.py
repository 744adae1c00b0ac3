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
CHOSEN = (
    "Means over all frames of all sequences of the validation, by which the checkpoint was chosen. mse and "
    "mae are summed over the pixels of a frame, unclipped."
)


def model_card(
    network: Mapping[str, Any],
    *,
    summary: str,
    parameters: int,
    example: str,
    notes: Mapping[str, Any],
    evaluations: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the card as Markdown, with the front matter that the Hub reads.

    Args:
        network: what the network is built from, its class's name under "network".
        summary: what it is, in a sentence.
        parameters: how many it has.
        example: how the network named `model` is called.
        notes: what config.json holds. A license, command and validation as train.py writes them, and
            "rollout" (a picture beside the card) have places of their own. The rest is shown as it is.
        evaluations: of `Evaluation.to_dict`.

    Raises:
        ValueError: a license that is no identifier.
    """
    name = network["network"]
    kept = {key: note for key, note in notes.items() if key != "network"}  # less and less, to be shown last
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
    validation = kept.get("validation")
    scores = validation if isinstance(validation, dict) else {}
    if scores := {key: f"{x:.6g}" for key, x in scores.items() if isinstance(x, int | float)}:
        del kept["validation"]
        parts += ["## Validation", _table([*map(_words, scores)], [[*scores.values()]]), CHOSEN]
    parts += [part for evaluation in evaluations for part in _evaluation(evaluation)]
    commands = dict.fromkeys(str(evaluation["command"]) for evaluation in evaluations)
    parts += ["Measured by", *(_fence("", text) for text in commands)] if commands else []
    if isinstance(kept.get("rollout"), str):
        parts += ["## Rollout", f"![a forecast beside what came to be]({quote(kept.pop('rollout'))})"]
    command = [_fence("", str(kept.pop("command")))] if "command" in kept else []
    parts += ["## Training", *command] if command or kept else []
    parts += ["All that was noted:", _json(kept)] if kept else []
    text = "\n\n".join(parts) + "\n\n"
    return text + SEAL.format(hashlib.sha256(text.encode()).hexdigest())


def is_as_written(card: bytes) -> bool:
    """Return whether a card is one that `model_card` made and nobody edited."""
    text, _, seal = card.rstrip(b"\n").rpartition(b"\n")
    text += b"\n"
    return seal + b"\n" == SEAL.format(hashlib.sha256(text).hexdigest()).encode()


def _evaluation(evaluation: Mapping[str, Any]) -> list[str]:
    protocol, model, baselines = (evaluation[key] for key in ("protocol", "model", "baselines"))
    count, context, horizon = (evaluation[key] for key in ("sequences", "context", "horizon"))
    rows = []
    for column in protocol["columns"]:
        if score := model["metrics"].get(column["name"]):
            mean, low, high = (_number(score[key], column) for key in ("mean", "low", "high"))
            others = (baseline["metrics"].get(column["name"]) for baseline in baselines)
            beside = ["" if other is None else _number(other["mean"], column) for other in others]
            rows.append([_words(column["label"]), mean, f"{low} to {high}", *beside])
    heads = ["", model["name"], "95% interval", *(baseline["name"] for baseline in baselines)]
    return [
        f"## Scores of this file, protocol {_words(protocol['name'])}",
        f"{_words(evaluation['clips'])}: {count:,} sequences, {horizon} frames from {context}.",
        _table([_words(head) for head in heads], rows),
        _words(
            f"Means over all frames of all sequences; bootstrap intervals over sequences. {protocol['note']}"
        ),
    ]


def _number(value: float | None, column: Mapping[str, Any]) -> str:
    return "-" if value is None else f"{value:.{column['decimals']}f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _json(values: Any) -> str:
    return _fence("json", json.dumps(values, indent=2))


def _fence(language: str, text: str) -> str:
    """Return a block of code, whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _words(value: Any) -> str:
    """Return a value for a line or a table, with nothing in it that Markdown would act on."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(value).split()))
