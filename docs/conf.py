"""The documentation's settings for Sphinx."""

import json
import math
import re
import tomllib
from importlib.metadata import version as installed_version
from pathlib import Path

from docutils import nodes
from safetensors import safe_open
from sphinx.application import Sphinx

project = "convlstm"
author = "The convlstm authors"
copyright = author
release = version = installed_version("convlstm")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute", "measured/*"]  # measured: fragments that pages include
myst_enable_extensions = ["colon_fence", "dollarmath", "substitution"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # a test executes the notebook; its outputs are stored
nb_merge_streams = True

autodoc_typehints = "description"  # types stand beside the arguments that a docstring describes
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False
default_role = "py:obj"  # `name` in a docstring links to what has that name, and is code where nothing has
napoleon_custom_sections = [
    ("Inputs", "params_style"),
    ("Outputs", "params_style"),
    ("Attributes", "Args"),  # a dataclass's fields, which are its arguments
]
python_display_short_literal_types = True
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "convlstm"
html_static_path = ["_static"]
html_css_files = ["site.css"]

ROOT = Path(__file__).resolve().parents[1]


def shipped_numbers(name: str, prefix: str) -> dict[str, str]:
    """Return what was measured of a network in convlstm/weights as texts, by `{prefix}_{what}`."""
    folder = ROOT / "convlstm" / "weights" / name
    strict, *_ = json.loads((folder / "evaluation.json").read_text())
    trained = json.loads((folder / "config.json").read_text())["trained"]
    with safe_open(folder / "model.safetensors", "pt") as file:
        parameters = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    numbers = {
        "parameters": f"{parameters:,}",
        "sequences": f"{trained['sequences']:,}",
        "minutes": f"{trained['minutes']:.0f}",
        "test_sequences": f"{strict['sequences']:,}",
    }
    for whose, scored in (("", strict["model"]), ("copy_", strict["baselines"][0])):
        for metric, decimals in (("mse", 1), ("mae", 1), ("ssim", 3), ("ssim_range2", 3), ("psnr", 1)):
            numbers[whose + metric] = f"{scored['metrics'][metric]['mean']:.{decimals}f}"
    return {f"{prefix}_{key}": text for key, text in numbers.items()}


def requirements() -> dict[str, str]:
    """Return what pyproject.toml asks for as texts: the lowest versions, and the packages of each extra."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = next(text for text in asked["dependencies"] if text.startswith("torch>="))
    texts = {
        "lowest_python": asked["requires-python"].removeprefix(">="),
        "lowest_torch": torch.removeprefix("torch>="),
    }
    for extra, packages in asked["optional-dependencies"].items():
        names = [re.split(r"[<>=;\[ ]", package)[0] for package in packages]
        texts[f"extra_{extra}"] = ", ".join(name for name in names if name != "convlstm")
    return texts


# Pages write {{ small_mse }} for a number; these exist, and the same of moving_mnist_mini (mini_mse, ...):
#   small_parameters       of moving_mnist_small
#   small_sequences        sequences that it was trained on
#   small_minutes          that the training took
#   small_test_sequences   sequences that it was scored on
#   small_mse, small_mae, small_ssim, small_ssim_range2, small_psnr
#   small_copy_mse, ...    the same five of the baseline that copies the last frame
# and of pyproject.toml:
#   lowest_python, lowest_torch
#   extra_train, ...       the packages of an extra
myst_substitutions = {
    **shipped_numbers("moving_mnist_small", "small"),
    **shipped_numbers("moving_mnist_mini", "mini"),
    **requirements(),
}


def shorten_array_types(app: Sphinx, domain: str, kind: str, content: nodes.Element) -> None:
    """Show the type NDArray[np.uint8] as ndarray[uint8], without the shape that it leaves open."""
    for text in list(content.findall(nodes.Text)):
        short = re.sub(r"\[tuple\[\S*Any, \S*\], \S*dtype\[[~\w.]*?(\w+)\]\]", r"[\1]", text)
        short = re.sub(r"\[_ScalarT\]|(?<=ndarray)\[Any\]", "", short)
        if short != text:
            text.parent.replace(text, nodes.Text(short))


def setup(app: Sphinx) -> None:
    """Shorten types once autodoc, at priority 500, has put them beside the arguments."""
    app.connect("object-description-transform", shorten_array_types, priority=600)
