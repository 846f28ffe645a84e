# SPDX-License-Identifier: Apache-2.0
"""Real container clients behind one interface: build, push, pull, and the files of what was pulled.

Each keeps its storage in a folder of its own and touches nothing else of the machine: no bridge, no iptables, no
login, no policy. `wipe` forgets everything, so that the next pull asks the registry for every byte.
"""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import tarfile

import http1

FORMATS = {"v2s2": "docker", "oci": "oci"}
DOCKERFILE = """FROM scratch
COPY bin /bin
COPY etc /etc
COPY big /big
COPY late /late
CMD ["/bin/busybox", "true"]
"""


def files_below(root):
    """{path: (mode, sha256 or link target)} of a folder."""
    root = pathlib.Path(root)
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            found[str(path.relative_to(root))] = ("link", os.readlink(path))
        elif stat.S_ISREG(status.st_mode):
            found[str(path.relative_to(root))] = (status.st_mode & 0o777, sha256_file(path))
    return found


def files_in_tar(path):
    """The same of an exported tar, without what engines add on their own."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.lstrip("./")
            if member.issym():
                found[name] = ("link", member.linkname)
            elif member.isreg():
                found[name] = (member.mode & 0o777, hashlib.sha256(archive.extractfile(member).read()).hexdigest())
    return found


def sha256_file(path):
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()


class Tool:
    """Runs one client. `formats` are the kinds of manifests it can push."""

    name = ""
    needs = ()
    formats = ("v2s2", "oci")

    def __init__(self, folder):
        self.folder = pathlib.Path(folder) / self.name
        self.folder.mkdir(parents=True)
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder), "LANG": "C.UTF-8",
                            "DOCKER_CONFIG": str(self.folder), "TMPDIR": str(self.folder),
                            "CONTAINERS_CONF": str(self.folder / "containers.conf")}
        (self.folder / "config.json").write_text("{}")
        (self.folder / "containers.conf").write_text(
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n')

    @classmethod
    def missing(cls):
        """The commands that are not installed."""
        return [command for command in cls.needs if not shutil.which(command, path="/usr/sbin:/usr/bin:/sbin:/bin")]

    def run(self, *command, check=True, timeout_s=180):
        done = subprocess.run([str(word) for word in command], env=self.environment, capture_output=True, text=True,
                              timeout=timeout_s, check=False)
        if check:
            assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
        return done

    def close(self):
        """Undoes the mounts that storage drivers leave."""
        for mount in pathlib.Path("/proc/mounts").read_text().splitlines():
            if str(self.folder) in mount:
                subprocess.run(["umount", "-l", mount.split()[1]], check=False)


class Skopeo(Tool):
    """Builds with umoci; keeps images as OCI layouts."""

    name = "skopeo"
    needs = ("skopeo", "umoci")

    def copy(self, *arguments, **options):
        return self.run("skopeo", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", *arguments,
                        **options)

    def build(self, context, tag):
        layout = self.folder / "built"
        if not layout.exists():
            self.run("umoci", "init", "--layout", layout)
        image = f"{layout}:{tag}"
        self.run("umoci", "new", "--image", image)
        for name in ("bin", "etc", "big", "late"):
            self.run("umoci", "insert", "--image", image, context / name, f"/{name}")

    def push(self, tag, reference, form, **options):
        return self.copy("--format", form, f"oci:{self.folder}/built:{tag}", f"docker://{reference}", **options)

    def wipe(self):
        for name in ("pulled", "bundle"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def pull(self, reference):
        """Gives the digest of the manifest as the client knows it."""
        self.copy("--preserve-digests", f"docker://{reference}", f"dir:{self.folder}/pulled")
        return "sha256:" + sha256_file(self.folder / "pulled" / "manifest.json")

    def files(self, reference):
        self.copy(f"docker://{reference}", f"oci:{self.folder}/unpack:x")
        self.run("umoci", "unpack", "--image", f"{self.folder}/unpack:x", self.folder / "bundle")
        shutil.rmtree(self.folder / "unpack")
        return files_below(self.folder / "bundle" / "rootfs")


class Podman(Tool):
    name = "podman"
    needs = ("podman",)

    def podman(self, *arguments, **options):
        return self.run(self.name, "--root", self.folder / "root", "--runroot", self.folder / "run",
                        "--storage-driver", "overlay", *arguments, **options)

    def build(self, context, tag):
        self.podman("build", "--quiet", "--format", "oci", "-t", f"localhost/{tag}", context)

    def push(self, tag, reference, form, **options):
        return self.podman("push", "--quiet", "--tls-verify=false", "--format", form, f"localhost/{tag}",
                           f"docker://{reference}", **options)

    def wipe(self):
        self.podman("image", "umount", "--all", "--force", check=False)
        self.podman("rmi", "--all", "--force")

    def pull(self, reference):
        self.podman("pull", "--quiet", "--tls-verify=false", f"docker://{reference}")
        return json.loads(self.podman("image", "inspect", reference).stdout)[0]["Digest"]

    def files(self, reference):
        path = self.podman("image", "mount", reference).stdout.strip()
        found = files_below(path)
        self.podman("image", "umount", reference)
        return found


class Buildah(Podman):
    name = "buildah"
    needs = ("buildah",)

    def build(self, context, tag):
        self.podman("bud", "--quiet", "--layers", "--isolation", "chroot", "--format", "oci",
                    "-t", f"localhost/{tag}", context)

    def wipe(self):
        self.podman("rm", "--all")
        self.podman("rmi", "--all", "--force")

    def pull(self, reference):
        self.podman("pull", "--quiet", "--tls-verify=false", f"docker://{reference}")
        return json.loads(self.podman("images", "--json", reference).stdout)[0]["digest"]

    def files(self, reference):
        container = self.podman("from", "--pull-never", reference).stdout.strip()
        found = files_below(self.podman("mount", container).stdout.strip())
        self.podman("rm", container)
        return found


class Docker(Tool):
    """A dockerd of its own, without bridge and iptables."""

    name = "docker"
    needs = ("docker", "dockerd", "containerd", "runc")
    formats = ("v2s2",)

    def __init__(self, folder):
        super().__init__(folder)
        self.environment.update({"DOCKER_HOST": f"unix://{self.folder}/sock", "DOCKER_BUILDKIT": "0"})
        (self.folder / "daemon.json").write_text("{}")
        command = ["dockerd", f"--config-file={self.folder}/daemon.json", f"--data-root={self.folder}/data",
                   f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid",
                   f"--host=unix://{self.folder}/sock", "--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false",
                   "--ip-masq=false", "--storage-driver=overlay2", "--insecure-registry=127.0.0.0/8",
                   "--exec-opt", "native.cgroupdriver=cgroupfs"]
        with open(self.folder / "log", "wb") as log:
            self.daemon = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log,
                                           start_new_session=True)
        ready = lambda: self.docker("version", check=False).returncode == 0
        assert http1.wait_until(ready, 30, 0.2), (self.folder / "log").read_text()[-4000:]

    def docker(self, *arguments, **options):
        return self.run("docker", *arguments, **options)

    def build(self, context, tag):
        self.docker("build", "--quiet", "--network", "none", "-t", f"built/{tag}", context)

    def push(self, tag, reference, form, **options):
        assert form == "v2s2"
        self.docker("tag", f"built/{tag}", reference)
        return self.docker("push", reference, **options)

    def wipe(self):
        self.docker("system", "prune", "--all", "--force")

    def pull(self, reference):
        self.docker("pull", reference)
        found = json.loads(self.docker("image", "inspect", reference).stdout)[0]["RepoDigests"]
        return [each for each in found if each.startswith(reference.rsplit(":", 1)[0])][0].split("@")[1]

    def files(self, reference):
        container = self.docker("create", reference, "/bin/busybox").stdout.strip()
        self.docker("export", "-o", self.folder / "export.tar", container)
        self.docker("rm", container)
        return files_in_tar(self.folder / "export.tar")

    def close(self):
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(30)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        super().close()


TOOLS = {tool.name: tool for tool in (Skopeo, Podman, Buildah, Docker)}
