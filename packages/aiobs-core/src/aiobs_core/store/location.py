"""Where the local store lies, and whether SQLite can share a file there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_PROJECT_FOLDER: Final = ".aiobs"
# SQLite's write-ahead log needs memory shared by all processes that use the file, so all must run on one host:
# https://www.sqlite.org/wal.html. On these it would seem to work until two hosts write.
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "panfs", "pvfs2"}
    | {"smb3", "smbfs", "wekafs", "fuse.ceph", "fuse.glusterfs", "fuse.juicefs", "fuse.s3fs", "fuse.sshfs"}
)


def store_folder(setting: str, *, cwd: Path, environ: Mapping[str, str]) -> Path | None:
    """Folder of the local store; it need not exist, and is not made here.

    Args:
        setting: `off`, a folder, or `auto`: `.aiobs` in `cwd` if that is writable, else the user's data folder.
        cwd: The project's folder.
        environ: Variables that name the user's folders.

    Returns:
        The folder, or None for `off`.
    """
    if setting.lower() == "off":
        return None
    if setting.lower() not in ("", "auto"):
        return cwd / Path(setting).expanduser()
    project = cwd / _PROJECT_FOLDER
    is_root = cwd == Path(cwd.anchor)  # where daemons run: no project's folder
    if not is_root and os.access(project if project.is_dir() else cwd, os.W_OK):
        return project
    return user_data_folder(environ) / "aiobs"


def user_data_folder(environ: Mapping[str, str]) -> Path:
    home = Path(environ.get("HOME") or Path.home())
    if sys.platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if environ.get("XDG_DATA_HOME"):
        return Path(environ["XDG_DATA_HOME"])
    if sys.platform == "darwin":
        return home / "Library" / "Application Support"
    return home / ".local" / "share"


def network_file_system(folder: Path, *, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Type of the network file system that holds `folder`; None on a local one, or where the platform does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
        target = folder.resolve()
    except OSError:
        return None
    found, depth = "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.partition(" ")[0]
        if len(fields) < 5:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        if len(point.parts) >= depth and target.is_relative_to(
            point
        ):  # of equals, the last one mounted counts
            found, depth = kind, len(point.parts)
    return found if found in _NETWORK_FILE_SYSTEMS else None
