"""The README and the documentation keep their word: their code and commands run, their links lead somewhere.

A page's blocks of Python and sh run in their order, in one namespace and a folder of the page's own. What
cannot run anywhere, such as code that needs a download, stands in a `{code-block}` of MyST.
"""

import ast
import contextlib
import hashlib
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from convlstm.__main__ import main as convlstm_main
from convlstm.clips import write_clip
from datasets import CanonicalMovingMNIST
from datasets.__main__ import main as datasets_main
from tests.convlstm.importers.foreign_models import OpenSTL

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page]
SLOW = ("docs/howto/onnx.md",)  # torch takes its time to trace a graph
# What a page says, and what is run in its place: as much is enough to see that it works.
SHORTER = [(r"(sequences[ =])\d{3,}", r"\g<1>2"), (r"(--horizon )\d{2,}", r"\g<1>12")]
MAINS = {"datasets": datasets_main, "convlstm": convlstm_main}
SERVERS = ("demo",)  # commands that go on until they are stopped


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clips that pages decode go into a folder that is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages speak of and readers have: each page gets a copy.

    - runs/NAME, a run on Moving MNIST; runs/radar, a run on radar, in mm/h
    - gifs: a folder of three GIFs
    - radar: a folder of three events, each a folder of 16-bit PGM frames
    - clip.gif (12, 64, 64), clips.npy (30, 3, 64, 64), test.npy (20, 4, 64, 64): Moving MNIST, time first;
      mnist_test_seq.npy (20, 2, 64, 64), for the file of that name
    - best.ckpt, a checkpoint of OpenSTL, with input.npy and output.npy
    """
    path = tmp_path_factory.mktemp("files")
    with contextlib.chdir(path):
        datasets_main(shlex.split("write clips.npy --sequences 3 --length 30"))
        datasets_main(shlex.split("write test.npy --sequences 4"))
        test = np.load("test.npy")
        np.save("mnist_test_seq.npy", test[:, :2])
        write_clip(Path("clip.gif"), test[:12, 0], 5)
        Path("gifs").mkdir()
        for n in range(3):
            write_clip(Path(f"gifs/{n}.gif"), test[:, n], 5)
        for event in range(3):
            folder = Path(f"radar/{event}")
            folder.mkdir(parents=True)
            for t, frame in enumerate(test[:, event].astype(np.uint16) * 20):
                Image.fromarray(frame).save(folder / f"{t:02}.pgm")
        openstl = OpenSTL(1, [3], 4, None, old=False)
        frames = torch.rand(1, 3, 1, 16, 16)
        np.save("input.npy", frames.numpy())
        np.save("output.npy", openstl(frames, 2).detach().numpy())
        tensors = {f"model.{name}": tensor for name, tensor in openstl.state_dict().items()}
        torch.save({"state_dict": tensors, "hyper_parameters": {"patch_size": 4}}, "best.ckpt")
        tiny = "--preset tiny --steps 1 --validations 1 --validation-sequences 1 --test-sequences 1"
        train.main(train.parse(shlex.split(f"{tiny} --name NAME")))
        values = "--data.stored 0 6000 --data.value-range 0 60 --data.unit mm/h"
        train.main(train.parse(shlex.split(f"{tiny} --name radar --data.clips radar {values}")))
    return path


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else []) for page in PAGES]
)
def test_the_code_of_a_page_runs(
    page: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = list(blocks((ROOT / page).read_text()))
    if found:
        shutil.copytree(request.getfixturevalue("files"), tmp_path, dirs_exist_ok=True)
        monkeypatch.chdir(tmp_path)
        md5 = hashlib.md5(Path("mnist_test_seq.npy").read_bytes()).hexdigest()
        monkeypatch.setattr(CanonicalMovingMNIST.__init__, "__defaults__", (md5,))
    names: dict = {"__name__": "__main__"}
    for line, language, code in found:
        for pattern, shorter in SHORTER:
            code = re.sub(pattern, shorter, code)
        if language == "python":
            run_python(code, page, line, names)
        else:
            run_commands(code)


def blocks(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, language and code of the blocks of a page, those in lists and cards, too."""
    # Of any language, so that the end of one block is not taken for the start of another.
    for match in re.finditer(r"^( *)(`{3,})(.*?)\n(.*?)^\1\2$", text, re.MULTILINE | re.DOTALL):
        # Another one, such as bash, would not be run.
        assert re.fullmatch(r"python|sh|text|diff|\{.*|", match[3]), match[0]
        if match[3] in ("python", "sh", ""):
            yield text[: match.start(4)].count("\n"), match[3], textwrap.dedent(match[4])


def run_python(code: str, page: str, line: int, names: dict) -> None:
    """Run statement by statement; what is assigned has the shapes that the comment behind it begins with."""
    lines = code.splitlines()
    tree = ast.increment_lineno(ast.parse(code), line)
    for statement in tree.body:
        exec(compile(ast.Module([statement], []), page, "exec"), names)
        comment = lines[(statement.end_lineno or 0) - line - 1][statement.end_col_offset :].strip()
        if isinstance(statement, ast.Assign) and re.match(r"# \(\d", comment):
            shapes = re.findall(r"\((\d[\d, ]*)\)", comment)
            targets = [node.id for node in ast.walk(statement.targets[0]) if isinstance(node, ast.Name)]
            for name, shape in zip(targets, shapes, strict=False):
                wanted = tuple(int(n) for n in shape.split(",") if n.strip())
                assert tuple(names[name].shape) == wanted, f"{page}:{statement.lineno}: {name}"


def run_commands(code: str) -> None:
    """Run `python -m convlstm` and `python -m datasets`; of `train.py`, read the options."""
    for line in code.replace("\\\n", " ").splitlines():
        for command in re.split(r" && | \|\| ", line):
            words = shlex.split(command, comments=True)
            if "train.py" in words:
                arguments = words[words.index("train.py") + 1 :]
                if "--help" not in arguments:
                    assert isinstance(train.parse(arguments), train.Config)
            elif words[:2] == ["python", "-m"] and words[2] in MAINS and words[3] not in SERVERS:
                force = ["--force"] if words[2:4] == ["datasets", "write"] else []
                assert MAINS[words[2]](words[3:] + force) in (0, None), command


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", text)
    links += [(place, "") for place in re.findall(r"```\{(?:include|image|figure)\} (\S+)", text)]
    for place, anchor in links:
        path = (ROOT / page).parent / place if place else ROOT / page
        assert path.exists(), place
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path.read_text()), f"{place}#{anchor}"


def anchors(text: str) -> set[str]:
    """Return what GitHub and MyST call the headings of a page."""
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)  # no comments of code
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the docs extra")
    nbformat = pytest.importorskip("nbformat", reason="needs the docs extra")
    notebook = nbformat.read(ROOT / "docs/quickstart.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    assert {"pretrained.gif", "trained.gif"} <= {path.name for path in tmp_path.iterdir()}
