# SPDX-License-Identifier: Apache-2.0
"""kubectl, old and new, through Fairlead, against real API servers and a real kubelet.

By three ways: TLS that ends at Fairlead (clients speak HTTP/2 then, but for exec and its like), TLS that is passed through, and
HTTP/2 to the API servers too. Versions up to 1.29 exec by SPDY, later ones try WebSocket first, which these API servers refuse."""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import http.client
import itertools
import json
import os
import re
import struct
import subprocess
import termios

import pytest

import http1
from harness import randomness
from kube_lab import PORTS, Session, kubectls, pod
from netlab import in_namespace

KUBECTLS = kubectls()
DOORS = ("terminated", "passed", "http2")
# Every way with the oldest and the newest; the most usual one with all.
WAYS = [(door, kubectl) for door in DOORS for kubectl in KUBECTLS
        if door == "terminated" or kubectl in (KUBECTLS[0], KUBECTLS[-1])]
numbers = itertools.count()

pytestmark = pytest.mark.skipif(not KUBECTLS, reason="no kubectl was built, and none is installed")


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]}-{way[1]}")
def session(cluster, request):
    return Session(cluster, *request.param)


@pytest.fixture(scope="module", params=DOORS)
def newest(cluster, request):
    return Session(cluster, request.param, KUBECTLS[-1])


@pytest.fixture(scope="module")
def admin(cluster):
    return Session(cluster, "terminated", KUBECTLS[-1])


@pytest.fixture(scope="module")
def box(admin):
    """A pod in which commands are run; /srv/file is served by its port 80."""
    name = admin.pod("box", "sh", "-c", "mkdir /srv && head -c 5000000 /dev/urandom >/srv/file && exec httpd -f -p 80 -h /srv")
    admin.run("exec", "box", "--", "sh", "-c", "until [ -s /srv/file ]; do sleep 0.1; done")
    return name


def new_name(what):
    return f"{what}-{next(numbers)}"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def random_bytes(size, *what):
    return randomness("kubectl", *what).randbytes(size)


# ---------------------------------------------------------------- requests and answers

def test_get(session, box):
    assert re.search(r"^box +1/1 +Running", session.out("get", "pods").decode(), re.M)
    assert json.loads(session.out("get", "pod", "box", "-o", "json"))["status"]["phase"] == "Running"
    assert "node" in session.out("describe", "pod", "box").decode()
    assert '"serverVersion"' in session.out("version", "-o", "json").decode()
    assert b"deployments" in session.out("api-resources")


def test_large_answer(session, cluster):
    """What the API server says of itself: megabytes, of known length."""
    api = cluster.apis["api1"].host
    direct = cluster.lab["client"].run("curl", "-s", "--cacert", cluster.authority.cert, "-H", "Authorization: Bearer admin-token",
                                       f"https://{api.v4}:6443/openapi/v2").stdout.encode()
    assert len(direct) > 1_000_000
    assert sha256(session.out("get", "--raw", "/openapi/v2")) == sha256(direct)


def test_proxied_by_the_api_server(session):
    assert session.out("get", "--raw", "/api/v1/nodes/node/proxy/pods").startswith(b'{"kind":"PodList"')


