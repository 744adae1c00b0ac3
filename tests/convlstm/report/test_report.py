"""The report page: what it says, that nothing in it can act, and that a browser shows all of it."""

import dataclasses
import html
import io
import json
import math
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convlstm import StackedForecaster, StackedForecasterConfig
from convlstm.__main__ import main
from convlstm.core.saving import save_checkpoint
from convlstm.evaluation import OPENSTL, STRICT, Evaluation, Score, copy_last
from convlstm.evaluation.protocols import METRICS
from convlstm.evaluation.results import Examples, PredictorScores, ThresholdScores
from convlstm.report import Run, Shown, example_rollouts, read_run, render_report, write_report
from convlstm.report.frames import COLUMNS, LARGEST, animation, strip
from convlstm.report.plots import AREA, Curve, chart, number
from convlstm.report.training import training_curves

HORIZON, CONTEXT, SIZE = 4, 3, 12
EVIL = "<script>alert('x')</script><img src=http://example.invalid/a.png>\"'&\udce9"
RANDOM = np.random.default_rng(0)


def score(mean: float, spread: float = 1.0) -> Score:
    values: dict[str, Any] = {"mean": mean, "low": mean - spread, "high": mean + spread, "stderr": spread}
    for end, shift in (("", 0.0), ("_low", -spread), ("_high", spread)):
        values[f"per_frame{end}"] = tuple(mean + shift + t for t in range(HORIZON))
    return Score(**values)


def predictor(
    name: str, mse: float, spread: float = 1.0, thresholds: tuple[float, ...] = ()
) -> PredictorScores:
    metrics = {metric: score(0.5, spread) for metric in METRICS if metric != "cross_entropy"}
    values: dict[str, Any] = {"hits": 1234, "misses": 5, "false_alarms": 6}
    values |= {ratio: score(0.25, 0.0) for ratio in ("csi", "pod", "far", "bias")}
    found = tuple(ThresholdScores(threshold=t, **values) for t in thresholds)
    return PredictorScores(name=name, metrics=metrics | {"mse": score(mse, spread)}, thresholds=found)


def evaluation(mse: float = 50.0, spread: float = 1.0, **changes: Any) -> Evaluation:
    """Return an evaluation against two baselines, of MSE 100 and 80."""
    thresholds = (0.5, 2.0)
    values: dict[str, Any] = {
        "protocol": STRICT, "sequences": 1000, "context": CONTEXT, "horizon": HORIZON,
        "frame": (1, SIZE, SIZE), "value_range": (0.0, 60.0), "unit": "mm/h",
        "examples": Examples(best=17, median=402, worst=3),
        "model": predictor("StackedForecaster", mse, spread, thresholds),
        "baselines": tuple(predictor(*b, 1.0, thresholds) for b in (("copy last", 100.0), ("mean", 80.0))),
        "checkpoint": "runs/a", "clips": "clips.npy", "versions": {"torch": "2.99"},
        "command": "python -m convlstm evaluate runs/a clips.npy",
    }  # fmt: skip
    return Evaluation(**(values | changes))


