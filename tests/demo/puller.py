# SPDX-License-Identifier: Apache-2.0
"""puller.py HOST PORT: pulls the image demo/app:1 again and again with a few clients at once, checks every byte, and prints
what came of it ten times a second, as JSON."""

import hashlib
import json
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "system"))
import http1  # noqa: E402

CLIENTS = 4
TYPE = "application/vnd.oci.image.manifest.v1+json"


class Puller:
    def __init__(self, address):
        self.address, self.mutex = address, threading.Lock()
        self.pulls = self.failed = self.bytes = 0
        self.slowest_ms, self.why = 0.0, ""

    def get(self, connection, tail):
        answer = connection.exchange("GET", f"/v2/demo/app/{tail}", None, {"Accept": TYPE})
        assert answer.status == 200, f"{tail}: status {answer.status}"
        return answer.body

    def pull(self):
        with http1.Connection(self.address, timeout_s=20) as connection:
            manifest = json.loads(self.get(connection, "manifests/1"))
            size = 0
            for part in (manifest["config"], *manifest["layers"]):
                body = self.get(connection, f"blobs/{part['digest']}")
                assert "sha256:" + hashlib.sha256(body).hexdigest() == part["digest"], "other bytes than asked for"
                size += len(body)
            return size

    def run(self):
        while True:
            began, size, why = time.monotonic(), 0, ""
            try:
                size = self.pull()
            except (OSError, AssertionError, http1.ConnectionEnded) as error:
                why = str(error) or type(error).__name__
            with self.mutex:
                self.pulls += 1
                self.failed += bool(why)
                self.why = why or self.why
                self.bytes += size
                self.slowest_ms = max(self.slowest_ms, (time.monotonic() - began) * 1000)

    def report(self):
        with self.mutex:
            said = {"pulls": self.pulls, "failed": self.failed, "bytes": self.bytes, "slowest_ms": self.slowest_ms, "why": self.why,
                    "at": time.monotonic()}
            self.slowest_ms = 0.0
        print(json.dumps(said), flush=True)


def main():
    puller = Puller((sys.argv[1], int(sys.argv[2])))
    for _ in range(CLIENTS):
        threading.Thread(target=puller.run, daemon=True).start()
    while True:
        time.sleep(0.1)
        puller.report()


if __name__ == "__main__":
    main()
