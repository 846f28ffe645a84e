#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Boots Debian's Linux 6.1 with this build in a virtual machine, twice, and counts what checks.sh says in there.

The machine has no network but its own loopback, one disk with ext4 on it, and no help from the processor (no KVM):
what it shows is function, never speed. Between the two boots it is cut off like by a power failure.

The kernel comes from apt and is kept in BUILD/vm until apt has a newer one of its series; beside it the console of each
boot. Appends "vm passed failed 0" to the file FAIRLEAD_RESULTS, if that is set.
"""

import argparse
import os
import pathlib
import platform
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
SERIES = "6.1.0"
MODULES = ("virtio_pci", "virtio_blk", "ext4", "veth", "sch_ingress", "sch_tbf", "cls_bpf", "tls", "gcm",
           "ctr", "ghash-generic")
# Where these modules and what they need are in the package; the rest is not unpacked.
MODULE_FOLDERS = ("drivers/virtio", "drivers/block", "fs", "lib", "crypto", "arch/x86/crypto", "drivers/net/veth.ko", "net/sched", "net/tls")
DISK_BYTES = 2 << 30
BIG_BYTES = 200 << 20
MEMORY_MIB = 1536
ACKNOWLEDGED_BEFORE_CUT = 6
ALARM = re.compile(r"BUG:|WARNING:|Oops|Kernel panic|general protection|Call Trace|blocked for more than|EXT4-fs error")


class Trouble(Exception):
    """The checks could not be made."""


def run(command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", **options)
    if done.returncode != 0:
        raise Trouble(f"{' '.join(map(str, command))}: {done.stdout.strip()[-500:]}")
    return done.stdout


# ---------------------------------------------------------------- the kernel

def kernel_packages():
    """Names of this series that apt knows, newest first."""
    names = run(["apt-cache", "pkgnames", f"linux-image-{SERIES}-"]).split()
    found = [(int(match[1]), match[0]) for match in
             (re.fullmatch(rf"linux-image-{re.escape(SERIES)}-(\d+)-amd64", name) for name in names) if match]
    return [name for _, name in sorted(found, reverse=True)]


def download(name, folder):
    """The package as a file. apt's lists may be older than its mirror, or name what it no longer has."""
    run(["apt-get", "download", "-qq", name], cwd=folder)
    return next(folder.glob(f"{name}_*.deb"))


def unpack(package, folder):
    release = package.name.split("_")[0].removeprefix("linux-image-")
    wanted = [f"./boot/vmlinuz-{release}"]
    wanted += [f"./lib/modules/{release}/kernel/{path}" for path in MODULE_FOLDERS]
    command = f"dpkg-deb --fsys-tarfile '{package}' | tar -x -C '{folder}' {' '.join(wanted)}"
    run(["bash", "-o", "pipefail", "-c", command])
    run(["depmod", "-b", folder, release])


def is_whole(kernel):
    """Whether a kernel of the cache has all that is unpacked now."""
    modules = kernel / "lib/modules" / kernel.name.removeprefix("linux-image-") / "kernel"
    return all((modules / path).exists() for path in MODULE_FOLDERS)


def fetch_kernel(work):
    """A folder with boot/vmlinuz-RELEASE and the modules, from the cache or from apt."""
    names = kernel_packages()
    kept = [work / name for name in names if is_whole(work / name)]
    if kept and kept[0].name == names[0]:
        return kept[0]
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        os.chmod(temporary, 0o755)
        package = download_newest(names, pathlib.Path(temporary))
        if package is None and kept:
            return kept[0]
        if package is None:
            raise Trouble(f"apt has no linux-image-{SERIES}-*-amd64; is its list of packages up to date?")
        for old in work.glob(f"linux-image-{SERIES}-*"):
            shutil.rmtree(old)
        fresh = pathlib.Path(temporary) / "kernel"
        fresh.mkdir()
        unpack(package, fresh)
        kernel = work / package.name.split("_")[0]
        fresh.rename(kernel)
    return kernel


def download_newest(names, folder):
    for name in names[:2]:
        try:
            return download(name, folder)
        except Trouble as trouble:
            print(f"  {trouble}")
    if os.geteuid() != 0:
        return None
    run(["apt-get", "update", "-qq"])
    for name in kernel_packages()[:1]:
        return download(name, folder)
    return None


def module_paths(kernel, release):
    """In the order in which they can be loaded."""
    found = []
    for module in MODULES:
        lines = run(["modprobe", "-d", kernel, "-S", release, "--show-depends", module]).splitlines()
        found += [line.split()[1] for line in lines if line.startswith("insmod")]
    return [pathlib.Path(path) for path in dict.fromkeys(found)]


# ---------------------------------------------------------------- what the machine holds

