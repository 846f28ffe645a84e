# SPDX-License-Identifier: Apache-2.0
"""docker and docker-compose against engines behind the proxy: what an engine's own socket does, this one does."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import pytest

import engines
import harness
import http1

NEEDED = ("docker", "dockerd", "containerd", "runc", "script", "ip", "nsenter")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the engine needs root"),
    pytest.mark.skipif(bool(engines.missing(*NEEDED)), reason=f"not installed: {engines.missing(*NEEDED)}"),
    pytest.mark.skipif(not os.path.exists("/bin/busybox"), reason="busybox-static is not installed"),
]
BIG_BYTES = (24 << 20) + 321
SLEEPER = "trap exit TERM; while :; do /bin/busybox sleep 0.1; done"


class Site:
    """Two engines, and a service with one of them and one with both."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fairlead-docker-"))
        self.folder.chmod(0o755)
        self.engines, self.front = [], None
        try:
            for name in ("e1", "e2"):
                self.engines.append(engines.Engine(self.folder, name))
            sockets = [f"unix:{engine.socket}" for engine in self.engines]
            self.front = engines.new_front({"one": ("docker", sockets[:1], {}), "both": ("docker", sockets, {})}).start()
            for engine in self.engines:
                self.import_image(engine)
        except BaseException:
            self.close()
            raise

    def import_image(self, engine):
        """An image of busybox, as `box`; straight into the engine."""
        root = self.folder / "root"
        (root / "bin").mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for name in ("sh", "cat"):
            if not (root / "bin" / name).is_symlink():
                (root / "bin" / name).symlink_to("busybox")
        (root / "tmp").mkdir(exist_ok=True)
        tar = subprocess.run(["tar", "-C", root, "-c", "."], check=True, capture_output=True).stdout
        self.docker("import", "--change", 'CMD ["/bin/sh"]', "-", "box", host=f"unix://{engine.socket}", input=tar)

    def environment(self, service="one", host=None, **more):
        return {"PATH": engines.PATH, "HOME": str(self.folder), "DOCKER_CONFIG": str(self.folder / "config"),
                "DOCKER_HOST": host or self.front.docker_host(service), "LANG": "C.UTF-8", **more}

    def docker(self, *words, service="one", host=None, input=None, check=True, timeout=60, **more):
        done = subprocess.run(["docker", *map(str, words)], env=self.environment(service, host, **more),
                              input=input, capture_output=True, timeout=timeout, check=False)
        done.text = done.stdout.decode(errors="replace")
        assert done.returncode == 0 or not check, (words, done.text, done.stderr.decode(errors="replace"))
        return done

    def start(self, *words, **options):
        return subprocess.Popen(["docker", *map(str, words)], env=self.environment(), stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, **options)

    def run(self, *words, name=None, image="box"):
        """A container in the background; returns its name."""
        name = name or f"c{time.monotonic_ns()}"
        self.docker("run", "-d", "--network", "none", "--name", name, *words[:-1], image, "/bin/sh", "-c", words[-1])
        return name

    def close(self):
        try:
            if self.front:
                self.front.close()
        finally:
            for engine in self.engines:
                for container in self.docker("ps", "-aq", host=f"unix://{engine.socket}", check=False).text.split():
                    self.docker("rm", "-f", container, host=f"unix://{engine.socket}", check=False)
                engine.close()
            shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def site():
    made = Site()
    yield made
    made.close()


@pytest.fixture(scope="module")
def sleeper(site):
    """A container that runs."""
    return site.run(SLEEPER, name="sleeper")


def random_file(path, size, name):
    path.write_bytes(harness.randomness(name).randbytes(size))
    return path


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_version_and_info(site):
    assert re.search(r"Server:", site.docker("version").text)
    assert "overlay2" in site.docker("info").text
    assert "box" in site.docker("images").text


def test_exec(site, sleeper):
    assert site.docker("exec", sleeper, "/bin/sh", "-c", "echo out; exit 3", check=False).returncode == 3
    assert site.docker("exec", sleeper, "/bin/busybox", "echo", "out").text == "out\n"
    both = site.docker("exec", sleeper, "/bin/sh", "-c", "echo to out; echo to err >&2")
    assert both.text == "to out\n" and both.stderr == b"to err\n"


