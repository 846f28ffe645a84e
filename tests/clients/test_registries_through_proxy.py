# SPDX-License-Identifier: Apache-2.0
"""Container clients against registries behind the proxy: docker-registry, two of them over one storage, and Fairlead's own."""

import os
import subprocess
import threading
import time

import pytest

import engines
import harness
import http1
from tools import TOOLS

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the clients need root"),
    pytest.mark.skipif(bool(engines.missing("docker-registry")), reason="docker-registry is not installed"),
    pytest.mark.skipif(engines.PROXY == "none", reason="is about what stands in between"),
]
PULLS = 10


class Site:
    def __init__(self, folder):
        self.front, self.registries = None, []
        try:
            storage = folder / "storage"
            for name in ("r1", "r2"):
                self.add(harness.DockerRegistry(folder / name, state=storage))
            self.add(harness.FairleadRegistry())
            hosts = [registry.host for registry in self.registries]
            self.front = engines.new_front({"shared": ("registry", hosts[:2], {}), "own": ("registry", hosts[2:], {})})
            self.front.start()
        except BaseException:
            self.close()
            raise

    def add(self, registry):
        self.registries.append(registry)
        registry.start()

    def host(self, service):
        return f"127.0.0.1:{self.front.ports[service]}"

    def repository(self, service, name):
        return harness.Repository(http1.Client(("127.0.0.1", self.front.ports[service])), name)

    def close(self):
        for each in [self.front, *self.registries]:
            if each:
                each.close()


@pytest.fixture(scope="module")
def site(folder):
    made = Site(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def built(tool, context):
    """A client that has built the image. What a client forgets it builds again."""

    def get(name):
        client = tool(name)
        if name != "skopeo" or not (client.folder / "built").exists():
            client.build(context, "proxied")
        return client

    return get


def manifest_digest(site, service, name):
    answer = site.repository(service, name).manifest("1")
    assert answer.status == 200, answer
    return harness.digest_of(answer.body)


@pytest.mark.parametrize("service", ["shared", "own"])
@pytest.mark.parametrize("name", TOOLS)
def test_push_and_pull(site, built, expected, name, service):
    client = built(name)
    reference = f"{site.host(service)}/proxied/{name}:1"
    client.push("proxied", reference, client.formats[0])
    client.wipe()
    assert client.pull(reference) == manifest_digest(site, service, f"proxied/{name}")
    found = client.files(reference)
    assert {path: found.get(path) for path in expected} == expected


def restarts(site, stop):
    """Kills one of the two registries after the other, and starts it again, until told to stop."""
    random = harness.randomness("restarts")
    count = 0
    while not stop.wait(random.uniform(0.05, 0.3)):
        registry = site.registries[count % 2]
        registry.restart("kill")
        count += 1
    stop.count = count


def test_pulls_while_registries_are_killed(site, built, expected):
    """Two registries over one storage are killed in turn: no pull fails, without any retry of the client's."""
    client = built("skopeo")
    reference = f"{site.host('shared')}/killed/skopeo:1"
    client.push("proxied", reference, "oci")
    digest = manifest_digest(site, "shared", "killed/skopeo")
    stop = threading.Event()
    killer = threading.Thread(target=restarts, args=(site, stop))
    killer.start()
    try:
        for _ in range(PULLS):
            client.wipe()
            assert client.pull(reference) == digest
    finally:
        stop.set()
        killer.join()
    assert stop.count > 0
    found = client.files(reference)
    assert {path: found.get(path) for path in expected} == expected


def test_a_push_while_a_registry_is_killed_succeeds_when_tried_again(site, built):
    """What cannot go on is an error that the client tries again, and never an image with a hole."""
    client = built("skopeo")
    stop = threading.Event()
    killer = threading.Thread(target=restarts, args=(site, stop))
    killer.start()
    try:
        for number in range(4):
            reference = f"{site.host('shared')}/pushed/{number}:1"
            for _ in range(10):
                try:
                    client.push("proxied", reference, "oci")
                    break
                except (AssertionError, subprocess.TimeoutExpired):
                    time.sleep(0.2)
            else:
                pytest.fail("no push succeeded")
    finally:
        stop.set()
        killer.join()
    for number in range(4):
        client.wipe()
        assert client.pull(f"{site.host('shared')}/pushed/{number}:1") == manifest_digest(site, "shared", f"pushed/{number}")