def test_apply_and_delete(session):
    name, large = new_name("settings"), new_name("settings")

    def text(value, name=name):
        return json.dumps({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": {"a": value}}).encode()

    def said(name=name):
        return session.out("get", "configmap", name, "-o", "jsonpath={.data.a}")

    session.run("apply", "-f", "-", input=text("one"))
    assert said() == b"one"
    session.run("apply", "-f", "-", input=text("two"))
    assert said() == b"two"
    session.run("patch", "configmap", name, "--type=merge", "-p", '{"data":{"a":"three"}}')
    assert said() == b"three"
    for letter in "xy":
        session.run("apply", "--server-side", "-f", "-", input=text(letter * 700_000, large))
        assert said(large) == letter.encode() * 700_000
    session.run("create", "--dry-run=server", "-f", "-", input=text("four", new_name("dry")))
    session.run("delete", "configmap", name, large)
    assert b"NotFound" in session.run("get", "configmap", name, check=False).stderr


def test_watch(session):
    """Events come as they happen, and between them is silence."""
    first, second = new_name("seen"), new_name("seen")
    with session.running("get", "configmaps", "-w", "-o", 'jsonpath={.metadata.name}={.data.a}{"\\n"}') as watch:
        for name in (first, second):
            session.run("create", "configmap", name, "--from-literal=a=b")
            assert watch.wait_line(f"{name}=b"), watch.lines
        session.run("patch", "configmap", first, "--type=merge", "-p", '{"data":{"a":"c"}}')
        assert watch.wait_line(f"{first}=c"), watch.lines
        assert not watch.ended()
    session.run("delete", "configmap", first, second)


def test_pod_comes_and_goes(session):
    """The kubelet hears of it by a watch of its own, through Fairlead; delete waits for the end by another one."""
    name = session.pod(new_name("short"), "sleep", "1000")
    session.run("delete", "pod", name)
    assert b"NotFound" in session.run("get", "pod", name, check=False).stderr


# ---------------------------------------------------------------- streams

def test_logs(session):
    name = session.pod(new_name("logs"), "sh", "-c", "seq 1 200000; sleep 2; seq 1 3; sleep 1000")
    with session.running("logs", "-f", name) as logs:
        assert http1.wait_until(lambda: len(logs.lines) >= 200_003, 60), len(logs.lines)
        assert logs.lines == [str(n) for n in range(1, 200_001)] + ["1", "2", "3"]
        assert not logs.ended()
        session.run("delete", "pod", name, "--wait=false")
        assert logs.wait_end(), logs.lines[-3:]
    assert len(logs.lines) == 200_003


def test_exec(session, box):
    done = session.run("exec", box, "--", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.returncode) == (b"out\n", 7)
    assert done.stderr.startswith(b"err\n")


def test_exec_with_input(session, box):
    """The end of the input arrives, and no byte less; and bytes go both ways at once."""
    data = random_bytes(3_000_000, "exec")
    assert session.out("exec", "-i", box, "--", "sha256sum", input=data).split()[0].decode() == sha256(data)
    assert sha256(session.out("exec", "-i", box, "--", "cat", input=data)) == sha256(data)


def test_large_output(session, box):
    there = session.out("exec", box, "--", "sha256sum", "/srv/file").split()[0].decode()
    assert sha256(session.out("exec", box, "--", "cat", "/srv/file")) == there


@contextlib.contextmanager
def terminal(session, *words):
    """kubectl on a terminal of 33 lines and 77 columns. Gives the end that a person sits at, and the process."""
    person, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))

    def own_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(session.command(*words), stdin=its, stdout=its, stderr=its, preexec_fn=own_terminal)
    os.close(its)
    try:
        yield person, process
    finally:
        process.kill()
        process.wait()
        os.close(person)


def read_until(fd, wanted):
    """What was read up to and with it."""
    os.set_blocking(fd, False)
    seen = b""

    def look():
        nonlocal seen
        with contextlib.suppress(OSError):  # nothing yet; or the other end is closed
            seen += os.read(fd, 65536)
        return wanted in seen

    assert http1.wait_until(look, 60), seen
    return seen


def test_terminal(session, box):
    """What is typed comes back, the size is known there, ^C ends a command, and the shell's code is kubectl's."""
    with terminal(session, "exec", "-it", box, "--", "sh") as (person, process):
        os.write(person, b"until stty size | grep '33 77'; do sleep 0.1; done; tty; echo rea''dy\n")
        assert b"/dev/pts/" in read_until(person, b"ready")
        fcntl.ioctl(person, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 88, 0, 0))
        os.write(person, b"until stty size | grep '44 88'; do sleep 0.1; done; echo la''rger\n")
        read_until(person, b"larger")
        os.write(person, b"echo sta''rted; sleep 1000\n")
        read_until(person, b"started")
        os.write(person, b"\x03")
        os.write(person, b"exit 9\n")
        assert process.wait(60) == 9