def test_exec_with_input_that_ends(site, sleeper):
    """The client's half-close reaches the process; what it says afterwards reaches the client."""
    data = harness.randomness("exec").randbytes(3 << 20)
    done = site.docker("exec", "-i", sleeper, "/bin/sh", "-c", "/bin/busybox sha256sum; echo end", input=data)
    assert done.text.split() == [sha256(data), "-", "end"]


def test_exec_with_a_terminal(site, sleeper):
    inner = f"docker exec -it {sleeper} /bin/sh -c 'test -t 0 && echo is-a-terminal; /bin/busybox stty size'"
    done = subprocess.run(["script", "-qec", inner, "/dev/null"], env=site.environment(TERM="xterm"), input=b"",
                          capture_output=True, timeout=60, check=False)
    assert b"is-a-terminal" in done.stdout, done
    assert done.returncode == 0


def test_run_with_input_that_ends(site):
    done = site.docker("run", "--rm", "-i", "--network", "none", "box", "/bin/busybox", "wc", "-l", input=b"a\nb\nc\n")
    assert done.text.strip() == "3"


def test_exit_codes_and_removal(site):
    assert site.docker("run", "--rm", "--network", "none", "box", "/bin/sh", "-c", "exit 7", check=False).returncode == 7


def test_attach(site):
    name = site.run("-i", "/bin/cat")
    with site.start("attach", name, stdin=subprocess.PIPE) as attached:
        for number in range(3):
            attached.stdin.write(f"line {number}\n".encode())
            attached.stdin.flush()
            assert attached.stdout.readline().decode() == f"line {number}\n"
        site.docker("kill", name)
        attached.wait(20)


def test_start_attached_with_input_that_ends(site):
    site.docker("create", "-i", "--name", "once", "--network", "none", "box", "/bin/sh", "-c", "/bin/cat; echo end")
    assert site.docker("start", "-ai", "once", input=b"to the container\n").text == "to the container\nend\n"


def test_logs_follow(site):
    """Each line comes when it is written, not when the stream ends."""
    name = site.run("i=0; while [ $i -lt 10 ]; do echo line $i; i=$((i+1)); /bin/busybox sleep 0.2; done; " + SLEEPER)
    with site.start("logs", "-f", name) as follower:
        lines = [follower.stdout.readline().decode().strip() for _ in range(10)]
        assert lines == [f"line {i}" for i in range(10)]
        assert follower.poll() is None, "the stream ended before its container"
        site.docker("kill", name)
        assert follower.wait(20) == 0


def test_events(site):
    with site.start("events", "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}") as events:
        time.sleep(1)  # silence first: nothing may hold the head of the answer back, or end the stream
        site.docker("create", "--name", "seen", "--network", "none", "box")
        assert events.stdout.readline().decode().strip() == "container create seen"
        site.docker("rm", "seen")
        assert events.stdout.readline().decode().strip() == "container destroy seen"
        events.terminate()  # SIGINT may be ignored where the tests were started in the background
        events.wait(20)


def test_stats_top_wait(site, sleeper):
    assert sleeper in site.docker("stats", "--no-stream").text
    assert "sleep" in site.docker("top", sleeper).text
    name = site.run("/bin/busybox sleep 1; exit 5")
    assert site.docker("wait", name).text.strip() == "5"


def test_cp_both_ways(site, sleeper):
    path = random_file(site.folder / "big", BIG_BYTES, "cp")
    site.docker("cp", path, f"{sleeper}:/tmp/big")
    site.docker("cp", f"{sleeper}:/tmp/big", site.folder / "back")
    assert (site.folder / "back").read_bytes() == path.read_bytes()


def test_save_and_load(site):
    saved = site.docker("save", "box").stdout
    assert len(saved) > 1 << 20
    before = site.docker("images", "-q", "--no-trunc", "box").text
    site.docker("tag", "box", "kept")
    site.docker("rmi", "box")
    assert "Loaded image: box" in site.docker("load", input=saved).text
    assert site.docker("images", "-q", "--no-trunc", "box").text == before


