from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from aiobs_core.store.location import network_file_system, store_folder


def test_off_means_no_store(tmp_path):
    assert store_folder("off", cwd=tmp_path, environ={}) is None
    assert store_folder("OFF", cwd=tmp_path, environ={}) is None


def test_a_folder_is_taken_as_it_is_given(tmp_path):
    assert store_folder("/elsewhere/store", cwd=tmp_path, environ={}) == Path("/elsewhere/store")
    assert store_folder("data/store", cwd=tmp_path, environ={}) == tmp_path / "data" / "store"


@pytest.mark.parametrize("setting", ["auto", ""])
def test_auto_is_the_projects_folder_where_that_is_writable(tmp_path, setting):
    assert store_folder(setting, cwd=tmp_path, environ={"HOME": "/home/ada"}) == tmp_path / ".aiobs"
    assert not (tmp_path / ".aiobs").exists()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="Linux's folders")
@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/ada"}, "/home/ada/.local/share/aiobs"),
        ({"HOME": "/home/ada", "XDG_DATA_HOME": "/data/ada"}, "/data/ada/aiobs"),
    ],
)
def test_auto_is_the_users_folder_where_the_project_is_not_writable(tmp_path, monkeypatch, environ, expected):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert store_folder("auto", cwd=tmp_path, environ=environ) == Path(expected)


def test_the_root_of_the_file_system_is_no_project(tmp_path):
    assert store_folder("auto", cwd=Path(tmp_path.anchor), environ={"HOME": str(tmp_path)}).is_relative_to(
        tmp_path
    )


@pytest.mark.parametrize(
    ("setting", "expected"), [("darwin", "Library/Application Support"), ("win32", "AppData/Local")]
)
def test_each_platform_has_its_own_users_folder(tmp_path, monkeypatch, setting, expected):
    monkeypatch.setattr(sys, "platform", setting)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = store_folder("auto", cwd=tmp_path, environ={"HOME": "/home/ada"})
    assert found == Path("/home/ada") / expected / "aiobs"


MOUNTS = """\
21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 21 0:41 / /home rw shared:7 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/scratch rw - xfs /dev/sdb1 rw
32 21 0:42 / /mnt/two\\040words rw - lustre mgs@tcp:/fs rw
garbage
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/.aiobs", None),
        ("/home/ada/.aiobs", "nfs4"),
        ("/home/scratch/.aiobs", None),
        ("/mnt/two words/x", "lustre"),
        ("/homes", None),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Linux's mount table")
def test_the_innermost_mount_says_whether_a_folder_is_on_the_network(tmp_path, folder, kind):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    assert network_file_system(Path(folder), mounts=mounts) == kind


def test_without_a_mount_table_nothing_is_known(tmp_path):
    assert network_file_system(tmp_path, mounts=tmp_path / "missing") is None
