"""Copies of the pages that show what was measured, for commands that write into them."""

from pathlib import Path

import pytest

from benchmarks import timing


def copy_pages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Path, str]:
    """Let `timing.write_measured` write into copies; return these and what they hold."""
    pages = {}
    for page in (timing.ROOT / "README.md", *(timing.ROOT / "docs").rglob("*.md")):
        copy = folder / page.relative_to(timing.ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(page.read_text())
        pages[copy] = copy.read_text()
    monkeypatch.setattr(timing, "ROOT", folder)
    return pages