def write_context(site, name):
    context = site.folder / name
    context.mkdir(exist_ok=True)
    random_file(context / "payload", BIG_BYTES, name)
    (context / "Dockerfile").write_text(
        "FROM box\nCOPY payload /payload\nRUN /bin/busybox sha256sum /payload >/sum\nCMD /bin/busybox cat /sum\n")
    return context


@pytest.mark.parametrize("service", ["one", "both"])
@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_build(site, buildkit, service):
    """With BuildKit a session and the build have to meet at one engine, also where there are several."""
    context = write_context(site, f"context{buildkit}{service}")
    rounds = 4 if service == "both" else 1
    for number in range(rounds):
        tag = f"built{buildkit}-{service}-{number}"
        (context / "number").write_text(str(number))
        site.docker("build", "--network", "none", "-t", tag, context, service=service, timeout=120,
                    DOCKER_BUILDKIT=buildkit)
        owners = [engine for engine in site.engines
                  if site.docker("images", "-q", tag, host=f"unix://{engine.socket}").text.strip()]
        assert len(owners) == 1
        ran = site.docker("run", "--rm", "--network", "none", tag, host=f"unix://{owners[0].socket}")
        assert ran.text.split()[0] == sha256((context / "payload").read_bytes())


def test_compose(site):
    if engines.missing("docker-compose"):
        pytest.skip("docker-compose is not installed")
    project = site.folder / "project"
    project.mkdir()
    (project / "docker-compose.yml").write_text(f"""
version: "2.4"
services:
  first:
    image: box
    network_mode: none
    command: ["/bin/sh", "-c", "echo first is up; {SLEEPER.replace('$', '$$')}"]
  second:
    image: box
    network_mode: none
    command: ["/bin/sh", "-c", "echo second is up; {SLEEPER.replace('$', '$$')}"]
""")

    def compose(*words):
        done = subprocess.run(["docker-compose", *words], cwd=project, env=site.environment(), capture_output=True,
                              timeout=120, check=False)
        assert done.returncode == 0, (words, done.stdout.decode(), done.stderr.decode())
        return done.stdout.decode()

    compose("up", "-d")
    try:
        assert compose("ps", "-q").count("\n") == 2
        assert http1.wait_until(lambda: "first is up" in compose("logs"), 10)
        assert compose("exec", "-T", "second", "/bin/busybox", "echo", "inside").strip() == "inside"
    finally:
        compose("down", "-t", "1")


def test_service_update_of_a_swarm_of_one(site):
    """Created, scaled and updated with the client waiting for it to converge."""
    site.docker("swarm", "init", "--advertise-addr", site.engines[0].address, "--listen-addr",
                f"{site.engines[0].address}:2377", timeout=60)
    try:
        site.docker("service", "create", "--name", "web", "--network", "host", "--replicas", "2", "--no-resolve-image",
                    "box", "/bin/sh", "-c", SLEEPER, timeout=120)
        site.docker("service", "update", "--env-add", "ROUND=2", "--update-delay", "0s", "--stop-grace-period", "1s",
                    "--no-resolve-image", "web", timeout=120)
        assert "2/2" in site.docker("service", "ls").text
        assert "ROUND=2" in site.docker("service", "inspect", "web").text
        site.docker("service", "logs", "web")
        site.docker("service", "rm", "web")
    finally:
        site.docker("swarm", "leave", "--force", check=False)


def test_many_execs_at_once(site, sleeper):
    """Sixty upgraded connections at the same time, each with bytes of its own both ways."""
    running = []
    for number in range(60):
        process = subprocess.Popen(["docker", "exec", "-i", sleeper, "/bin/cat"], env=site.environment(),
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdin.write(f"hello {number}\n".encode())
        process.stdin.flush()
        running.append(process)
    for number, process in enumerate(running):
        assert process.stdout.readline().decode() == f"hello {number}\n"
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
