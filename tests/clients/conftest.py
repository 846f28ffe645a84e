# SPDX-License-Identifier: Apache-2.0
"""Uses the harness of the system tests. Fixtures: the clients, and what images are built of."""

import os
import pathlib
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))

from fixtures import *  # noqa: E402,F401,F403
import harness  # noqa: E402
from tools import DOCKERFILE, TOOLS, files_below  # noqa: E402

BIG_BYTES = (65 << 20) + 12345


@pytest.fixture(scope="module")
def folder():
    path = pathlib.Path(tempfile.mkdtemp(prefix="fairlead-clients-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def tool(folder):
    """A client by name; the test is skipped, with the reason, where it is not installed."""
    made = {}

    def get(name):
        missing = TOOLS[name].missing()
        if missing:
            pytest.skip(f"{', '.join(missing)} not installed (tests/clients/install.sh does it)")
        if name not in made:
            made[name] = TOOLS[name](folder)
        return made[name]

    yield get
    for each in made.values():
        each.close()


@pytest.fixture(scope="module")
def context(folder):
    """What the image is built of: a static busybox with links, and layers of random bytes, one above 64 MiB."""
    if not os.path.exists("/bin/busybox"):
        pytest.skip("busybox-static is not installed (tests/clients/install.sh does it)")
    path = folder / "context"
    for name in ("bin", "etc", "big", "late"):
        (path / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", path / "bin" / "busybox")
    for name in ("sh", "true", "cat"):
        (path / "bin" / name).symlink_to("busybox")
    random = harness.randomness("context")
    (path / "etc" / "issue").write_text("an image for tests\n")
    (path / "etc" / "empty").write_bytes(b"")
    os.chmod(path / "etc" / "issue", 0o640)
    (path / "big" / "random").write_bytes(random.randbytes(BIG_BYTES))
    for i in range(20):
        (path / "late" / f"file{i}").write_bytes(random.randbytes(random.randrange(200000)))
    (path / "Dockerfile").write_text(DOCKERFILE)
    return path


@pytest.fixture(scope="module")
def expected(context):
    found = files_below(context)
    del found["Dockerfile"]
    return found
