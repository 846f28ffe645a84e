# SPDX-License-Identifier: Apache-2.0
"""How many manifests are served in a second, and how late is the slowest of a hundred?"""

import json

import measure
from servers import MANIFEST_TYPE, WORKERS, DockerRegistry, Nginx

TITLE = "GET of a 2 KB manifest by tag over 64 kept-alive connections"
BYTES, CONNECTIONS, SECONDS = 2000, 64, 2


def manifest(config, layer):
    """An image manifest of exactly BYTES bytes."""
    body = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": 1024}] * 8,
        "annotations": {"org.opencontainers.image.description": ""},
    }
    room = BYTES - len(json.dumps(body))
    body["annotations"]["org.opencontainers.image.description"] = "x" * room
    return json.dumps(body).encode()


def run(bench):
    subject = bench.subject.name
    config, config_digest = bench.make_file("config", 2)
    layer, layer_digest = bench.make_file("layer", 1024)
    path = bench.folder / "manifest"
    path.write_bytes(manifest(config_digest, layer_digest))
    with bench.server(bench.subject) as registry, bench.server(Nginx) as nginx, bench.server(DockerRegistry) as docker:
        trials = {}
        for server in (registry, nginx, docker):
            server.add_blob(config, config_digest)
            server.add_blob(layer, layer_digest)
            target = server.add_manifest(path, "latest")
            trials[server.name] = lambda server=server, target=target: bench.load(
                server, "get", CONNECTIONS, "-t", SECONDS, "-j", WORKERS, "-l", BYTES, "-H", f"Accept: {MANIFEST_TYPE}", target)
        results = measure.interleave(trials)
    rows = []
    for peer, at_least, aim in ((nginx.name, 1.1, 1.5), (docker.name, 10.0, 20.0)):
        rows.append(measure.row("manifests", "requests/s", "requests_per_s", results, subject, peer,
                                at_least=at_least, aim=aim))
        rows.append(measure.row("time of a GET, 99th percentile", "us", "p99_us", results, subject, peer,
                                less_is_better=True, at_least=at_least, aim=aim))
        rows.append(measure.row("server", "CPU-s per 100,000 requests", "cpu_s_per_100k", results, subject, peer,
                                less_is_better=True))
    return rows
