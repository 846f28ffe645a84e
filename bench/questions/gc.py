# SPDX-License-Identifier: Apache-2.0
"""Are pulls held up by a garbage collection that runs beside them?"""

import hashlib
import http.client
import json
import subprocess
import time

import measure
from servers import MANIFEST_TYPE, REPOSITORY, Fairlead

TITLE = "Pulls of 1 MiB blobs while 3,000 blobs that nothing names are removed beside them"
HOT_SIZE, HOT_BLOBS, CONNECTIONS, SECONDS = 1 << 20, 16, 8, 3
GARBAGE, GARBAGE_BYTES = (300, 16 << 10) if measure.QUICK else (3000, 16 << 10)
BESIDE, ALONE = "pulls beside a collection", "pulls alone"
YOUNG_S = 1.1  # a file that is younger is not removed
# What one blob of garbage costs, by how many there are.
GROWTH, GROWTH_BYTES = (100, 300) if measure.QUICK else (1000, 10_000, 100_000), 1 << 10


class Trial:
    def __init__(self, bench, server, paths):
        self.bench, self.server, self.paths, self.number = bench, server, paths, 0

    def push_garbage(self, count=GARBAGE, size=GARBAGE_BYTES):
        """Blobs that no manifest names, each of them new."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        for _ in range(count):
            self.number += 1
            data = hashlib.shake_256(b"%d" % self.number).digest(size)
            connection.request("POST", f"/v2/{REPOSITORY}/blobs/uploads/?digest=sha256:{hashlib.sha256(data).hexdigest()}", data,
                               {"Content-Type": "application/octet-stream"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 201:
                raise measure.BenchError(f"{self.server.name}: POST of a blob: {answer.status}")
        connection.close()
        time.sleep(YOUNG_S)

    def collect(self):
        command = [self.server.build / "fairlead", "--socket", self.server.folder / "control.sock", "gc", "--json"]
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    @staticmethod
    def collected(process, began, count=GARBAGE):
        output, errors = process.communicate(timeout=120 + count / 100)
        removed = json.loads(output)["forgotten"]["count"] if process.returncode == 0 else 0
        if removed < count:
            raise measure.BenchError(f"the collection removed {removed} of {count} blobs: {errors.strip()[:500]}")
        return {"blobs_per_s": removed / (time.monotonic() - began)}

    def pull(self):
        return self.bench.load(self.server, "get", CONNECTIONS, "-t", SECONDS, "-l", HOT_SIZE, *self.paths)

    def beside(self):
        self.push_garbage()
        began = time.monotonic()
        process = self.collect()
        result = self.pull()
        return result | self.collected(process, began)

    def alone(self):
        self.push_garbage()
        result = self.pull()
        began = time.monotonic()
        return result | self.collected(self.collect(), began)


    def growth(self, count):
        self.push_garbage(count, GROWTH_BYTES)
        before, began = self.server.cpu_seconds(), time.monotonic()
        result = self.collected(self.collect(), began, count)
        return result | {"cpu_us": (self.server.cpu_seconds() - before) / count * 1e6}


def run(bench):
    hot = [bench.make_file(f"hot{i}", HOT_SIZE, i) for i in range(HOT_BLOBS)]
    with bench.server(Fairlead, **{"gc.interval": "0ms", "gc.grace": "0ms", "store.sync": False}) as server:
        paths = [server.add_blob(path, digest) for path, digest in hot]
        manifest = bench.folder / "manifest"
        manifest.write_text(json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": hot[0][1], "size": HOT_SIZE},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": HOT_SIZE}
                       for _, digest in hot]}))
        server.add_manifest(manifest, "hot")
        trial = Trial(bench, server, paths)
        results = measure.interleave({BESIDE: trial.beside, ALONE: trial.alone})
        results |= {f"{count:,} blobs of garbage": [trial.growth(count)] for count in GROWTH}
    least, *more = (f"{count:,} blobs of garbage" for count in GROWTH)
    return [
        measure.row("time of a pull, 99th percentile", "us", "p99_us", results, BESIDE, ALONE, less_is_better=True,
                    at_least=0.91),
        measure.row("time of a pull, median", "us", "p50_us", results, BESIDE, ALONE, less_is_better=True),
        measure.row("pulls", "requests/s", "requests_per_s", results, BESIDE, ALONE),
        measure.row("blobs removed", "blobs/s", "blobs_per_s", results, BESIDE, ALONE),
        *(measure.row(f"processor time of a collection of {name}, for each", "us", "cpu_us", results, name, least,
                      less_is_better=True, at_least=0.8) for name in more),
    ]
