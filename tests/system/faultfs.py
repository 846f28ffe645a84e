# SPDX-License-Identifier: Apache-2.0
"""Mounts faultfs (tests/tools/faultfs) for a test, orders faults, and knows where its journal is."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import pytest

import harness
import http1

TOOLS = harness.SOURCE / "tests" / "tools"
sys.path.insert(0, str(TOOLS))
import replay  # noqa: E402  (its folder is known only here)

BINARY = harness.BUILD / "tools" / "faultfs"
SOURCES = sorted((TOOLS / "faultfs").glob("*.[ch]"))
WARNINGS = "-Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2".split()


def available():
    """None, or why it cannot be used here."""
    if os.geteuid() != 0:
        return "needs root (other users have to see the mount)"
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse"
    if subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode:
        return "libfuse3-dev is not installed"
    return None


needed = pytest.mark.skipif(bool(available()), reason=f"faultfs: {available()}")


def build():
    """Compiles the tool unless it is newer than its sources."""
    if BINARY.exists() and BINARY.stat().st_mtime >= max(source.stat().st_mtime for source in SOURCES):
        return
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", "fuse3"], text=True).split()
    sources = [str(source) for source in SOURCES if source.suffix == ".c"]
    made = BINARY.with_suffix(f".{os.getpid()}")
    subprocess.run(["gcc", "-std=gnu11", "-O1", "-g", "-D_GNU_SOURCE", *WARNINGS, "-o", str(made), *sources, *flags,
                    "-pthread"], check=True)
    made.rename(BINARY)


class FaultFs:
    """A mount at `path`, over an empty folder. Use as a context manager."""

    def __init__(self, folder, journal=True):
        self.folder = pathlib.Path(folder)
        self.source = self.folder / "source"
        self.path = self.folder / "mount"
        self.control_path = self.folder / "faultfs.sock"
        self.journal_path = self.folder / "journal" if journal else None
        self.process = None
        self.control = None

    def __enter__(self):
        build()
        for folder in (self.source, self.path):
            folder.mkdir(parents=True)
        command = [str(BINARY), "--source", str(self.source), "--mount", str(self.path),
                   "--control", str(self.control_path)]
        command += ["--journal", str(self.journal_path)] if self.journal_path else []
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(command, stderr=log, start_new_session=True)
        assert http1.wait_until(lambda: os.path.ismount(self.path)), "faultfs did not mount"
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.control_path))
        self.control = connection.makefile("rw")
        return self

    def __exit__(self, *_):
        self.control.close()
        subprocess.run(["umount", "-l", str(self.path)], check=False)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, line):
        self.control.write(line + "\n")
        self.control.flush()
        answer = self.control.readline().strip()
        assert answer and answer != "invalid", f"{line!r}: {answer!r}"
        return answer

    def fault(self, op, action, glob="*", first=1, count=1):
        """See faultfs.c; count 0 is until clear()."""
        self.command(f"fault {op} {glob} {first} {count} {action}")

    def clear(self):
        self.command("clear")

    def fired(self):
        return int(self.command("fired"))

    def calls(self, op):
        return int(self.command(f"calls {op}"))

    def make_durable_folder(self, name):
        (self.path / name).mkdir()
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)

    def position(self):
        """Length of the journal now: what was acknowledged by now has its records before this point."""
        return self.journal_path.stat().st_size

    def records(self):
        return replay.read_journal(self.journal_path)