def libraries(program):
    """What it is linked with; nothing if it is static."""
    lines = subprocess.run(["ldd", program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True, check=False).stdout.splitlines()
    return [found[0] for found in (re.search(r"/\S+", line) for line in lines) if found]


def copy(root, source, target, strip=False):
    path = root / target.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if strip:
        run(["strip", "-o", path, source])
    else:
        shutil.copy(os.path.realpath(source), path)
    path.chmod(0o755)


def make_certificate(folder):
    """For 127.0.0.1, signed by itself; its key is root's alone."""
    folder.mkdir(parents=True)
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
         "/CN=vm", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "vm.key", "-out", folder / "vm.pem"])
    (folder / "vm.key").chmod(0o600)


def fill_root(root, build, units, kernel, release):
    for folder in ("bin", "proc", "sys", "dev", "tmp", "etc", "disk", "usr/bin"):
        (root / folder).mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nfairlead:x:997:997::/nonexistent:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nfairlead:x:997:\n")
    for name in ("init", "checks.sh", "kernel.sh"):
        copy(root, HERE / name, f"vm/{name}")
    (root / "init").symlink_to("vm/init")
    # Busybox has cmp and its like too, but they go byte by byte, and its shell prefers them.
    programs = {shutil.which(name): f"vm/bin/{name}" for name in ("curl", "cmp", "sha256sum", "head", "tail", "ip", "openssl")}
    programs |= {shutil.which("dash"): "bin/dash", shutil.which("busybox"): "bin/busybox"}
    programs |= {build / f"tools/{name}": f"vm/bin/{name}" for name in ("no_uring", "pong")}
    programs |= {build / name: f"vm/bin/{name}" for name in ("fairleadd", "fairlead-dataplane", "fairlead-mirror", "fairlead")}
    programs |= {path: f"vm/unit/{path.name}" for path in units}
    for source, target in programs.items():
        copy(root, source, target, strip=build in pathlib.Path(source).parents)
    for library in {path for source in programs for path in libraries(source)}:
        copy(root, library, library)
    make_certificate(root / "vm/tls")
    modules = module_paths(kernel, release)
    for path in modules:
        copy(root, path, f"vm/modules/{path.name}")
    (root / "vm/modules.list").write_text("".join(f"/vm/modules/{path.name}\n" for path in modules))


def archive(root, target):
    """What the kernel unpacks as its first file system; everything is root's, whoever makes it."""
    with open(target, "wb") as out:
        subprocess.run(["bash", "-o", "pipefail", "-c", "find . | cpio -o -H newc -R 0:0 --quiet"],
                       cwd=root, stdin=subprocess.DEVNULL, stdout=out, check=True)


def make_disk(path, folder):
    """ext4, with the large blob in it: made here, as the machine would take long for that."""
    content = folder / "disk"
    content.mkdir()
    with open(content / "big", "wb") as big:
        chooser = random.Random("big")
        for _ in range(BIG_BYTES >> 20):
            big.write(chooser.randbytes(1 << 20))
    digest = run(["sha256sum", content / "big"]).split()[0]
    (content / "big.digest").write_text(f"sha256:{digest}\n")
    path.unlink(missing_ok=True)
    with open(path, "wb") as disk:
        disk.truncate(DISK_BYTES)
    run(["mkfs.ext4", "-q", "-F", "-d", content, path])


# ---------------------------------------------------------------- the machine

class Machine:
    """A plain processor: without vector instructions, whose emulation takes longer than what they save."""

    def __init__(self, kernel, release, initrd, disk, console, stage):
        self.console = console
        self.lines = queue.Queue()
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand", "-smp", "2", "-m", str(MEMORY_MIB),
             "-nodefaults", "-display", "none", "-no-reboot", "-nic", "none",
             "-serial", f"file:{console}", "-serial", "stdio",
             "-drive", f"file={disk},if=virtio,format=raw,cache=unsafe",
             "-kernel", str(kernel / f"boot/vmlinuz-{release}"), "-initrd", str(initrd),
             "-append", f"console=ttyS0 quiet panic=-1 mitigations=off fairlead.stage={stage}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    def next_line(self, deadline):
        """None when the machine is off; Trouble when it is too late."""
        try:
            return self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise Trouble(f"time is up; the console's end:\n{self.console_end()}") from None

    def console_end(self):
        return self.console.read_text(errors="replace")[-3000:] if self.console.exists() else ""

    def cut(self):
        self.process.kill()
        self.process.wait()


class Count:
    def __init__(self):
        self.passed = self.failed = 0
        self.last = time.monotonic()

    def say(self, line):
        """A check's line, shown with the time since the one before."""
        self.passed += line.startswith("ok ")
        self.failed += line.startswith("not ok ")
        now = time.monotonic()
        print(f"  {now - self.last:5.1f} s  {line}", flush=True)
        self.last = now

    def result(self, good, name, why=""):
        self.say(f"ok {name}" if good else f"not ok {name}: {why}")


