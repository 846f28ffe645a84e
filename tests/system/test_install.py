# SPDX-License-Identifier: Apache-2.0
"""`make install` and `make uninstall`, into a folder of the test."""

import os
import pathlib
import subprocess

import pytest

from harness import BUILD, KIND, SOURCE

pytestmark = pytest.mark.skipif(KIND != "fairlead", reason="about this product's files")


def make(*arguments, check=True, path=""):
    """Of the build that the tests use: it is there, and nothing is compiled."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment["PATH"] = path + environment["PATH"]
    done = subprocess.run(["make", "--no-print-directory", "-o", "all", f"BUILD={BUILD}", *arguments], cwd=SOURCE,
                          capture_output=True, text=True, check=False, env=environment)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def files_under(folder):
    return sorted(str(path.relative_to(folder)) for path in pathlib.Path(folder).rglob("*") if not path.is_dir())


def test_what_is_installed_works_and_goes_again(tmp_path):
    make("install", f"DESTDIR={tmp_path}")
    installed = files_under(tmp_path)
    assert "etc/fairlead/fairlead.yaml" in installed and "usr/local/share/man/man8/fairleadd.8" in installed
    local = tmp_path / "usr/local"
    for program in ("sbin/fairleadd", "bin/fairlead"):
        assert "fairlead" in subprocess.check_output([local / program, "--version"], text=True)
    config = tmp_path / "etc/fairlead/fairlead.yaml"
    subprocess.run([local / "sbin/fairleadd", "--check", "--config", config], check=True)
    unit = (local / "lib/systemd/system/fairlead.service").read_text()
    assert "@PREFIX@" not in unit and "ExecStart=/usr/local/sbin/fairleadd" in unit
    config.write_text("# mine\n")
    make("install", f"DESTDIR={tmp_path}")
    assert config.read_text() == "# mine\n", "an existing configuration stays"
    make("uninstall", f"DESTDIR={tmp_path}")
    assert files_under(tmp_path) == ["etc/fairlead/fairlead.yaml"]


def test_uninstall_takes_the_programs_out_of_the_kernel_first(tmp_path):
    """Else they would go on without anything that can remove them. The daemon is played by a script, the file system of
    pins by a folder: this is about the order and about errors; what --detach does has tests of its own."""
    daemon, pins, log = tmp_path / "sbin/fairleadd", tmp_path / "bpf", tmp_path / "log"
    for folder in (daemon.parent, pins / "fairlead-default", pins / "fairlead-node-7", pins / "other"):
        folder.mkdir(parents=True)
    where = [f"PREFIX={tmp_path}", f"BPFFS={pins}"]
    systemctl = tmp_path / "tools/systemctl"  # the machine's own would stop a node that is installed there
    systemctl.parent.mkdir()
    systemctl.write_text(f'#!/bin/sh\necho "$@" >>{log}\n')
    systemctl.chmod(0o755)
    path = f"{systemctl.parent}:"
    daemon.write_text(f'#!/bin/sh\necho "$@" >>{log}\nexit 1\n')
    daemon.chmod(0o755)
    refused = make("uninstall", *where, check=False, path=path)
    assert refused.returncode and "still in the kernel" in refused.stderr and daemon.exists()
    daemon.write_text(f'#!/bin/sh\necho "$@" >>{log}\n')
    log.unlink()
    make("uninstall", *where, path=path)
    assert log.read_text().splitlines() == ["disable --now fairlead.service", "--detach default", "--detach node-7"]
    assert not daemon.exists()