def test_attach(session):
    name = session.pod(new_name("cat"), "sh", "-c", "cat; sleep 1000", stdin=True)
    with session.running("attach", "-i", name, stdin=subprocess.PIPE) as attached:
        for n in range(3):
            attached.process.stdin.write(b"line %d\n" % n)
            attached.process.stdin.flush()
            assert attached.wait_line(f"line {n}"), attached.lines
    session.run("delete", "pod", name, "--wait=false")


def fetch(client, port):
    """The served file, by a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    in_namespace(client.netns, connection.connect)
    connection.request("GET", "/file")
    answer = connection.getresponse()
    assert answer.status == 200
    return sha256(answer.read())


def test_port_forward(session, cluster, box):
    """Several connections at once by one tunnel."""
    there = session.out("exec", box, "--", "sha256sum", "/srv/file").split()[0].decode()
    with session.running("port-forward", f"pod/{box}", ":80") as forward:
        assert forward.wait_line("Forwarding from 127.0.0.1:"), forward.lines
        port = int(re.search(r"127\.0\.0\.1:(\d+)", "\n".join(forward.lines))[1])
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            assert list(pool.map(lambda _: fetch(cluster.lab["client"], port), range(12))) == [there] * 12
        assert not forward.ended()


def test_copy(session, box, tmp_path):
    data = random_bytes(8_000_000, "copy")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "large").write_bytes(data)
    (tmp_path / "there" / "small").write_text("text\n")
    where = f"/tmp/{new_name('copy')}"
    session.run("cp", str(tmp_path / "there"), f"{box}:{where}")
    assert session.out("exec", box, "--", "sha256sum", f"{where}/large").split()[0].decode() == sha256(data)
    session.run("cp", f"{box}:{where}", str(tmp_path / "back"))
    assert (tmp_path / "back" / "large").read_bytes() == data
    assert (tmp_path / "back" / "small").read_text() == "text\n"
    session.run("exec", box, "--", "rm", "-r", where)


# ---------------------------------------------------------------- who one is

def let_look(admin, user):
    """A role of its own: those that Kubernetes brings are put together by the controller manager."""
    admin.run("apply", "-f", "-", input=json.dumps({"kind": "List", "apiVersion": "v1", "items": [
        {"kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "look"},
         "rules": [{"apiGroups": [""], "resources": ["pods", "configmaps"], "verbs": ["get", "list", "watch"]}]},
        {"kind": "ClusterRoleBinding", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": f"look-{user}"},
         "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
         "roleRef": {"kind": "ClusterRole", "name": "look", "apiGroup": "rbac.authorization.k8s.io"}}]}).encode())


@pytest.mark.parametrize("door", DOORS)
def test_token_passes(cluster, admin, door):
    """The API server decides by the client's own token."""
    alice = Session(cluster, door, KUBECTLS[-1], "alice")
    let_look(admin, "alice")
    assert http1.wait_until(lambda: alice.run("get", "pods", check=False).returncode == 0, 30, 0.5)
    assert b'User "alice" cannot create' in alice.run("create", "configmap", "not-hers", check=False).stderr
    as_bob = alice.run("get", "pods", "--as=bob", check=False)
    assert b"cannot impersonate" in as_bob.stderr
    assert b"Forbidden" in admin.run("get", "pods", "--as=bob", check=False).stderr


def test_certificates(cluster, admin):
    """A client without a certificate of the authority gets nowhere; with one, Fairlead's own counts behind it."""
    let_look(admin, "door")
    folder = cluster.authority.folder
    ask = lambda *words: cluster.lab["client"].run(
        "curl", "-s", "--cacert", cluster.authority.cert, *words, f"https://{cluster.lab['front'].v4}:{PORTS['certificate']}"
        "/api/v1/namespaces/default/configmaps", check=False)
    shown = ("--cert", folder / "carol.pem", "--key", folder / "carol.key")
    assert http1.wait_until(lambda: '"ConfigMapList"' in ask(*shown).stdout, 30, 0.5), ask(*shown)
    assert ask().returncode != 0
    made = ask(*shown, "--json", '{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"none"}}')
    assert 'User \\"door\\" cannot create' in made.stdout, made.stdout