def follow(machine, count, deadline):
    """Counts until the machine says its own count, which has to be the same."""
    passed, failed = count.passed, count.failed
    while True:
        line = machine.next_line(deadline)
        if line is None:
            raise Trouble(f"the machine stopped before its end; the console's end:\n{machine.console_end()}")
        if line.startswith(("ok ", "not ok ")):
            count.say(line)
        elif line.startswith("end "):
            break
        elif line:
            print(f"  # {line}")
    passed, failed = count.passed - passed, count.failed - failed
    if line != f"end {passed} {failed}" or not passed:
        raise Trouble(f"the machine says `{line}`, but {passed} passed and {failed} failed")


def cut_while_it_pushes(machine, deadline):
    """Ends the machine at a moment of no choice; returns what it said to be acknowledged."""
    lines = []
    while len(lines) < ACKNOWLEDGED_BEFORE_CUT:
        line = machine.next_line(deadline)
        if line is None:
            raise Trouble("the machine stopped while it pushed")
        if line.startswith("acknowledged "):
            lines.append(line)
    time.sleep(random.uniform(0.0, 1.0))
    machine.cut()
    while (line := machine.next_line(deadline)) is not None:
        if re.fullmatch(r"acknowledged \d+ sha256:[0-9a-f]{64}", line):
            lines.append(line)
    return lines


def initrd_with(base, lines, folder):
    """The kernel takes several archives, one behind the other."""
    more = folder / "more"
    (more / "vm").mkdir(parents=True)
    (more / "vm/acknowledged").write_text("".join(f"{line}\n" for line in lines))
    archive(more, folder / "more.cpio")
    whole = folder / "second.cpio"
    whole.write_bytes(base.read_bytes() + (folder / "more.cpio").read_bytes())
    return whole


def kernel_was_quiet(count, console, name):
    found = ALARM.search(console.read_text(errors="replace"))
    count.result(not found, name, f"`{found and found[0]}` in {console}")


def check_all(build, units, work, count, deadline):
    kernel = fetch_kernel(work)
    release = kernel.name.removeprefix("linux-image-")
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        folder = pathlib.Path(temporary)
        (folder / "root").mkdir()
        fill_root(folder / "root", build, units, kernel, release)
        archive(folder / "root", folder / "first.cpio")
        make_disk(folder / "disk.img", folder)
        print(f"  kernel {release}; {time.monotonic() - count.last:.1f} s to make the machine", flush=True)
        consoles = work / "console.first", work / "console.after"
        for console in consoles:
            console.unlink(missing_ok=True)
        machine = Machine(kernel, release, folder / "first.cpio", folder / "disk.img", consoles[0], "first")
        try:
            follow(machine, count, deadline)
            acknowledged = cut_while_it_pushes(machine, deadline)
        finally:
            machine.cut()
        kernel_was_quiet(count, consoles[0], "first boot: the kernel had nothing to say")
        print(f"  cut off after {len(acknowledged)} acknowledged images", flush=True)
        initrd = initrd_with(folder / "first.cpio", acknowledged, folder)
        machine = Machine(kernel, release, initrd, folder / "disk.img", consoles[1], "after")
        try:
            follow(machine, count, deadline)
        finally:
            machine.cut()
        kernel_was_quiet(count, consoles[1], "second boot: the kernel had nothing to say")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default="build", help="the folder with the programs")
    parser.add_argument("--seconds", type=float, default=850, help="for all of it")
    parser.add_argument("units", nargs="*", type=pathlib.Path, help="programs of unit tests to run in there")
    args = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    os.environ["LC_ALL"] = "C"
    os.umask(0o022)
    started, count = time.monotonic(), Count()
    work = args.build.resolve() / "vm"
    work.mkdir(parents=True, exist_ok=True)
    try:
        if platform.machine() != "x86_64":
            raise Trouble(f"it is made for x86_64, this is {platform.machine()}")
        check_all(args.build.resolve(), [path.resolve() for path in args.units], work, count, started + args.seconds)
    except (Trouble, OSError, subprocess.CalledProcessError) as trouble:
        count.result(False, "the tier itself", trouble)
    print(f"vm: {count.passed} passed, {count.failed} failed ({time.monotonic() - started:.1f} s)", flush=True)
    if os.environ.get("FAIRLEAD_RESULTS"):
        with open(os.environ["FAIRLEAD_RESULTS"], "a", encoding="ascii") as results:
            results.write(f"vm {count.passed} {count.failed} 0\n")
    return 1 if count.failed else 0


if __name__ == "__main__":
    sys.exit(main())
