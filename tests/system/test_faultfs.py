# SPDX-License-Identifier: Apache-2.0
"""The tools that the power and disk tests stand on: faultfs passes through, maps, journals and fails as told, and
replay keeps what was made durable and loses the rest."""

import errno
import mmap
import os
import pathlib
import random

import pytest

import faultfs
from faultfs import replay

pytestmark = faultfs.needed


@pytest.fixture
def fs(tmp_path):
    with faultfs.FaultFs(tmp_path / "fs") as mounted:
        yield mounted


def tree(folder):
    """{relative path: content, None for a folder}"""
    folder = pathlib.Path(folder)
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
            for path in folder.rglob("*")}


def sync_folder(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write(path, data, sync=False):
    with open(path, "wb", buffering=0) as file:
        file.write(data)
        if sync:
            os.fsync(file.fileno())


def outcomes(fs, model, cut=None, count=40):
    """The trees that many power cuts at one point leave."""
    records = fs.records()
    cut = len(records) if cut is None else cut
    found = []
    for seed in range(count):
        target = fs.folder / f"out-{model}-{cut}-{seed}"
        replay.replay(records, cut, model, random.Random(seed), target)
        found.append(tree(target))
    return found


def use_everything(path):
    """A little of each operation, all made durable."""
    (path / "a/b").mkdir(parents=True)
    write(path / "a/one", b"1" * 5000)
    write(path / "a/two", b"2" * 100000)
    os.rename(path / "a/one", path / "a/b/moved")
    os.rename(path / "a/two", path / "a/b/moved")
    write(path / "gone", b"x")
    os.unlink(path / "gone")
    write(path / "linked", b"link")
    os.link(path / "linked", path / "link")
    with open(path / "holes", "w+b", buffering=0) as file:
        file.truncate(10000)
        os.pwrite(file.fileno(), b"end", 9000)
        os.posix_fallocate(file.fileno(), 0, 20000)
        file.truncate(15000)
        os.fsync(file.fileno())
    (path / "empty").mkdir()
    (path / "removed").mkdir()
    (path / "removed").rmdir()
    for name in ("a/b/moved", "linked"):
        with open(path / name, "rb") as file:
            os.fsync(file.fileno())
    for name in (".", "a", "a/b"):
        sync_folder(path / name)


@pytest.mark.parametrize("model", replay.MODELS)
def test_durable_tree_comes_back_whole(fs, model):
    use_everything(fs.path)
    expected = tree(fs.path)
    assert expected == tree(fs.source)
    assert all(found == expected for found in outcomes(fs, model, count=5))


@pytest.mark.parametrize("model", replay.MODELS)
def test_unsynced_data_may_be_lost(fs, model):
    """A new file with its name durable and its bytes not: everything between nothing and all is seen."""
    write(fs.path / "file", b"0123456789abcdef" * 1000)
    sync_folder(fs.path)
    sizes = {len(found["file"]) for found in outcomes(fs, model)}
    assert 0 in sizes and 16000 in sizes
    if model == "ordered":
        assert len(sizes) > 3


def test_unsynced_name_may_be_lost_ordered(fs):
    """The rename without any later fsync is there or not; the bytes are whole wherever they are."""
    write(fs.path / "tmp", b"data", sync=True)
    os.rename(fs.path / "tmp", fs.path / "final")
    found = outcomes(fs, "ordered")
    assert {tuple(each) for each in found} == {("tmp",), ("final",)}
    assert all(set(each.values()) == {b"data"} for each in found)


def test_unsynced_name_may_be_lost_harsh(fs):
    """Without fsync of the folder even a file whose bytes were synced may have no name."""
    write(fs.path / "tmp", b"data", sync=True)
    os.rename(fs.path / "tmp", fs.path / "final")
    assert {tuple(sorted(each)) for each in outcomes(fs, "harsh")} >= {(), ("final",), ("tmp",)}
    sync_folder(fs.path)
    assert {tuple(each) for each in outcomes(fs, "harsh")} == {("final",)}


def test_harsh_needs_the_parents(fs):
    (fs.path / "new").mkdir()
    write(fs.path / "new/file", b"data", sync=True)
    sync_folder(fs.path / "new")
    assert {} in outcomes(fs, "harsh")
    sync_folder(fs.path)
    assert all(each == {"new": None, "new/file": b"data"} for each in outcomes(fs, "harsh"))


@pytest.mark.parametrize("model", replay.MODELS)
def test_overwrite_is_torn_by_sectors(fs, model):
    write(fs.path / "file", b"o" * 4096, sync=True)
    sync_folder(fs.path)
    with open(fs.path / "file", "r+b", buffering=0) as file:
        file.write(b"n" * 4096)
    seen = {each["file"] for each in outcomes(fs, model)}
    assert len(seen) > 4
    for content in seen:
        pieces = {content[i:i + 512] for i in range(0, 4096, 512)}
        assert pieces <= {b"o" * 512, b"n" * 512}


def test_write_to_a_synchronous_descriptor_is_durable(fs):
    fd = os.open(fs.path / "file", os.O_CREAT | os.O_WRONLY | os.O_DSYNC, 0o600)
    os.write(fd, b"data")
    os.close(fd)
    sync_folder(fs.path)
    assert all(each == {"file": b"data"} for each in outcomes(fs, "harsh"))


def test_cut_in_the_middle(fs):
    """What comes after the cut leaves no trace."""
    write(fs.path / "first", b"first", sync=True)
    sync_folder(fs.path)
    cut = replay.records_before(fs.records(), fs.position())
    write(fs.path / "second", b"second", sync=True)
    sync_folder(fs.path)
    for model in replay.MODELS:
        assert all(each == {"first": b"first"} for each in outcomes(fs, model, cut, 5))


def test_maps_see_writes(fs):
    """What LMDB does: a file read through a map and written by pwrite on another descriptor."""
    write(fs.path / "data", bytes(1 << 20))
    reader = os.open(fs.path / "data", os.O_RDONLY)
    view = mmap.mmap(reader, 1 << 20, mmap.MAP_SHARED, mmap.PROT_READ)
    writer = os.open(fs.path / "data", os.O_RDWR)
    for i in range(0, 1 << 20, 4096):
        os.pwrite(writer, i.to_bytes(8, "little"), i)
        assert view[i:i + 8] == i.to_bytes(8, "little")
    assert (fs.source / "data").read_bytes() == view[:]
    view.close()
    os.close(reader)
    os.close(writer)


def test_open_file_outlives_its_name(fs):
    with open(fs.path / "file", "w+b", buffering=0) as file:
        file.write(b"still there")
        os.unlink(fs.path / "file")
        assert os.listdir(fs.path) == []
        assert os.pread(file.fileno(), 100, 0) == b"still there"


@pytest.mark.parametrize("name,number", [("ENOSPC", errno.ENOSPC), ("EIO", errno.EIO)])
def test_nth_write_fails(fs, name, number):
    fs.fault("write", name, first=3)
    with open(fs.path / "file", "wb", buffering=0) as file:
        for i in range(5):
            if i == 2:
                with pytest.raises(OSError) as failed:
                    file.write(b"x")
                assert failed.value.errno == number
            else:
                file.write(b"x")
    assert fs.fired() == 1 and fs.calls("write") == 5
    assert (fs.path / "file").stat().st_size == 4


def test_other_operations_fail(fs):
    write(fs.path / "file", b"x")
    calls = {
        "fsync": lambda: write(fs.path / "file", b"x", sync=True),
        "rename": lambda: os.rename(fs.path / "file", fs.path / "other"),
        "unlink": lambda: os.unlink(fs.path / "file"),
        "mkdir": lambda: (fs.path / "folder").mkdir(),
        "create": lambda: write(fs.path / "new", b""),
        "fsyncdir": lambda: sync_folder(fs.path),
        "truncate": lambda: os.truncate(fs.path / "file", 0),
    }
    for op, call in calls.items():
        fs.fault(op, "EIO", count=0)
        with pytest.raises(OSError):
            call()
        fs.clear()
    assert tree(fs.path) == {"file": b"x"}


def test_short_write(fs):
    fs.fault("write", "short", glob="short*")
    with open(fs.path / "short", "wb", buffering=0) as file:
        assert file.write(b"x" * 100) == 50
        assert file.write(b"x" * 100) == 100
    assert (fs.path / "short").stat().st_size == 150
