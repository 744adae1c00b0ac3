"""What the package says of itself agrees, wherever it says it."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import convlstm

ROOT = Path(__file__).parents[1]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_one_version_everywhere() -> None:
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    versions = {project()["version"], convlstm.__version__, str(citation()["version"]), newest[1]}
    assert len(versions) == 1, versions


def test_the_citation_names_the_authors_and_license_of_the_package() -> None:
    assert citation()["authors"] == project()["authors"]
    assert citation()["license"] == project()["license"]
    assert "Copyright (c) 2026 " + project()["authors"][0]["name"] in (ROOT / "LICENSE").read_text()


def test_the_workflow_tests_the_versions_that_the_package_names() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    prefix = "Programming Language :: Python :: 3."
    named = ["3." + c.removeprefix(prefix) for c in project()["classifiers"] if c.startswith(prefix)]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    assert project()["requires-python"] == f">={named[0]}"
    lowest = yaml.dump(workflow["jobs"]["lowest"])
    (torch,) = (name for name in project()["dependencies"] if name.startswith("torch>="))
    assert f" {torch.replace('>=', '==')}.0 " in lowest
    assert f"'{named[0]}'" in lowest


def test_the_page_about_installation_says_what_is_needed() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    (torch,) = (name for name in project()["dependencies"] if name.startswith("torch>="))
    python = project()["requires-python"].removeprefix(">=")
    assert f"Python {python} or newer and PyTorch {torch.removeprefix('torch>=')} or newer" in page
    for extra, packages in project()["optional-dependencies"].items():
        names = [re.split(r"[<>=;\[ ]", package)[0] for package in packages]
        brings = ", ".join(name for name in names if name != "convlstm")
        assert re.search(rf"^\| `{extra}` \| .* \| {re.escape(brings)} \|$", page, re.MULTILINE), extra