def test_certificate_passes_through(cluster):
    """TLS ends at the API server, and so it sees the client's certificate."""
    folder = cluster.authority.folder
    seen = cluster.lab["client"].run("curl", "-s", "--cacert", cluster.authority.cert, "--cert", folder / "carol.pem", "--key",
                                     folder / "carol.key", f"{cluster.server('passed')}/api/v1/nodes")
    assert 'User \\"carol\\" cannot list' in seen.stdout


# ---------------------------------------------------------------- an API server dies

FAULTS = ("killed", "silent", "stopped")


@pytest.fixture
def on_first(cluster, newest):
    """New connections go to the first API server until the block in the test says that all may be used."""
    front = cluster.front

    @contextlib.contextmanager
    def held():
        front.keep_to(newest.door, "api1")
        try:
            yield
        finally:
            front.keep_to(newest.door, None)

    yield held
    front.keep_to(newest.door, None)


@pytest.mark.parametrize("fault", FAULTS)
def test_watch_when_its_server_goes(cluster, newest, on_first, fault):
    """It ends, or goes on and shows what is new; it does not hang."""
    name, after = new_name("before"), new_name("after")
    with on_first():
        watch = newest.running("get", "configmaps", "-w", "--request-timeout=0", "-o", "name")
        running = watch.__enter__()
        newest.run("create", "configmap", name)
        assert running.wait_line(name), running.lines
    try:
        with cluster.apis["api1"].fault(fault):
            newest.run("create", "configmap", after)  # by the other one
            assert http1.wait_until(lambda: running.ended() or running.wait_line(after, 0), 60), running.lines
    finally:
        watch.__exit__(None, None, None)
    newest.run("delete", "configmap", name, after)


@pytest.mark.parametrize("fault", FAULTS)
def test_streams_when_their_server_goes(cluster, newest, on_first, box, fault):
    """exec, logs -f and port-forward end, and a stream that was cut off does not end as a complete one does. All of it is over
    in a second or so; what takes half a minute and more is the start of an API server that was killed."""
    name = newest.pod(new_name("talks"), "sh", "-c", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done")
    with contextlib.ExitStack() as stack:
        with on_first():
            logs = stack.enter_context(newest.running("logs", "-f", name))
            run = stack.enter_context(newest.running("exec", box, "--", "sh", "-c", "echo begun; sleep 1000; echo complete"))
            forward = stack.enter_context(newest.running("port-forward", f"pod/{box}", ":80"))
            assert logs.wait_line("2") and run.wait_line("begun") and forward.wait_line("Forwarding from 127.0.0.1:")
        with cluster.apis["api1"].fault(fault):
            assert logs.wait_end(90) and run.wait_end(90), (logs.lines[-2:], run.lines)
            assert logs.process.returncode != 0, logs.lines[-2:]
            # Its exit code says nothing: kubectl's SPDY takes every end of a connection, a reset too, for the end of all of its
            # streams, and nothing on the one for errors means success.
            assert "complete" not in run.lines
            assert http1.wait_until(lambda: forward.ended() or forward.wait_line("lost connection", 0), 60), forward.lines
    newest.run("delete", "pod", name, "--wait=false")


@pytest.mark.parametrize("fault", FAULTS)
def test_node_stays(cluster, admin, fault):
    """The kubelet's own connections and watches: a pod that is made while one of the servers is away is run."""
    for api in cluster.apis.values():
        with api.fault(fault):
            name = admin.pod(new_name("made"), "sleep", "1000")
            admin.run("delete", "pod", name)


@pytest.mark.parametrize("fault", FAULTS)
def test_gets_do_not_fail(cluster, admin, box, fault):
    """Nothing is asked in vain while servers come and go."""
    for api in cluster.apis.values():
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(admin.run, "get", "pods", check=False) for _ in range(6)]
            with api.fault(fault, noticed=False):
                asked += [pool.submit(admin.run, "get", "pods", check=False) for _ in range(12)]
                done = [each.result() for each in asked]
        assert all(each.returncode == 0 and box.encode() in each.stdout for each in done), [each.stderr for each in done]
