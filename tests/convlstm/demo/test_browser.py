"""A stroke that is drawn in a browser ends in a moving forecast."""

import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.convlstm.demo.images import pixels

ROOT = Path(__file__).parents[3]
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
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-u", "-m", "convlstm", "demo", "moving_mnist_mini", "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as served:
        limit = threading.Timer(120, served.kill)
        limit.start()
        try:
            assert served.stdout is not None
            lines = []
            for line in served.stdout:
                lines.append(line)
                if address in line:
                    break
            assert served.poll() is None, "".join(lines)
            yield address
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
        view.get_by_role("button", name="Forecast").click()
        view.get_by_text(re.compile("Watching: frame|Forecast: frame")).wait_for()
        view.evaluate(RECORD)
        view.get_by_role("button", name="Forecast").click()  # ends the first
        view.get_by_text("Forecast: frame 20 of 20").wait_for()
        seen = view.evaluate("seen")
        view.get_by_role("button", name="Clear").click()
        view.get_by_text("Draw one to three shapes here").wait_for()
        view.get_by_role("button", name="Forecast").click()
        view.get_by_text("Draw a shape first").wait_for()
        canvas.click(button="right")
        assert view.locator(".canvas circle").count() == 0
        middle = box["y"] + box["height"] / 2
        view.mouse.move(box["x"] + box["width"] * 26 / 64, middle)
        view.mouse.down()
        for event in ("pointerdown", "pointermove", "pointerup"):  # of a second finger
            canvas.dispatch_event(event, {"isPrimary": False, "pointerId": 9, "clientX": box["x"]})
        view.mouse.move(box["x"] + box["width"] * 38 / 64, middle)
        view.mouse.up()
        stroke = [view.locator(".canvas line").get_attribute(name) for name in ("x1", "y1")]
        canvas.click(position={"x": 20, "y": 20})  # a dot
        assert view.locator(".canvas circle").count() == 2
        browser.close()
    assert errors == []
    assert [float(place) for place in stroke] == pytest.approx([32, 32], abs=1)
    assert all(url.startswith((address, "data:", "blob:")) for url in requests), requests
    captions = [state["caption"].split() for state in seen]
    shown = [(words[0] == "Forecast:", int(words[2])) for words in captions]
    restarts = [n for n, (one, two) in enumerate(pairwise(shown), 1) if two < one]
    # Two forecasts at a time would take turns; one frame of the first may have been on its way.
    assert 1 <= len(restarts) <= 2
    seen = seen[restarts[-1] :]
    watched = [state for state in seen if state["caption"].startswith("Watching")]
    centers = [(pixels(state["truth"]).sum(0) * np.arange(64)).sum() for state in watched]
    assert len(watched) > 5
    assert centers == sorted(centers)  # it flies to the right
    forecast = [pixels(state["forecast"]) for state in seen if state["caption"].startswith("Forecast")]
    assert len(forecast) > 10  # a busy browser may leave some out
    assert min(frame.max() for frame in forecast) > 100
    assert all((one != two).any() for one, two in pairwise(forecast))
