# SPDX-License-Identifier: Apache-2.0
"""Where io_uring is forbidden, as in a container by default, the daemon says so, names the cause and gives up."""

import subprocess

import pytest

from harness import BUILD, KIND, FairleadRegistry

pytestmark = pytest.mark.skipif(KIND != "fairlead", reason="the peer has no io_uring")


class WithoutUring(FairleadRegistry):
    def command(self):
        return [str(BUILD / "tools/no_uring")] + super().command()


def test_the_cause_is_named(tmp_path):
    registry = WithoutUring(folder=tmp_path)
    registry.spawn()
    try:
        assert registry.process.wait(60) == 1, registry.report("wrong exit code")
        said = [line for line in registry.log().splitlines() if "io_uring" in line]
        assert len(said) == 1, "it says so once: " + registry.report(f"{len(said)} times")
        assert said and "seccomp" in said[0] and "io_uring_setup" in said[0], registry.report("no cause")
        assert not registry.alarms()
    finally:
        registry.kill()


def test_a_launcher_that_finds_nothing_says_so():
    done = subprocess.run([BUILD / "tools/no_uring", "/nonexistent"], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 127 and "/nonexistent" in done.stderr
