"""What the rest stands on: files, hashing, checks of arguments, what can be saved and its model card."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("convlstm")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"
