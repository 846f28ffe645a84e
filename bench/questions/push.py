# SPDX-License-Identifier: Apache-2.0
"""How fast are large blobs pushed, durably and not, and how near is that to the least that has to be done?"""

import hashlib
import json
import os
import subprocess

import measure
from servers import REPOSITORY, DockerRegistry

TITLE = "Push of 100 MiB blobs"
SIZE = 100 << 20
# How many at a time, and how many in one run.
CASES = ((1, 3), (8, 8))
BARE = "bare SHA-256 and write"


class Blobs:
    """Files that are new to every server at each run: their first bytes are changed and the digest is made anew."""

    def __init__(self, bench, count):
        self.paths = [bench.make_file(f"blob{i}", SIZE, i)[0] for i in range(count)]
        self.used = 0

    def fresh(self, count):
        """"FILE:DIGEST" for the load generator."""
        made = []
        for path in self.paths[:count]:
            self.used += 1
            with open(path, "r+b") as file:
                file.write(self.used.to_bytes(8, "big"))
                file.seek(0)
                digest = hashlib.sha256()
                while piece := file.read(1 << 20):
                    digest.update(piece)
            made.append((path, "sha256:" + digest.hexdigest()))
        return made


def push(bench, server, blobs, at_a_time, count):
    """One run; what was pushed is removed from the disk afterwards, so that the file system stays as it was."""
    made = blobs.fresh(count)
    os.sync()
    result = bench.load(server, "push", at_a_time, "-r", REPOSITORY, *(f"{path}:{digest}" for path, digest in made))
    for _, digest in made:
        server.file_of(digest).unlink()
    return result


def bare(bench, at_a_time, count, sync):
    folder = bench.folder / "bare"
    folder.mkdir(exist_ok=True)
    os.sync()
    done = subprocess.run([bench.bare_tool, "store", str(at_a_time), folder, str(int(sync)), str(SIZE), str(count)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=120)
    for path in folder.iterdir():
        path.unlink()
    return measure.figures(json.loads(done.stdout))


def run(bench):
    subject = bench.subject.name
    unsynced = {"store.sync": False} if subject == "fairlead" else {}
    blobs = Blobs(bench, max(count for _, count in CASES))
    rows = []
    with bench.server(bench.subject) as durable, bench.server(bench.subject, **unsynced) as quick, \
            bench.server(DockerRegistry) as docker:
        for at_a_time, count in CASES:
            results = measure.interleave({
                "durable": lambda: push(bench, durable, blobs, at_a_time, count),
                "quick": lambda: push(bench, quick, blobs, at_a_time, count),
                docker.name: lambda: push(bench, docker, blobs, at_a_time, count),
                BARE: lambda: bare(bench, at_a_time, count, True),
                BARE + ", no fsync": lambda: bare(bench, at_a_time, count, False),
            })
            for how, bare_name in (("durable", BARE), ("quick", BARE + ", no fsync")):
                where = f"{at_a_time} at a time, {'durable' if how == 'durable' else 'store.sync off'}"
                for name, unit, key, less in ((f"push, {where}", "GB/s", "gb_per_s", False),
                                              (f"server, {where}", "CPU-s per GB", "cpu_s_per_gb", True)):
                    wanted = {"at_least": 2.0} if key == "gb_per_s" and how == "durable" else {}
                    limit = {"at_least": 1 / 1.3} if key == "gb_per_s" and how == "durable" else {}
                    rows.append(measure.row(name, unit, key, results, how, docker.name, less, **wanted))
                    rows.append(measure.row(name, unit, key, results, how, bare_name, less, **limit))
    for r in rows:
        r["subject"] = subject
    return rows
