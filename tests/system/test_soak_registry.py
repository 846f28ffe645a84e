# SPDX-License-Identifier: Apache-2.0
"""`make soak`: pushes, pulls, deletions, garbage collections and scrubs, for SOAK_SECONDS. What was acknowledged stays whole, and
memory, descriptors and the disk are at the end what they were after the first quarter of that time."""

import os
import pathlib
import sys
import threading
import time

import pytest

import harness
import http1
from test_gc import PATIENCE_S, Pushers, check_images, cli, repo_ls, run_gc

SECONDS = int(os.environ.get("SOAK_SECONDS", "0"))
MIB = 1 << 20
# The cache of small objects is so small that it is full at once: it would look like something that grows.
SETTINGS = {"gc.interval": "0ms", "gc.grace": "3s", "gc.untagged": "3s", "scrub.rate": 1 << 30, "registry.upload_expiry": 5000,
            "store.cache_bytes": MIB}
REPORT_S = 60

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(harness.KIND != "fairlead", reason="Fairlead's own commands"),
              pytest.mark.skipif(not SECONDS, reason="`make soak` runs it")]


def tree_bytes(folder):
    """What it takes of the disk; files come and go meanwhile."""
    total = 0
    for path in pathlib.Path(folder).rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            pass
    return total


def anonymous_bytes(registry):
    """Memory that is neither a file's nor shared."""
    total = 0
    for pid in registry.pids():
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                total += int(line.split()[1]) * 1024
    return total


class Keepers(threading.Thread):
    """One collection after the other, and one scrub after the other, beside the clients."""

    def __init__(self, registry, *words):
        super().__init__()
        self.registry, self.words = registry, words
        self.stop, self.turns, self.wrong = threading.Event(), 0, []

    def run(self):
        while not self.stop.wait(0.5):
            try:
                cli(self.registry, *self.words)  # damage, or an early end, is a failure of the command
                self.turns += 1
            except (AssertionError, OSError) as error:
                self.wrong.append(repr(error))
                return


def load(registry, seconds):
    """All of it at once. Returns how many images were pushed, and how often which keeper came round."""
    keepers = [Keepers(registry, "gc"), Keepers(registry, "blob", "verify", "--all")]
    began = told = time.monotonic()
    with Pushers(registry, f"{harness.SEED}/{began}") as pushers:
        for keeper in keepers:
            keeper.start()
        while time.monotonic() < began + seconds and not pushers.wrong and not any(k.wrong for k in keepers):
            time.sleep(0.5)
            if time.monotonic() > told + REPORT_S:
                told = time.monotonic()
                print(f"{told - began:.0f} s: {pushers.pushed} images, {keepers[0].turns} collections, {keepers[1].turns} scrubs",
                      file=sys.stderr, flush=True)
    for keeper in keepers:
        keeper.stop.set()
        keeper.join()
    assert not pushers.wrong and not any(k.wrong for k in keepers), registry.report([pushers.wrong[:3], *(k.wrong for k in keepers)])
    return pushers.pushed, [keeper.turns for keeper in keepers]


def files_bytes(registry):
    return sum(path.stat().st_size for path in (registry.state / "store/blobs").rglob("*")
               if path.is_file() and path.name != ".cluster")


def rests(count):
    """Connections of clients that have gone are closed a moment later."""
    before = count()
    time.sleep(0.5)
    return count() == before


def measure(registry):
    """When all garbage has gone: the files are what the names say, to the byte."""
    def clean():
        run = run_gc(registry)
        left = sum(run[key]["count"] for key in ("seen", "going", "waiting", "dropped", "unlinked", "forgotten"))
        return not left and files_bytes(registry) == repo_ls(registry)[1]["bytes"] and not os.listdir(registry.state / "store/uploads")

    assert http1.wait_until(clean, 2 * PATIENCE_S, step_s=1), registry.report(run_gc(registry))
    assert http1.wait_until(lambda: rests(registry.descriptors), PATIENCE_S)
    return {"descriptors": registry.descriptors(), "memory": anonymous_bytes(registry), "store": tree_bytes(registry.state / "store"),
            "state": tree_bytes(registry.state), "names": (registry.state / "names.mdb").stat().st_blocks * 512}


@pytest.mark.timeout(SECONDS + 600)
def test_registry_stays_flat(make_registry):
    registry = make_registry(settings=SETTINGS)
    load(registry, SECONDS / 4)
    before = measure(registry)
    pushed, turns = load(registry, SECONDS - SECONDS / 4)
    after = measure(registry)
    print(f"{pushed} images, {turns[0]} collections, {turns[1]} scrubs:", ", ".join(f"{k} {before[k]} -> {after[k]}" for k in after),
          file=sys.stderr, flush=True)
    check_images(registry)
    assert pushed and all(turns)
    assert after["descriptors"] <= before["descriptors"] + 8, (before, after)
    assert harness.SANITIZED or after["memory"] <= before["memory"] * 1.05 + 4 * MIB, (before, after)
    # What lies in the store is a few images of other layers; folders, once made, stay.
    assert after["store"] <= before["store"] + 4 * MIB, (before, after)
    assert after["names"] <= before["names"] * 1.25 + 8 * MIB, (before, after)  # as large as most garbage was at a time
    assert after["state"] <= before["state"] + 64 * MIB, (before, after)  # the log's segments among it
