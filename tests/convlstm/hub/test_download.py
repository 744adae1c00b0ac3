"""hf:// addresses, through the Hub's own client over a local stand-in of its cache: no network."""

import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from torch.testing import assert_close

from convlstm import ConvLSTM, from_pretrained
from convlstm.hub.checkpoint import read_config

COMMITS = {"main": "a" * 40, "v1": "b" * 40, "refs/pr/1": "c" * 40}


def put(cache: Path, revision: str, folder: Path) -> None:
    """Lay a folder's files into the cache as the client does: a snapshot of a commit, and a ref to it."""
    home, commit = cache / "models--owner--name", COMMITS[revision]
    shutil.copytree(folder, home / "snapshots" / commit)
    (home / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (home / "refs" / revision).write_text(commit)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number, revision in enumerate(COMMITS):
        ConvLSTM(1, 2, 3).save_pretrained(tmp_path / str(number), {"revision": revision})
        put(tmp_path / "home" / "hub", revision, tmp_path / str(number))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "home" / "hub"


def test_a_repository_and_its_revisions(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, genuine = [], huggingface_hub.hf_hub_download

    def spy(repository: str, file: str, *, revision: str | None) -> str:
        asked.append((file, revision))
        return genuine(repository, file, revision=revision)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", spy)
    for address, revision, number in (
        ("hf://owner/name", None, 0),
        ("hf://owner/name@v1", None, 1),
        ("hf://owner/name", "v1", 1),
        ("hf://owner/name@refs/pr/1", None, 2),
        ("hf://owner/name", "b" * 40, 1),
    ):
        loaded = from_pretrained(address, revision=revision)
        assert_close(
            loaded.state_dict(), from_pretrained(tmp_path / str(number)).state_dict(), rtol=0, atol=0
        )
        # The weights are of the commit that the config was of, and nothing else is asked for.
        assert [file for file, _ in asked] == ["config.json", "model.safetensors"]
        assert asked[1][1] == list(COMMITS.values())[number]
        asked.clear()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("address", "revision", "error", "message"),
    [
        ("hf://owner", None, ValueError, "name is 'hf://owner'; it needs the form hf://owner/name"),
        ("hf://owner/name@", None, ValueError, "it needs the form"),
        ("hf://owner/..", None, ValueError, "which is no repository's name"),
        ("hf://owner/name@v1", "main", ValueError, "hf://owner/name@v1 names one already; give one of the"),
        ("hf://owner/other", None, OSError, "hf://owner/other is not in the cache, and the Hub cannot be"),
        ("hf://owner/name@v2", None, OSError, "hf://owner/name@v2 is not in the cache, and the Hub"),
    ],
)
def test_an_address_that_leads_nowhere_is_one_line(
    address: str, revision: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        from_pretrained(address, revision=revision)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def client_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)  # without the HTTP response that its constructor wants
    error.args = ("404 Client Error.\n\nSomething for url: https://...",)
    return error


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (errors.RepositoryNotFoundError, FileNotFoundError, "is not on the Hub, is not yours to read (hf"),
        (errors.RevisionNotFoundError, FileNotFoundError, "404 Client Error. Something for url"),
        (errors.EntryNotFoundError, FileNotFoundError, "(config.json and model.safetensors): 404"),
        (errors.LocalEntryNotFoundError, OSError, "is not in the cache, and the Hub cannot be reached: 404"),
        (errors.HfHubHTTPError, OSError, "could not be downloaded: 404 Client Error. Something for url"),
        (RuntimeError, OSError, "could not be downloaded: 404"),
    ],
)
def test_what_the_client_raises_is_one_line(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception], error: type[Exception], message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise client_error(kind)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(error) as caught:
        from_pretrained("hf://owner/name")
    assert type(caught.value) is error
    assert str(caught.value).startswith("hf://owner/name ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'not installed: pip install "convlstm\[hub\]"'):
        from_pretrained("hf://owner/name")


def test_a_repository_of_another_library_is_refused(cache: Path) -> None:
    config = cache / "models--owner--name" / "snapshots" / COMMITS["main"] / "config.json"
    config.write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"config.json names no network"):
        from_pretrained("hf://owner/name")
    assert read_config(config.parents[1] / COMMITS["v1"])["revision"] == "v1"
