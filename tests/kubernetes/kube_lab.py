# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes of one node and two API servers, as hosts in namespaces, and Fairlead in front of it.

    client -- kubectl          front -- Fairlead           api1, api2 -- kube-apiserver        node -- etcd, dockerd, kubelet

All hosts are on one bridge that leads nowhere: a kubelet looks for the metadata services of clouds. The kubelet itself reaches its
API servers through Fairlead. There is no controller manager and no scheduler: pods name their node."""

import contextlib
import glob
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tarfile
import threading
import time

import fronts
import http1
import netlab
from harness import BUILD
from tls_files import Authority

HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = pathlib.Path(os.environ.get("FAIRLEAD_KUBERNETES", BUILD / "kubernetes")) / "bin"
START_S = 180  # on a machine under load
APIS = ("api1", "api2")
API_PORT = 6443
# What a service that is terminated and one that is passed through have in common; ports of the front.
PORTS = {"terminated": 6443, "passed": 6444, "http2": 6445, "certificate": 6446}
# token, user, groups
TOKENS = {"admin": ("admin-token", "admin", "system:masters"),
          "node": ("node-token", "system:node:node", "system:nodes"),
          "alice": ("alice-token", "alice", "people")}
KUBELET = {
    "kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1", "port": 10250,
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"}, "cgroupDriver": "cgroupfs", "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [], "oomScoreAdj": 0, "failSwapOn": False, "makeIPTablesUtilChains": False,
    "readOnlyPort": 0, "healthzPort": 0, "resolvConf": "", "imageGCHighThresholdPercent": 100,
    "evictionHard": {"memory.available": "10Mi", "nodefs.available": "1%", "imagefs.available": "1%"}}


def config(server, authority, token):
    """A kubeconfig."""
    return json.dumps({
        "kind": "Config", "apiVersion": "v1", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": server, "certificate-authority": str(authority.cert)}}],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}]})


def image(path, files, links=()):
    """A tar of {name: bytes}, all executable, and of links to the first of them."""
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/" + next(iter(files))
            archive.addfile(member)
        for name in ("tmp", "root"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o777
            archive.addfile(member)


class Kubectl:
    """One version of the client."""

    def __init__(self, program):
        self.program = str(program)
        shown = json.loads(subprocess.run([self.program, "version", "--client", "-o", "json"], capture_output=True,
                                          check=True).stdout)["clientVersion"]
        self.version = (int(shown["major"]), int(shown["minor"].rstrip("+")))

    def __str__(self):
        return "kubectl-%d.%d" % self.version


def kubectls():
    """The one that was built, the one that is installed, and what stands beside it as kubectl.VERSION; oldest first."""
    installed = shutil.which("kubectl")
    beside = glob.glob(os.path.realpath(installed) + ".[0-9]*") if installed else []
    programs = [PROGRAMS / "kubectl", *(beside or ([installed] if installed else []))]
    return sorted((Kubectl(program) for program in programs if os.path.exists(program)), key=lambda each: each.version)


class Front(fronts.FairleadFront):
    def __init__(self, lab, authority):
        self.authority = authority
        backends = [(name, f"{lab[name].v4}:{API_PORT}") for name in APIS]
        to_backends = {"backend.tls": True, "backend.ca": "cluster"}
        ends_here = {"kind": "kubernetes", "tls.mode": "terminate", "tls.certificates": "front", **to_backends}
        fields = {
            "terminated": ends_here,
            "passed": {"kind": "kubernetes", "tls.mode": "passthrough"},
            "http2": {**ends_here, "backend.http": 2},
            # Clients show a certificate to Fairlead, and Fairlead one of its own to the API servers.
            "certificate": {**ends_here, "tls.client_auth": "required", "tls.client_ca": "cluster",
                            "backend.certificate": "door"}}
        super().__init__(lab, "front", [fronts.Service(name, PORTS[name], backends, **fields[name]) for name in PORTS], None)

    def config(self):
        certificates = {"front": self.authority.issue("front", self.host.v4), "door": self.authority.issue("door"),
                        "cluster": {"ca": str(self.authority.cert)}}
        return "\n".join(["certificates: " + json.dumps(certificates),
                          "services:", *(fronts.yaml_of(self.entry(service)) for service in self.services)]) + "\n"

    def service(self, name):
        return next(service for service in self.services if service.name == name)

    def keep_to(self, name, api):
        """New connections of a service go to this API server alone; to all with None."""
        self.drain(self.service(name), list(APIS), drain=False)
        if api:
            self.drain(self.service(name), [other for other in APIS if other != api])


class Api:
    """One API server, which may be killed, stopped or cut off, and comes back."""

    def __init__(self, cluster, name):
        self.cluster, self.host = cluster, cluster.lab[name]
        self.folder = cluster.folder / name
        self.folder.mkdir()
        self.process = None

    def start(self):
        folder, pki = self.folder, self.cluster.authority.folder
        cluster = self.cluster
        issued = cluster.authority.issue(self.host.name, self.host.v4, cluster.lab["front"].v4)
        with open(folder / "log", "ab") as log:
            self.process = self.host.start(
                PROGRAMS / "kube-apiserver", f"--etcd-servers=http://{cluster.lab['node'].v4}:2379",
                f"--bind-address={self.host.v4}", f"--advertise-address={self.host.v4}", f"--secure-port={API_PORT}",
                "--insecure-port=0", f"--tls-cert-file={issued['cert']}", f"--tls-private-key-file={issued['key']}",
                f"--client-ca-file={cluster.authority.cert}", f"--token-auth-file={cluster.folder}/tokens",
                "--authorization-mode=Node,RBAC", "--service-cluster-ip-range=10.96.0.0/24",
                "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={pki}/accounts.pem",
                f"--service-account-signing-key-file={pki}/accounts.key", "--disable-admission-plugins=ServiceAccount",
                "--kubelet-preferred-address-types=InternalIP", "--endpoint-reconciler-type=none", f"--cert-dir={folder}",
                stdout=log, stderr=log)

    def ready(self):
        assert self.process.poll() is None, self.log()
        done = self.host.run("curl", "-s", "--max-time", 5, "--cacert", self.cluster.authority.cert, "-H",
                             f"Authorization: Bearer {TOKENS['admin'][0]}", f"https://{self.host.v4}:{API_PORT}/readyz", check=False)
        return done.stdout == "ok"

    def log(self):
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    @contextlib.contextmanager
    def fault(self, how, noticed=True):
        """It is killed, stands still, or nothing passes to or from its host, for as long as the block lasts, which begins
        when Fairlead calls it down, if `noticed`: what is no GET and was under way until then may come to nothing."""
        if how == "killed":
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        elif how == "stopped":
            self.process.send_signal(signal.SIGSTOP)
        else:
            self.host.silence()
        try:
            assert not noticed or http1.wait_until(self.called_down, 60, 0.1), self.cluster.front.log()
            yield
        finally:
            if how == "killed":
                self.start()
            elif how == "stopped":
                self.process.send_signal(signal.SIGCONT)
            else:
                self.host.unsilence()
            assert http1.wait_until(self.ready, START_S, 0.5), self.log()
            assert http1.wait_until(lambda: not self.cluster.front.down(PORTS), 60, 0.1), self.cluster.front.log()

    def called_down(self):
        """By every service."""
        return set(self.cluster.front.down(PORTS)) >= {f"{service}/{self.host.name} down" for service in PORTS}


class Cluster:
    def __init__(self):
        self.lab = netlab.Lab("client", "front", *APIS, "node")
        self.cgroup = f"{self.lab.name}-pods"
        self.kubectls = kubectls()

    def __enter__(self):
        self.lab.__enter__()
        self.folder = self.lab.folder
        try:
            self.authority = Authority(self.folder / "pki")
            self.authority.issue("accounts")
            self.authority.issue("carol")
            (self.folder / "tokens").write_text("".join(f'{token},{user},{user},"{groups}"\n'
                                                        for token, user, groups in TOKENS.values()))
            self.start_etcd()
            self.apis = {name: Api(self, name) for name in APIS}
            for api in self.apis.values():
                api.start()
            self.front = Front(self.lab, self.authority).start()
            for api in self.apis.values():
                assert http1.wait_until(api.ready, START_S, 0.5), api.log()
            assert http1.wait_until(lambda: not self.front.down(PORTS), START_S, 0.5), self.front.log()
            self.start_node()
            assert http1.wait_until(self.node_ready, START_S, 1), self.node_log()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.lab.remove()
        for where in {*glob.glob(f"/sys/fs/cgroup/{self.cgroup}"), *glob.glob(f"/sys/fs/cgroup/*/{self.cgroup}")}:
            http1.wait_until(lambda: remove_cgroups(where), 10, 0.1)

    def start_etcd(self):
        host, folder = self.lab["node"], self.folder / "etcd"
        with open(self.folder / "etcd.log", "wb") as log:
            host.start("etcd", f"--data-dir={folder}", f"--listen-client-urls=http://{host.v4}:2379",
                       f"--advertise-client-urls=http://{host.v4}:2379", "--listen-peer-urls=http://127.0.0.1:2380",
                       stdout=log, stderr=log)

    def start_node(self):
        host, folder = self.lab["node"], self.folder / "kubelet"
        folder.mkdir()
        busybox = shutil.which("busybox")
        links = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
        image(folder / "box.tar", {"bin/busybox": pathlib.Path(busybox).read_bytes()},
              [f"bin/{name}" for name in links if name != "busybox"])
        image(folder / "pause.tar", {"pause": (PROGRAMS / "pause").read_bytes()})
        (folder / "kubelet.yaml").write_text(json.dumps({**KUBELET, "address": host.v4}))
        (folder / "kubelet.conf").write_text(config(self.server("terminated"), self.authority, TOKENS["node"][0]))
        with open(folder / "log", "wb") as log:
            # A PID namespace: with its first process ends everything that it has started.
            host.start("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", HERE / "node.sh", PROGRAMS, folder,
                       f"/{self.cgroup}", host.v4, stdout=log, stderr=log)

    def node_log(self):
        return "\n".join((self.folder / "kubelet" / name).read_text(errors="replace")[-3000:]
                         for name in ("log", "dockerd.log", "kubelet.log") if (self.folder / "kubelet" / name).exists())

    def node_ready(self):
        kubectl = Session(self, "terminated", self.kubectls[-1])
        done = kubectl.run("get", "node", "node", "-o", 'jsonpath={.status.conditions[?(@.type=="Ready")].status}', check=False)
        return done.stdout == b"True"

    def logs(self):
        yield from ((name, api.log()) for name, api in self.apis.items())
        yield "front", self.front.log()
        yield "node", self.node_log()

    def server(self, door):
        return f"https://{self.lab['front'].v4}:{PORTS[door]}"


def remove_cgroups(root):
    """The groups that killed containers leave; true when none is left."""
    for path, _, _ in os.walk(root, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    return not os.path.exists(root)


class Session:
    """kubectl of one version, by one of the services."""

    def __init__(self, cluster, door, kubectl, token="admin"):
        self.cluster, self.door, self.kubectl = cluster, door, kubectl
        self.home = cluster.folder / f"home-{door}-{kubectl}-{token}"
        self.home.mkdir(exist_ok=True)
        self.config = self.home / "config"
        if not self.config.exists():
            self.config.write_text(config(cluster.server(door), cluster.authority, TOKENS[token][0]))

    def command(self, *words):
        environment = [f"HOME={self.home}", f"KUBECONFIG={self.config}"]
        return self.cluster.lab["client"].inside(["env", *environment, self.kubectl.program, *words])

    def run(self, *words, input=None, check=True, timeout_s=90):
        """Exits with 0, if `check`; output is bytes."""
        done = subprocess.run(self.command(*words), input=input, stdin=None if input is not None else subprocess.DEVNULL,
                              capture_output=True, timeout=timeout_s, check=False)
        assert done.returncode == 0 or not check, (words, done.stdout[-2000:], done.stderr[-2000:])
        return done

    def out(self, *words, **options):
        return self.run(*words, **options).stdout

    @contextlib.contextmanager
    def running(self, *words, **options):
        """In the background, its output in lines; ended behind the block."""
        command = Running(subprocess.Popen(self.command(*words), stdin=options.pop("stdin", subprocess.DEVNULL),
                                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options))
        try:
            yield command
        finally:
            command.process.kill()
            command.process.wait()
            command.reader.join()

    def pod(self, name, *command, stdin=False):
        """Makes a pod that runs; the answer of the API server alone is not enough."""
        self.run("create", "-f", "-", input=pod(name, *command, stdin=stdin))
        self.run("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=80s")
        return name


def pod(name, *command, stdin=False, **metadata):
    return json.dumps({
        "kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, **metadata},
        "spec": {"nodeName": "node", "terminationGracePeriodSeconds": 0, "restartPolicy": "Never",
                 "automountServiceAccountToken": False, "enableServiceLinks": False,
                 "containers": [{"name": "main", "image": "box:1", "imagePullPolicy": "Never", "stdin": stdin,
                                 "command": list(command)}]}}).encode()


class Running:
    """A process whose output is read by a thread, line by line."""

    def __init__(self, process):
        self.process, self.lines = process, []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))

    def ended(self):
        return self.process.poll() is not None and not self.reader.is_alive()

    def wait_line(self, wanted, timeout_s=60):
        """Until a line says it."""
        return http1.wait_until(lambda: any(wanted in line for line in self.lines), timeout_s)

    def wait_end(self, timeout_s=60):
        return http1.wait_until(self.ended, timeout_s)
