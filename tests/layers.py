#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The rules of the rooms (ARCHITECTURE.md): who may include, call and assign what. Prints every breach, exits 1 if any."""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILE_LINES_MAX = 600

# Folder: what its quoted includes may begin with (besides its own files).
ROOMS = {
    "include/": (),
    "bpf/": ("abi.h", "vmlinux.h"),
    "dataplane/http/": (),
    "dataplane/store/": ("dataplane/waiter.h", "dataplane/arena.h", "dataplane/hash.h", "dataplane/loop.h", "dataplane/pool.h",
                         "dataplane/timer.h", "dataplane/http/view.h"),
    "dataplane/": ("dataplane/",),
    "control/state/": ("control/state/", "control/settings.h"),
    "control/compile/": ("control/compile/", "control/state/service.h", "control/state/node.h", "control/state/stores.h", "control/settings.h", "control/config.h"),
    "control/cli/": ("control/cli/", "control/settings.h"),
    "control/mirror/": ("control/mirror/", "control/challenge.h"),
    "control/": ("control/",),
}

# Header: the files that alone may include it, and why.
RESERVED = {
    "liburing.h": (("dataplane/loop.c",), "the loop is the only user of io_uring"),
    "uv.h": (("control/",), "libuv is control's loop"),
    "curl/curl.h": (("control/webhook.c", "control/cli/http.c", "control/mirror/"), "HTTP as a client, outside the data plane"),
    "raft.h": (("control/raft/",), "only the adapter knows the Raft library"),
    "seccomp.h": (("dataplane/sandbox.c",), "the sandbox is in one file"),
    "yaml.h": (("control/config",), "only the configuration's reader knows YAML"),
}

# Bytes in, values out: no sockets, no files, no clock.
PURE = ("dataplane/http/", "control/state/", "control/compile/")
IMPURE_HEADERS = re.compile(r"^(sys/(socket|stat|mman|epoll|time|uio|un|file)\.h|netinet/tcp\.h|fcntl\.h|unistd\.h|"
                            r"dirent\.h|poll\.h|stdio_ext\.h|uv\.h|liburing\.h|pthread\.h)$")
IMPURE_CALLS = re.compile(r"\b(socket|bind|connect|open|openat|fopen|read|write|pread|pwrite|recv|send|clock_gettime|"
                          r"gettimeofday|time|getenv|getrandom|rand|random|usleep|nanosleep)\s*\(")

# The data plane's memory is fixed at start: allocated in functions whose name says that they make something
# long-lived, in pool.c, and in main.c (whose thread is no ring); everything else takes from pools and arenas.
MAKERS = re.compile(r"\w+_(new|file_open)")
ALLOCATIONS = re.compile(r"\b(malloc|calloc|realloc|reallocarray|strdup|strndup|aligned_alloc|asprintf)\s*\(")

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.M)
FUNCTION = re.compile(r"^[A-Za-z_][^;{}()]*\b(\w+)\([^;{}]*\)\s*\n\{\n(.*?)^\}", re.M | re.S)
STATE_WRITE = re.compile(r"->state\s*=[^=]")


def blank(match):
    """Keeps the line numbers."""
    return re.sub(r"[^\n]", " ", match[0])


def without_comments(text):
    """Comments and the contents of literals are blanked, but not the names of included files."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.S)
    return "\n".join(line if line.lstrip().startswith("#") else re.sub(r'"(\\.|[^"\\])*"', blank, line)
                     for line in text.split("\n"))


class Source:
    def __init__(self, path):
        self.path = path
        self.text = (ROOT / path).read_text(encoding="utf-8")
        self.code = without_comments(self.text)

    def matches(self, pattern):
        for match in pattern.finditer(self.code):
            yield self.code.count("\n", 0, match.start()) + 1, match


def own_file(source, name):
    """A file of the same folder, or of include/, which everybody may use."""
    folder = pathlib.Path(source.path).parent
    return (ROOT / "include" / name).exists() or (ROOT / folder / name).exists() or pathlib.Path(name).parent in (
        folder, pathlib.Path("include"))


def check_rooms(source):
    room = next((r for r in ROOMS if source.path.startswith(r)), None)
    for line, match in source.matches(INCLUDE):
        name = match[2]
        if match[1] == '"' and room and not own_file(source, name) and not name.startswith(
                ROOMS[room]) and not name.endswith(".skel.h"):
            yield line, f"{room} must not include {name}"
        if match[1] == '"' and room == "bpf/" and name != "abi.h" and "/" not in name and (ROOT / "include" / name).exists():
            yield line, f"bpf/ takes only abi.h from include/, not {name}"
        owners, why = RESERVED.get(name, ((), ""))
        if owners and not source.path.startswith(owners) and not source.path.startswith(("tests/", "bench/")):
            yield line, f"<{name}> belongs to {' '.join(owners)}: {why}"
        if name.endswith(".skel.h") and source.path != "control/bpf_load.c" and not source.path.startswith(("tests/", "bench/")):
            yield line, f"{name} belongs to control/bpf_load.c"


def check_purity(source):
    if not source.path.startswith(PURE):
        return
    for line, match in source.matches(INCLUDE):
        if IMPURE_HEADERS.match(match[2]):
            yield line, f"a pure room must not include <{match[2]}>"
    for line, match in source.matches(IMPURE_CALLS):
        yield line, f"a pure room must not call {match[1]}()"


def enclosing(source, position):
    """The name of the function around a position of the source's code."""
    return next((m[1] for m in FUNCTION.finditer(source.code) if m.start() <= position < m.end()), "?")


def check_memory(source):
    if not source.path.startswith("dataplane/") or source.path in ("dataplane/pool.c", "dataplane/main.c"):
        return
    for line, match in source.matches(ALLOCATIONS):
        function = enclosing(source, match.start())
        if not MAKERS.fullmatch(function):
            yield line, f"{match[1]}() in {function}(): the data plane allocates at start, in a ..._new(), or from a pool"


def check_state_machines(source):
    """conn and stream each have one writer of their state: <noun>_move(), besides <noun>_init()."""
    if not source.path.startswith(("dataplane/conn", "dataplane/stream")):
        return
    for line, match in source.matches(STATE_WRITE):
        function = enclosing(source, match.start())
        if not re.fullmatch(r"(conn|stream)_(move|init)", function):
            yield line, f"state is assigned in {function}(), not in conn_move() or stream_move()"


def check_form(source):
    if "SPDX-License-Identifier:" not in source.text[:200]:
        yield 1, "no SPDX-License-Identifier line"
    lines = source.text.count("\n")
    if lines > FILE_LINES_MAX and not source.path.startswith("tests/"):
        yield lines, f"more than {FILE_LINES_MAX} lines"


CHECKS = (check_rooms, check_purity, check_memory, check_state_machines, check_form)


def main():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "--", "*.c", "*.h", "*.def", "*.py", "*.sh"],
                            cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    breaches = 0
    for path in sorted(set(listed)):
        if not (ROOT / path).exists():
            continue
        source = Source(path)
        checks = CHECKS if path.endswith((".c", ".h", ".def")) else (check_form,)
        for check in checks:
            for line, what in check(source):
                print(f"{path}:{line}: {what}")
                breaches += 1
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
