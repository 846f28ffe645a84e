# SPDX-License-Identifier: Apache-2.0
"""What grows with the number of names: pages of lists, a manifest by tag, the start, memory, and how long requests stand still
while the state is copied? Beside docker-registry where it can keep up."""

import hashlib
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import time

import measure
import plot
from servers import MANIFEST_TYPE, START_SECONDS, DockerRegistry, Fairlead

TITLE = "Time and memory by number of images: as many tags, manifests and layers in one repository, a tenth as many repositories"
SIZES = (1000, 10_000, 100_000) if measure.QUICK else (1000, 10_000, 100_000, 1_000_000)
PEER_SIZES = (1000, 10_000)
LEAST = SIZES[0]
ALLOWED = 0.5  # nothing that is not meant to grow takes twice as long
FILES_MAX = 200_000  # above that many images not each has files: all the same to names, and a file takes 4 KiB
REPO, PAGE, PAGE_LARGE = "scale/all", 100, 1000
REQUESTS = 20 if measure.QUICK else 200
STARTS = 1 if measure.QUICK else 3
START_AIM_MS = 1000
WINDOW_S = 3
COPY_WAIT_S = 60
NEVER = 100_000_000  # state.snapshot_entries: no copy of the state


# ---------------------------------------------------------------- a client

class Client:
    """One kept-alive connection. Reads whole answers, as little as it can do to them."""

    def __init__(self, port, timeout=60):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.bytes = b""

    def more(self):
        got = self.socket.recv(1 << 20)
        if not got:
            raise measure.BenchError("the server closed the connection")
        self.bytes += got

    def take(self, length):
        while len(self.bytes) < length:
            self.more()
        taken, self.bytes = self.bytes[:length], self.bytes[length:]
        return taken

    def line(self):
        while b"\r\n" not in self.bytes:
            self.more()
        return self.take(self.bytes.index(b"\r\n") + 2)[:-2]

    def body(self, fields):
        if fields.get(b"transfer-encoding", b"").lower() != b"chunked":
            return self.take(int(fields.get(b"content-length", b"0")))
        parts = []
        while length := int(self.line(), 16):
            parts.append(self.take(length))
            self.take(2)
        self.take(2)
        return b"".join(parts)

    def exchange(self, request):
        self.socket.sendall(request)
        status = int(self.line().split()[1])
        fields = {}
        while line := self.line():
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        return status, self.body(fields)

    def close(self):
        self.socket.close()


def get_request(target):
    return f"GET {target} HTTP/1.1\r\nHost: bench\r\nAccept: {MANIFEST_TYPE}\r\n\r\n".encode()


def put_request(target, body):
    head = f"PUT {target} HTTP/1.1\r\nHost: bench\r\nContent-Type: {MANIFEST_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def get(port, target):
    client = Client(port)
    status, body = client.exchange(get_request(target))
    client.close()
    if status != 200:
        raise measure.BenchError(f"GET {target}: {status}")
    return body


# ---------------------------------------------------------------- what is asked

def tag(number):
    return f"t{number:07}"


def repository(number):
    return f"scale/many/r{number:06}"


def targets(images, subject):
    """{what: path}. Whoever asks for the last page begins a page's length before the end."""
    tags, catalog, referrers = f"/v2/{REPO}/tags/list", "/v2/_catalog", f"/v2/{REPO}/referrers/{subject}"
    found = {
        "tags, first page": f"{tags}?n={PAGE}",
        "tags, middle page": f"{tags}?n={PAGE}&last={tag(images // 2)}",
        "tags, last page": f"{tags}?n={PAGE}&last={tag(images - 1 - PAGE)}",
        f"tags, middle page of {PAGE_LARGE // 2}": f"{tags}?n={PAGE_LARGE // 2}&last={tag(images // 2 - 1)}",
        "catalog, first page": f"{catalog}?n={PAGE}",
        "catalog, middle page": f"{catalog}?n={PAGE // 2}&last={repository(images // 20 - 1)}",
        "manifest by tag": f"/v2/{REPO}/manifests/{tag(images // 2)}",
    }
    if subject:
        found["referrers, first page"] = f"{referrers}?n={PAGE // 4}"
        found["referrers, middle page"] = f"{referrers}?n={PAGE // 4}&last=sha256:{'80' * 32}"
        found["referrers, of a type that none has"] = f"{referrers}?n={PAGE // 4}&artifactType=application/none"
    return found


