"""The version of all aiobs packages, read from the installed distribution."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("aiobs-core")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
