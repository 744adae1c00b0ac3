"""Networks on the Hugging Face Hub, as hf://owner/name or hf://owner/name@revision, through its client."""

import re
from pathlib import Path

from convlstm.core.checks import import_extra
from convlstm.core.saving import CONFIG, WEIGHTS

__all__ = ["PREFIX", "download"]

PREFIX = "hf://"
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@(.+))?", re.ASCII)


def download(address: str, revision: str | None = None) -> Path:
    """Return the folder of the client's cache that holds a network's two files, downloaded if need be.

    Args:
        address: hf://owner/name, or hf://owner/name@revision.
        revision: a branch, tag or commit (default: the main branch); here or in the address.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: the address has another form, or names a revision beside `revision`.
        FileNotFoundError: no such repository, revision or file on the Hub, or not for this user.
        OSError: the Hub cannot be reached, and the files are not in the cache; or the client fails otherwise.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(
            f"name is {address!r}; it needs the form hf://owner/name or hf://owner/name@revision"
        )
    if revision is not None and match[2] is not None:
        raise ValueError(f"revision is {revision!r}, but {address} names one already; give one of the two")
    huggingface_hub = import_extra("huggingface_hub", "hub", address)
    errors = import_extra("huggingface_hub.errors", "hub", address)
    try:
        config = Path(huggingface_hub.hf_hub_download(match[1], CONFIG, revision=revision or match[2]))
        # From the same commit, whatever has become of the branch meanwhile.
        huggingface_hub.hf_hub_download(match[1], WEIGHTS, revision=config.parent.name)
    except errors.HFValidationError as error:
        raise ValueError(f"name is {address!r}, which is no repository's name: {_line(error)}") from error
    except errors.LocalEntryNotFoundError as error:
        raise OSError(
            f"{address} is not in the cache, and the Hub cannot be reached: {_line(error)}"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{address} is not on the Hub, is not yours to read (hf auth login), or has no network of this "
            f"library ({CONFIG} and {WEIGHTS}): {_line(error)}"
        ) from error
    except Exception as error:  # the client raises what its HTTP library does
        raise OSError(f"{address} could not be downloaded: {_line(error)}") from error
    return config.parent


def _line(error: Exception) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split()) or type(error).__name__