def ask(server, paths):
    """The median time of a GET, and what the server's processor did for one, in us: {what: ..., what + " cpu": ...}."""
    client, result, pids = Client(server.port), {}, server.pids()
    for what, path in paths.items():
        request, times = get_request(path), []
        for number in range(REQUESTS + 5):
            if number == 5:
                before = measure.cpu_seconds(pids)
            begun = time.perf_counter()
            status, _ = client.exchange(request)
            if number >= 5:
                times.append(time.perf_counter() - begun)
            if status != 200:
                raise measure.BenchError(f"{server.name}: GET {path}: {status}")
        result[what] = statistics.median(times) * 1e6
        result[what + " cpu"] = (measure.cpu_seconds(pids) - before) / REQUESTS * 1e6
    client.close()
    return result


# ---------------------------------------------------------------- filling

def fill(bench, server, images):
    """Names through the log of the node, which does not run meanwhile. Returns what has the referrers."""
    stop(server)
    every = max(1, images // FILES_MAX * 2)
    done = subprocess.run([bench.build / "bench/fill", server.folder / "state", str(images), str(every)], capture_output=True,
                          text=True, timeout=1800)
    if done.returncode:
        raise measure.BenchError(f"fill: {done.stderr.strip()[:500]}")
    start(server)
    result = json.loads(done.stdout)
    print(f"  {images:,} images: {result['commands']:,} entries of the log in {result['seconds']:.0f} s", flush=True)
    return result["subject"]


class Tree:
    """The file tree of a docker-registry with the same names."""

    def __init__(self, folder):
        self.root = folder / "data/docker/registry/v2"

    def blob(self, data):
        digest = hashlib.sha256(data).hexdigest()
        self.write(f"blobs/sha256/{digest[:2]}/{digest}/data", data)
        return digest

    def write(self, name, data):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def image(self, repo, name, config, layers):
        def descriptor(media_type, blob):
            return {"mediaType": media_type, "digest": f"sha256:{blob[0]}", "size": len(blob[1])}

        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE,
                               "config": descriptor("application/vnd.oci.image.config.v1+json", config),
                               "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer) for layer in layers]})
        digest, base = self.blob(manifest.encode()), f"repositories/{repo}"
        link = f"sha256:{digest}".encode()
        for blob in (config, *layers):
            self.write(f"{base}/_layers/sha256/{blob[0]}/link", f"sha256:{blob[0]}".encode())
        self.write(f"{base}/_manifests/revisions/sha256/{digest}/link", link)
        self.write(f"{base}/_manifests/tags/{name}/current/link", link)
        self.write(f"{base}/_manifests/tags/{name}/index/sha256/{digest}/link", link)

    def fill(self, images):
        config = self.blob(b"{}"), b"{}"
        for number in range(images):
            layer = f"layer {number}\n".encode()
            self.image(REPO, tag(number), config, [(self.blob(layer), layer)])
        for number in range(images // 10):
            self.image(repository(number), "latest", config, [])


# ---------------------------------------------------------------- starts

def first_answer(server, target):
    """Waits for a connection, and on it for the answer to one request."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client = Client(server.port, START_SECONDS)
            status, _ = client.exchange(get_request(target))
            client.close()
            if status == 200:
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise measure.BenchError(f"{server.name} does not start")
        time.sleep(0.001)


def start(server):
    server.launch()
    first_answer(server, "/v2/")


def stop(server, how=signal.SIGTERM):
    pids = server.pids()
    for pid in pids if how == signal.SIGKILL else pids[:1]:
        os.kill(pid, how)
    server.process.wait(60)


def restart(server, target, how):
    stop(server, how)
    begun = time.perf_counter()
    server.launch()
    first_answer(server, target)
    return (time.perf_counter() - begun) * 1e3


# ---------------------------------------------------------------- memory

def anonymous_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    return 0


def memory(server):
    """What cannot be given back to the kernel, of control and of the data plane; and the names file."""
    control, *others = server.pids()
    return {"control": anonymous_bytes(control), "data plane": sum(map(anonymous_bytes, others)),
            "names file": os.stat(server.folder / "state/names.mdb").st_blocks * 512}


# ---------------------------------------------------------------- copies of the state

def repeat(port, requests, statuses, seconds, out):
    """One request after the other; sends the longest, the 99th percentile and the median of their times in ms, and how many."""
    client, times, end = Client(port), [], time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.perf_counter()
        status, _ = client.exchange(requests[len(times) % len(requests)])
        times.append((time.perf_counter() - begun) * 1e3)
        if status not in statuses:
            out.send(f"status {status}")
            return
    times.sort()
    out.send((times[-1], times[int(len(times) * 0.99)], statistics.median(times), len(times)))


def writing(server, images):
    """Moves a tag to and fro."""
    bodies = [get(server.port, f"/v2/{REPO}/manifests/{tag(number)}") for number in (0, images // 2)]
    return [put_request(f"/v2/{REPO}/manifests/moving", body) for body in bodies]


def both_ways(server, images, seconds):
    """Who asks for a manifest, and who moves a tag, at the same time."""
    read, write = [get_request(f"/v2/{REPO}/manifests/{tag(images // 2)}")], writing(server, images)
    result, running = {}, []
    for name, requests, statuses in (("GET", read, (200,)), ("PUT", write, (201,))):
        here, there = multiprocessing.Pipe(False)
        process = multiprocessing.Process(target=repeat, args=(server.port, requests, statuses, seconds, there))
        process.start()
        running.append((name, process, here))
    for name, process, here in running:
        got = here.recv() if here.poll(seconds + 60) else "no end"
        process.join()
        if isinstance(got, str):
            raise measure.BenchError(f"{server.name}: {name}: {got}")
        result.update({f"longest {name}": got[0], f"p99 {name}": got[1], f"median {name}": got[2]})
    return result


def control(server, *words):
    done = subprocess.run([server.build / "fairlead", "--socket", server.folder / "control.sock", *map(str, words)],
                          capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise measure.BenchError(f"fairlead {' '.join(map(str, words))}: {done.stderr.strip()[:300]}")
    return done.stdout


def snapshot_index(server):
    return json.loads(control(server, "status", "--json"))["state"]["snapshot_index"]


def copy_seconds(server, images):
    """How long one copy takes, with little else to do."""
    writes, client = writing(server, images), Client(server.port)
    for number in range(64):
        client.exchange(writes[number % len(writes)])
    before, begun = snapshot_index(server), time.monotonic()
    control(server, "set", "state.snapshot_entries", 64)
    client.exchange(writes[0])  # behind an entry it is looked at
    while snapshot_index(server) == before:
        if time.monotonic() > begun + COPY_WAIT_S:
            raise measure.BenchError(f"{server.name}: the state is not copied")
        time.sleep(0.02)
    control(server, "set", "state.snapshot_entries", NEVER)
    client.close()
    return time.monotonic() - begun


def copies(server, images):
    """The same with the state being copied all the time, and without."""
    control(server, "set", "state.snapshot_entries", NEVER)
    seconds = copy_seconds(server, images)
    window = max(WINDOW_S, min(20, 2 * seconds))
    quiet = both_ways(server, images, window)
    control(server, "set", "state.snapshot_entries", 64)
    busy = both_ways(server, images, window)
    control(server, "set", "state.snapshot_entries", NEVER)
    return {"seconds": seconds, **{f"{key}, quiet": value for key, value in quiet.items()}, **busy}


# ---------------------------------------------------------------- the question

def sized(rows, images, what):
    for r in rows:
        r.update(size=images, what=what)
    return rows


def list_rows(results, name, paths, peer_paths):
    rows = []
    for what in paths:
        for images in SIZES[1:]:
            of = f"{what}, {images:,} images"
            wanted = None if what.endswith("none has") else ALLOWED
            rows += sized([
                measure.row(f"{of}, time", "us", what, results, f"{images}", f"{LEAST}", True, at_least=wanted),
                measure.row(f"{of}, processor", "CPU-us", what + " cpu", results, f"{images}", f"{LEAST}", True, at_least=wanted),
            ], images, what)
    for what in peer_paths:
        for images in PEER_SIZES:
            rows.append(measure.row(f"{what}, {images:,} images", "us", what, results, f"{images}", f"docker {images}", True, 1.0))
    for r in rows:
        r["subject"] = name
        r["peer"] = r["peer"].replace("docker", DockerRegistry.name) if "docker" in r["peer"] else f"{name}, {LEAST:,} images"
    return rows


def start_rows(servers, name):
    rows = []
    for how, text in ((signal.SIGTERM, "after a clean end"), (signal.SIGKILL, "after both processes were killed")):
        results = {"aim": [{"ms": START_AIM_MS}] * STARTS}
        for images, (server, _) in servers.items():
            target = f"/v2/{REPO}/manifests/{tag(images // 2)}"
            results[images] = [{"ms": restart(server, target, how)} for _ in range(STARTS)]
            rows += sized([measure.row(f"start to the first answer, {text}, {images:,} images", "ms", "ms", results, images, "aim",
                                       True, at_least=1.0, aim=10.0)], images, f"start, {text}")
    for r in rows:
        r["subject"] = name
    return rows


def memory_rows(servers, name):
    found = {images: memory(server) for images, (server, _) in servers.items()}
    rows = []
    for what in ("control", "data plane", "names file"):
        for images in SIZES[1:]:
            grown = max(0, found[images][what] - found[LEAST][what]) / (images - LEAST)
            results = {"it": [{"bytes": grown}], "all": [{"bytes": found[images][what] / images}]}
            rows += sized([measure.row(f"memory for an image, {what}, {images:,} images", "bytes (grown | all)", "bytes", results,
                                       "it", "all", True)], images, f"memory, {what}")
    for r in rows:
        r["subject"] = name
    return rows


def copy_rows(servers, name):
    rows = []
    for images, (server, _) in servers.items():
        found = copies(server, images)
        for what in ("longest GET", "p99 GET", "longest PUT", "p99 PUT", "median PUT"):
            results = {"copied": [{"ms": found[what]}], "not copied": [{"ms": found[what + ", quiet"]}]}
            rows += sized([measure.row(f"{what} while the state is copied, {images:,} images", "ms", "ms", results, "copied",
                                       "not copied", True)], images, f"{what} while copied")
        results = {"it": [{"s": found["seconds"]}]}
        rows += sized([measure.row(f"one copy of the state, {images:,} images", "s", "s", results, "it", "it", True)], images,
                      "one copy")
    for r in rows:
        r["subject"] = name
    return rows


def run(bench):
    if bench.subject is not Fairlead:
        raise measure.BenchError("only a node of Fairlead can be filled through its log")
    servers, docker, open_servers = {}, {}, []
    try:
        for images in PEER_SIZES:
            server = bench.server(DockerRegistry)
            Tree(server.folder).fill(images)
            open_servers.append(server.__enter__())
            docker[images] = server
        for images in SIZES:
            server = bench.server(Fairlead).__enter__()
            open_servers.append(server)
            servers[images] = server, fill(bench, server, images)
        trials = {f"{images}": lambda server=server, paths=targets(images, subject): ask(server, paths)
                  for images, (server, subject) in servers.items()}
        trials.update({f"docker {images}": lambda server=server, paths=targets(images, None): ask(server, paths)
                       for images, server in docker.items()})
        results = measure.interleave(trials)
        rows = list_rows(results, Fairlead.name, targets(LEAST, "sha256:0"), targets(LEAST, None))
        rows += memory_rows(servers, Fairlead.name) + start_rows(servers, Fairlead.name) + copy_rows(servers, Fairlead.name)
    finally:
        for server in open_servers:
            server.__exit__(None, None, None)
    return rows


# ---------------------------------------------------------------- the picture

GROUPS = (
    ("Time of a GET by number of images", "us", ("tags, middle page", "catalog, middle page", "referrers, middle page",
                                                 "manifest by tag")),
    ("Start to the first answer", "ms", ("start, after a clean end", "start, after both processes were killed")),
    ("Memory for an image, grown", "bytes", ("memory, control", "memory, data plane", "memory, names file")),
    ("Requests while the state is copied", "ms", ("longest GET while copied", "p99 GET while copied", "longest PUT while copied",
                                                  "p99 PUT while copied")),
)


def draw(result):
    picture = plot.draw({**result, "rows": [r for r in result["rows"] if "size" not in r]})
    for title, unit, names in GROUPS:
        curves = {name: [(r["size"], r["value"]) for r in result["rows"]
                         if r.get("what") == name and not r["name"].endswith("processor")] for name in names}
        for name, curve in curves.items():  # the smallest stands as the peer of the others
            first = [r for r in result["rows"] if r.get("what") == name and r["unit"] == "us"]
            if first:
                curve.insert(0, (LEAST, first[0]["peer_value"]))
        picture = plot.with_curves(picture, title, f"images ({unit})", curves)
    return picture
