# SPDX-License-Identifier: Apache-2.0
"""What would it cost to hash every body on its way to a client?"""

import subprocess

import measure
from servers import Fairlead

TITLE = "Pull of 256 MiB blobs as they are, against reading and hashing them (blob verify): processor time of the server"
SIZE, PULLS = 256 << 20, 8
PULLED, HASHED = "pulled", "read and hashed"


def run(bench):
    path, digest = bench.make_file("large", SIZE)
    with bench.server(Fairlead, **{"scrub.rate": 100_000_000_000}) as server:
        blob = server.add_blob(path, digest)
        command = [server.build / "fairlead", "--socket", server.folder / "control.sock", "blob", "verify", digest]

        def hashed():
            before = server.cpu_seconds()
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
            if done.returncode:
                raise measure.BenchError(f"blob verify: {done.stdout}{done.stderr}")
            return {"cpu_s_per_gb": (server.cpu_seconds() - before) / (SIZE / 1e9)}

        results = measure.interleave({PULLED: lambda: bench.load(server, "get", 1, "-n", PULLS, "-l", SIZE, blob), HASHED: hashed})
    return [measure.row("256 MiB, as it is", "CPU-s per GB", "cpu_s_per_gb", results, PULLED, HASHED, less_is_better=True)]
