"""States: whole or recognized as damaged, the newest three kept, nothing executed."""

import os
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from convlstm.core import files
from convlstm.training.states import load_state, save_state, states_of


def test_the_newest_state_comes_back_and_three_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 20, 100):
        save_state(tmp_path, step, {"step": step, "weights": torch.full((2,), float(step))})
    assert [int(path.name[:8]) for path in states_of(tmp_path)] == [100, 20, 3]
    state = load_state(tmp_path)
    assert state["step"] == 100
    assert torch.equal(state["weights"], torch.full((2,), 100.0))


def test_a_state_takes_the_place_of_another_of_its_step(tmp_path: Path) -> None:
    for step, value in ((6, 0), (7, 1), (7, 1), (7, 2)):
        last = save_state(tmp_path, step, {"value": value})
    assert states_of(tmp_path)[0] == last
    assert [int(path.name[:8]) for path in states_of(tmp_path)] == [7, 6]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_state_is_named_and_the_one_before_it_taken(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (save_state(tmp_path, step, {"step": step}) for step in (1, 2))
    data = bytearray(new.read_bytes())
    data[len(data) // 2] ^= 4
    new.write_bytes({"cut": bytes(data[:-1]), "flipped": bytes(data), "empty": b""}[damage])
    assert load_state(tmp_path)["step"] == 1
    said = capsys.readouterr().err
    assert said == f"{new} is damaged (its checksum differs): removed; going on from {old.name}\n"
    assert states_of(tmp_path) == [old]


def test_damaged_states_alone_are_an_error_and_stay(tmp_path: Path) -> None:
    path = save_state(tmp_path, 1, {"step": 1})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"all of its states are damaged .*: {path.name}"):
        load_state(tmp_path)
    assert path.exists()
    path.unlink()
    with pytest.raises(ValueError, match="which has no states: nothing to continue"):
        load_state(tmp_path)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_hostile_state_is_refused_and_not_executed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_state(tmp_path, 1, {"step": Hostile()})
    with pytest.raises(ValueError, match="is no state: it needs a file"):
        load_state(tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = save_state(tmp_path, 1, {"step": 1})
    monkeypatch.setattr(files.os, call, Mock(side_effect=OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        save_state(tmp_path, 2, {"step": 2})
    assert os.listdir(before.parent) == [before.name]


def test_a_state_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch) -> None:
    calls: list[str] = []
    for call in ("fsync", "replace"):
        genuine = getattr(os, call)
        monkeypatch.setattr(files.os, call, lambda *a, c=call, g=genuine: calls.append(c) or g(*a))
    save_state(tmp_path, 1, {"step": 1})
    assert calls == ["fsync", "replace", "fsync"]
