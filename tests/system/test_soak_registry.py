# SPDX-License-Identifier: Apache-2.0
"""`make soak`: pushes, pulls, deletions, garbage collections and scrubs, for SOAK_SECONDS. What was acknowledged stays whole, and
memory, descriptors and the disk are at the end what they were after the first quarter of that time. At the end there is a table
of all that, minute by minute."""

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
# The log has the entries behind the last snapshot, and some before it for peers that are behind (control/raft/consensus.h); it
# gives back whole segments (control/raft/log.h), of which one is being written and one is ready.
SNAPSHOT_ENTRIES, TRAILING_ENTRIES, SEGMENT_BYTES = 1024, 4096, 8 * MIB
ENTRY_BYTES = 2048  # of the load's entries, on average, at most
LOG_BYTES_MAX = (SNAPSHOT_ENTRIES + TRAILING_ENTRIES) * ENTRY_BYTES + 3 * SEGMENT_BYTES
# The cache of small objects is so small that it is full at once: it would look like something that grows.
SETTINGS = {"gc.interval": "0ms", "gc.grace": "3s", "gc.untagged": "3s", "scrub.rate": 1 << 30, "registry.upload_expiry": 5000,
            "store.cache_bytes": MIB, "state.snapshot_entries": SNAPSHOT_ENTRIES}
REPORT_S = 60

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(harness.KIND != "fairlead", reason="Fairlead's own commands"),
              pytest.mark.skipif(not SECONDS, reason="`make soak` runs it")]


def file_bytes(path):
    """What it takes of the disk; files come and go meanwhile."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def tree_bytes(folder):
    return sum(file_bytes(path) for path in pathlib.Path(folder).rglob("*"))


def files_of(folder, pattern):
    """What files of these names take of the disk."""
    return sum(file_bytes(path) for path in folder.glob(pattern))


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


class Table:
    """What there was at which time, for who looks for a trend."""

    COUNTS = ("images", "collections", "scrubs", "descriptors")
    SIZES = ("memory", "store", "names", "private", "log", "snapshots", "events")

    def __init__(self):
        self.began, self.rows = time.monotonic(), []

    def add(self, registry, pushed, turns, what=""):
        row = {"images": pushed, "collections": turns[0], "scrubs": turns[1], **sizes(registry)}
        self.rows.append((time.monotonic() - self.began, what, row))
        print(self.line(*self.rows[-1]), file=sys.stderr, flush=True)

    def line(self, at, what, row):
        figures = [f"{row[key]:11}" for key in self.COUNTS] + [f"{row[key] / MIB:11.2f}" for key in self.SIZES]
        return f"{at:7.0f} " + " ".join(figures) + f"  {what}"

    def __str__(self):
        titles = [f"{key:>11}" for key in self.COUNTS] + [f"{key:>11}" for key in self.SIZES]
        return "\n".join(["seconds " + " ".join(titles) + "  (sizes in MiB)", *(self.line(*row) for row in self.rows)])


def load(registry, seconds, table):
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
                table.add(registry, pushers.pushed, [keeper.turns for keeper in keepers])
    for keeper in keepers:
        keeper.stop.set()
        keeper.join()
    assert not pushers.wrong and not any(k.wrong for k in keepers), registry.report([pushers.wrong[:3], *(k.wrong for k in keepers)])
    return pushers.pushed, [keeper.turns for keeper in keepers]


def files_bytes(registry):
    return sum(path.stat().st_size for path in (registry.state / "store/blobs").rglob("*")
               if path.is_file() and not path.name.startswith("."))


def rests(count):
    """Connections of clients that have gone are closed a moment later."""
    before = count()
    time.sleep(0.5)
    return count() == before


def sizes(registry):
    """As it is just now."""
    state = registry.state
    return {"descriptors": registry.descriptors(), "memory": anonymous_bytes(registry), "store": tree_bytes(state / "store"),
            "names": files_of(state, "names.mdb"), "private": files_of(state, "private.mdb"), "log": files_of(state, "raft/log-*"),
            "snapshots": files_of(state, "raft/snapshot-*/*"), "events": files_of(state, "events.log*"), "state": tree_bytes(state)}


def measure(registry):
    """When all garbage has gone: the files are what the names say, to the byte."""
    def clean():
        run = run_gc(registry)
        left = sum(run[key]["count"] for key in ("seen", "going", "waiting", "dropped", "unlinked", "forgotten"))
        return not left and files_bytes(registry) == repo_ls(registry)[1]["bytes"] and not os.listdir(registry.state / "store/uploads")

    assert http1.wait_until(clean, 2 * PATIENCE_S, step_s=1), registry.report(run_gc(registry))
    assert http1.wait_until(lambda: rests(registry.descriptors), PATIENCE_S)
    return sizes(registry)


@pytest.mark.timeout(SECONDS + 600)
def test_registry_stays_flat(make_registry):
    registry = make_registry(settings=SETTINGS)
    table = Table()
    pushed, turns = load(registry, SECONDS / 4, table)
    before = measure(registry)
    table.add(registry, pushed, turns, "at rest, after the first quarter")
    pushed, turns = load(registry, SECONDS - SECONDS / 4, table)
    after = measure(registry)
    table.add(registry, pushed, turns, "at rest, at the end")
    print(table, file=sys.stderr, flush=True)
    check_images(registry)
    assert pushed and all(turns)
    assert after["descriptors"] <= before["descriptors"] + 8, (before, after)
    assert harness.SANITIZED or after["memory"] <= before["memory"] * 1.05 + 4 * MIB, (before, after)
    # What lies in the store is a few images of other layers; folders, once made, stay.
    assert after["store"] <= before["store"] + 4 * MIB, (before, after)
    # The state's files are as large as most garbage was at a time, which depends on how much is pushed between two collections (on a
    # quick machine some thousand images, of a KiB each); a snapshot is a copy of them without it.
    assert after["names"] <= before["names"] * 1.25 + 8 * MIB, (before, after)
    assert after["private"] <= before["private"] * 1.25 + MIB, (before, after)
    assert after["snapshots"] <= 2 * (after["names"] + after["private"]) + MIB, (before, after)
    assert after["log"] <= LOG_BYTES_MAX, (before, after)
    # Events are in a file of a size of their own, and the one before it.
    rest = after["state"] - sum(after[key] for key in ("store", "names", "private", "snapshots", "log", "events"))
    assert rest <= MIB, (before, after)