def frames(length: int, channels: int = 1, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    return RANDOM.random((length, channels, *size)).astype(np.float32)


def shown(title: str = "Median", known: int | None = HORIZON, horizon: int = HORIZON) -> Shown:
    truth = None if known is None else frames(known)
    return Shown(
        title=title, note="sequence 402", context=frames(CONTEXT), prediction=frames(horizon), truth=truth
    )


class _Parsed(HTMLParser):
    """The elements of a page with their attributes, and its texts."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert not self._open, "elements that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.texts.append(data)


def words(page: str) -> str:
    return " ".join("".join(_Parsed(page).texts).split())


def test_everything_given_is_escaped(tmp_path: Path) -> None:
    hurt = evaluation(
        checkpoint=EVIL, clips=EVIL, command=EVIL, unit=EVIL, versions={EVIL: EVIL},
        model=predictor(EVIL, 50.0, 1.0, (0.5,)), baselines=(predictor(EVIL, 80.0, 1.0, (0.5,)),),
        protocol=dataclasses.replace(STRICT, name=EVIL, note=EVIL),
    )  # fmt: skip
    config = {"network": {EVIL: EVIL}, "command": EVIL, "training": {"data": {EVIL: [EVIL]}}, EVIL: EVIL}
    run = Run(config, [{"step": 1, "val/mse": 3.0}, {"step": 2, "val/mse": 2.0, EVIL: EVIL}])
    rollout = dataclasses.replace(shown(EVIL), note=EVIL)
    write_report(tmp_path / "evil.html", hurt, [rollout], [rollout], run)
    harmless = _Parsed(render_report(evaluation(), [shown()], [shown()], run))
    page = _Parsed((tmp_path / "evil.html").read_text(encoding="utf-8"))
    assert {name for name, _ in page.elements} == {name for name, _ in harmless.elements}
    assert not {"script", "iframe", "link", "object"} & {name for name, _ in page.elements}
    attributes = {attribute for _, given in page.elements for attribute in given}
    assert attributes == {attribute for _, given in harmless.elements for attribute in given}
    for name, given in page.elements:
        assert not given.get("src") or str(given["src"]).startswith("data:image/"), name
        assert not given.get("href") or str(given["href"]).startswith("#"), name
    assert sum(EVIL.replace("\udce9", "?") in text for text in page.texts) > 10


def test_every_picture_and_plot_has_words_beside_it() -> None:
    page = _Parsed(render_report(evaluation(), [shown()], [shown(horizon=16)]))
    for name, given in page.elements:
        if name == "img":
            assert given["alt"]
        if name == "svg":
            assert given.get("aria-label") or given.get("aria-hidden") == "true"
    ids = [given["id"] for _, given in page.elements if "id" in given]
    links = [given["href"] for name, given in page.elements if name == "a"]
    assert links == [f"#{name}" for name in ids]


@pytest.mark.parametrize(
    ("mse", "spread", "said"),
    [
        (50.0, 1.0, "MSE 50.00 (95% interval 49.00 to 51.00): 38% below the best baseline, mean (80.00). "
         "The intervals do not overlap."),
        (79.6, 5.0, "MSE 79.60 (95% interval 74.60 to 84.60): 0.5% below the best baseline, mean (80.00). "
         "The intervals overlap"),
        (96.0, 1.0, "MSE 96.00 (95% interval 95.00 to 97.00): 20% above the best baseline, mean (80.00). "
         "The model does not beat it."),
        (80.0, 1.0, "MSE 80.00 (95% interval 79.00 to 81.00): the same as the best baseline, mean (80.00). "
         "The model does not beat it."),
        (50.0, math.nan, "MSE 50.00: 38% below the best baseline, mean (80.00)."),
        (math.nan, math.nan, "MSE \N{EN DASH}."),
    ],
)  # fmt: skip
def test_the_verdict(mse: float, spread: float, said: str) -> None:
    page = render_report(evaluation(mse, spread))
    [found] = re.findall('<p class="verdict">(.*?)</p>', page)
    assert words(found).startswith(said)


def test_the_table_says_its_conventions() -> None:
    page = render_report(evaluation())
    text = words(page)
    for metric in STRICT.columns:
        assert (metric.label in text) == (metric.name != "cross_entropy"), metric.name
    assert STRICT.note in text
    assert "SSIM (range 2)higher is better" in text
    assert "MSElower is better" in text
    assert "At 0.5 mm/h or more; 1,234 hits, 5 misses, 6 false alarms of the model" in text
    assert "pixels in [0, 1], which stand for 0 to 60 mm/h" in text
    assert re.search(r'<td class="best" data-of="StackedForecaster"><span>50.00<small>49.00 to 51.00<', page)
    table = words(render_report(evaluation(protocol=OPENSTL)))
    assert "SSIM (range 2)" in table
    assert "SSIM (range 1)" not in table


def test_what_is_undefined_is_a_dash_and_what_a_baseline_is_better_in_is_said() -> None:
    model = predictor("a", 50.0, thresholds=(0.5,))
    hollow = dataclasses.replace(model.thresholds[0], csi=score(math.nan), far=score(math.nan))
    model = dataclasses.replace(model, thresholds=(hollow,))
    better = predictor("mean", 80.0, thresholds=(0.5,))
    better = dataclasses.replace(better, metrics={**better.metrics, "ssim": score(0.6), "mae": score(0.4)})
    page = render_report(evaluation(model=model, baselines=(better,)))
    assert page.count('<td data-of="a"><span>\N{EN DASH}</span></td>') == 2
    assert ">nan<" not in page
    assert "But a baseline is better in MAE and SSIM (range 1)." in words(page)


def test_every_point_of_a_curve_says_its_value() -> None:
    curves = [Curve("a", [1, 2, 3], [10.0, math.nan, 1234.5]), Curve("b", [1], [math.inf])]
    drawn = chart("MSE", curves, "frame")
    assert [words for line in drawn.lines for _, _, words in line.marks] == ["a, 1: 10", "a, 3: 1,234"]
    assert drawn.words == "MSE: a from 10 to 1,234; b has no finite values"
    assert not chart("MSE", [Curve("a", [1.0], [math.nan])], "frame").lines


@pytest.mark.parametrize("logarithmic", [False, True])
def test_curves_lie_within_the_axes(logarithmic: bool) -> None:
    for values in ([0.0, 0.0], [5.0], [-3.0, 2.0], [1e-9, 1e-7], [1e9, 3e12], [0.99, 0.9901]):
        drawn = chart("x", [Curve("a", range(len(values)), values)], "frame", logarithmic=logarithmic)
        [line] = drawn.lines
        assert len(line.marks) == len(values)
        for x, y, _ in line.marks:
            assert AREA["left"] <= x <= AREA["right"]
            assert AREA["top"] <= y <= AREA["bottom"]
        assert len(drawn.y_ticks) in range(2, 9)
        assert len({label for _, label in drawn.y_ticks}) == len(drawn.y_ticks)


def test_the_score_that_chose_is_drawn_with_the_loss() -> None:
    for logged, beside_the_loss, alone in (
        (["val/mse"], "validation MSE", []),
        (["val/mse", "val/cross_entropy"], "validation cross-entropy", ["Validation MSE"]),
    ):
        metrics = [{"step": n, "train/loss": 9.0 - n} | dict.fromkeys(logged, 5.0 - n) for n in range(3)]
        drawn = training_curves(metrics)
        assert [name for name, _ in drawn["legend"]] == ["training loss", beside_the_loss]
        assert [chart.title for chart in drawn["charts"]] == ["Loss", *alone]


def test_numbers_as_one_writes_them() -> None:
    minus = "\N{MINUS SIGN}"
    written = {0: "0", 1234567: "1,234,567", 0.00012345: "0.000123", 1e-7: f"1e{minus}7"}
    written |= {2.5e12: "2.5e12", -0.5: f"{minus}0.5"}
    assert {value: number(value) for value in written} == written


def test_the_strip_shows_what_was_forecast() -> None:
    rollout = shown(horizon=25, known=12)
    times, pictures = strip(rollout)
    assert len(times) == COLUMNS
    assert times[-1] == 25
    assert rollout.truth is not None
    for label, source in (("truth", rollout.truth), ("prediction", rollout.prediction)):
        pixels = np.asarray(Image.open(io.BytesIO(pictures[label])))
        tiles = pixels.reshape(SIZE, COLUMNS, SIZE + 4, 4)[:, :, 2:-2]
        for n, time in enumerate(times):
            if label == "truth" and time > 12:
                assert not tiles[:, n].any()
                continue
            wanted = source[time - 1, 0] * 255
            np.testing.assert_allclose(tiles[:, n, :, 0], wanted, atol=2)
    assert list(strip(shown(known=None))[1]) == ["prediction"]


def test_animations_of_any_size() -> None:
    sizes = [((7, 5), None), ((7, 5), 2), ((7, 5), HORIZON), ((LARGEST + 1, 9), 1), ((210, 400), 1)]
    for size, known in sizes:
        parts: dict[str, Any] = {"context": frames(1, 3, size), "prediction": frames(HORIZON, 3, size)}
        truth = None if known is None else frames(known, 3, size)
        with Image.open(io.BytesIO(animation(Shown(title="", truth=truth, **parts)))) as image:
            assert getattr(image, "n_frames") == 1 + HORIZON  # noqa: B009 (only animations have it)
            assert image.width <= 3 * (LARGEST + 16)


def test_what_cannot_be_shown() -> None:
    with pytest.raises(ValueError, match="truth has 5 frames, prediction 4"):
        shown(known=HORIZON + 1)
    with pytest.raises(ValueError, match="C of 1 or 3"):
        Shown(title="", context=frames(2, channels=2), prediction=frames(2, channels=2))
    clips = torch.rand(2, 9, 2, SIZE, SIZE)
    two = evaluation(frame=(2, SIZE, SIZE), examples=Examples(best=0, median=0, worst=1))
    assert example_rollouts(two, copy_last, clips) == []


def test_a_run_and_its_curves(tmp_path: Path) -> None:
    network = StackedForecaster(StackedForecasterConfig(hidden_channels=(3,), kernel_size=3))
    notes = {"step": 20, "command": "python train.py", "validation": {"mse": 3.0}}
    save_checkpoint(tmp_path, network, notes)
    assert read_run(tmp_path).metrics == ()
    assert "Training" not in words(render_report(evaluation(), run=read_run(tmp_path)))
    lines = [{"step": n, "train/loss": 100 / n, "train/lr": 1e-3} for n in range(1, 1001)]
    lines.insert(1, {"step": 2, "val/mse": 3.0, "train/gradient_norm": math.inf})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 1001, "train/l')
    run = read_run(tmp_path)
    assert len(run.metrics) == len(lines)
    page = render_report(evaluation(), run=run)
    text = words(page)
    assert "Loss logarithmic" in text
    assert "validation MSE" not in text  # one value is no curve
    assert "python train.py" in text
    assert "step 20, chosen by validation (MSE 3.00), not by the scores above" in text
    assert '"hidden_channels"' in text
    assert len(page) < 200_000
    (tmp_path / "metrics.jsonl").write_text("[]\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 1, is damaged"):
        read_run(tmp_path)


def test_the_page_is_a_function_of_what_it_is_given(tmp_path: Path) -> None:
    rollout, path = shown(), tmp_path / "report.html"
    path.write_text("before")
    write_report(path, evaluation(), [rollout])
    assert path.read_text(encoding="utf-8") == render_report(evaluation(), [rollout])
    assert list(tmp_path.iterdir()) == [path]
    for wrong in (tmp_path, tmp_path / "none" / "report.html"):
        with pytest.raises(ValueError, match=r"path is .*; it needs the name of a file"):
            write_report(wrong, evaluation())


@pytest.fixture
def _checkpoint_and_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network = StackedForecaster(StackedForecasterConfig(hidden_channels=(3,), kernel_size=3))
    save_checkpoint("run<script>", network, {"step": 20})
    np.save("clips.npy", RANDOM.integers(0, 256, (9, 5, SIZE, SIZE), dtype=np.uint8))  # (T, N, H, W)


@pytest.mark.usefixtures("_checkpoint_and_clips")
def test_the_command_writes_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--context", "3", "--horizon", "4", "--thresholds", "0.5"]
    command = ["evaluate", "run<script>", "clips.npy", *options, "--report", "report.html"]
    assert main(command) == 0
    assert "report.html: the report" in capsys.readouterr().out
    page = Path("report.html").read_text(encoding="utf-8")
    titles = re.findall("<h3>(.*?)</h3><small>(.*?)</small>", page)
    assert [title for title, _ in titles] == ["Best", "Median", "Worst", "Median"]
    scores = [float(note.rpartition(" ")[2]) for _, note in titles[:3]]
    assert scores == sorted(scores)
    assert titles[-1][1].endswith(", known for 6 frames")
    assert "<script" not in page
    assert f"python -m convlstm {shlex.join(command)}" in words(page)


@pytest.mark.usefixtures("_checkpoint_and_clips")
def test_where_no_page_can_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convlstm.cli.evaluate.run", None)  # it is said before the work
    for options, message in {
        "--report none/a.html": "none is no directory, but none/a.html should go there",
        "--report .": ". is a directory; give the name of a file",
        "--report clips.npy": "clips.npy is the file of the clips; give another name",
    }.items():
        assert main(["evaluate", "run<script>", "clips.npy", *options.split()]) == 2
        assert message in capsys.readouterr().err


def test_a_forecast_of_no_numbers_is_shown_and_said() -> None:
    clips = torch.rand(2, 9, 1, SIZE, SIZE)
    few = evaluation(examples=Examples(best=0, median=0, worst=1))
    rollouts = example_rollouts(few, lambda context, horizon: copy_last(context, horizon) * math.nan, clips)
    assert [rollout.title for rollout in rollouts] == ["Best, median", "Worst"]
    assert all(rollout.note.endswith("nan is shown as 0") for rollout in rollouts)
    assert not rollouts[0].prediction.any()


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --hide-scrollbars "
    "--disable-background-networking --enable-logging=stderr --allow-file-access-from-files --dump-dom"
)
VIEWS = """<script>
const views = [];
for (const width of [400, 1600]) {
  const frame = document.createElement("iframe");
  Object.assign(frame, {width: width, src: "report.html", style: "border: 0"});
  frame.onload = () => {
    const page = frame.contentDocument;
    page.querySelectorAll("details").forEach(item => item.open = true);
    const items = [...page.querySelectorAll("main *")].filter(item => !item.closest(".wide, svg"));
    const outside = items.filter(item => item.getBoundingClientRect().right > width + 1);
    views.push({
      overflow: page.documentElement.scrollWidth - width,
      outside: outside.map(item => item.outerHTML.slice(0, 99)),
      images: [...page.images].map(image => image.complete ? image.naturalWidth : 0),
      requests: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
      color: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
      title: page.title,
    });
    document.title = JSON.stringify(views);
  };
  document.documentElement.append(frame);
}
</script>"""
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")


def views(folder: Path, dark: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Open report.html in a narrow and in a wide frame; return what is seen, and the browser's messages."""
    assert BROWSER is not None
    (folder / "views.html").write_text(VIEWS)
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    own = [scheme, f"--user-data-dir={folder / 'profile'}", (folder / "views.html").as_uri()]
    command = [BROWSER, *OPTIONS.split(), *own]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    [title] = re.findall("<title>(.*?)</title>", done.stdout)
    return json.loads(html.unescape(title)), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@needs_browser
@pytest.mark.parametrize(("dark", "color"), [(False, "rgb(255, 255, 255)"), (True, "rgb(17, 19, 24)")])
def test_in_a_browser(tmp_path: Path, dark: bool, color: str) -> None:
    run = Run({"network": {"network": "x" * 300}}, [{"step": n, "train/loss": 1.0 + n} for n in range(30)])
    rollouts = [shown("Best"), shown("Median", known=2), shown("Worst", known=None)]
    wide = evaluation(command="python " + "y" * 300)
    write_report(tmp_path / "report.html", wide, rollouts, [shown(horizon=16)], run)
    found, messages = views(tmp_path, dark)
    assert len(found) == 2
    assert not messages
    for view in found:
        assert (view["overflow"], view["outside"], view["requests"], view["color"]) == (0, [], [], color)
        assert len(view["images"]) == 4 + 3 + 3 + 1 + 3
        assert all(view["images"])


@needs_browser
def test_a_browser_refuses_what_a_page_must_not_do(tmp_path: Path) -> None:
    """The test above would see it: a page with the same policy that asks for a picture and a script."""
    bad = '<img src="http://127.0.0.1:9/a.png"><script>document.title = "x"</script></main>'
    (tmp_path / "report.html").write_text(render_report(evaluation()).replace("</main>", bad), "utf-8")
    found, messages = views(tmp_path)
    assert len([line for line in messages if "Content Security Policy" in line]) == 2 * 2
    for view in found:
        assert (len(view["requests"]), view["images"]) == (1, [0])
        assert view["title"] == "Forecasts of StackedForecaster"
