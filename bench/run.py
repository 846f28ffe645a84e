#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Asks the questions of bench/questions, one after another: `make bench`, `make bench Q=name`.

Each prints its rows and leaves BUILD/bench/NAME.json and NAME.svg. BENCH_SUBJECT=docker-registry puts another registry in
Fairlead's place (to try out the benchmark itself).
"""

import argparse
import importlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

import measure
import plot
import relays
import servers

NAMES = ("pull256", "pull1m", "manifest", "push", "idle", "coldhot", "failover", "connect", "edge", "relay", "gc", "cluster",
         "scale", "many", "readcheck")
SUBJECTS = {cls.name: cls for cls in (servers.Fairlead, servers.DockerRegistry)}
RELAYS = {"fairlead": relays.Fairlead, "haproxy": relays.HaproxyAsSubject}


class Bench:
    """What a question works with: the subject, the tools, a folder for data that is removed at the end."""

    def __init__(self, build, folder):
        self.subject = SUBJECTS.get(os.environ.get("BENCH_SUBJECT", "fairlead"), servers.Fairlead)
        self.relay = RELAYS.get(os.environ.get("BENCH_SUBJECT", "fairlead"), relays.Fairlead)
        self.folder = pathlib.Path(folder)
        self.build = build
        self.load_tool = build / "bench/load"
        self.bare_tool = build / "bench/bare"
        self.visit_tool = build / "bench/visit"
        self.number = 0
        for cls in (servers.Fairlead, servers.Bare, relays.Fairlead, relays.Origin, relays.BareRelay):
            cls.build = build

    def server(self, cls, **options):
        """A server that is started by `with`."""
        self.number += 1
        return cls(self.folder / f"{self.number}-{cls.__name__.lower()}", **options)

    def load(self, server, mode, connections, *options):
        return measure.load(self.load_tool, server, mode, connections, *options)

    def make_file(self, name, size, seed=0):
        """Returns (path, digest) of a file with pseudo-random bytes."""
        path = self.folder / name
        return path, servers.make_file(path, size, (name, seed))


def verdict(r):
    """Whether the interval of the ratio is on the right side of what is wanted."""
    if r["at_least"] is None:
        return ""
    wanted = f"{r['at_least']:.3g}x" + (f", aim {r['aim']:.3g}x" if r["aim"] else "")
    if r["aim"] and r["ratio_low"] >= r["aim"]:
        return f"aim met ({wanted})"
    if r["ratio_low"] >= r["at_least"]:
        return f"met ({wanted})"
    return ("open" if r["ratio_high"] >= r["at_least"] else "MISSED") + f" ({wanted})"


def show(result):
    print(f"\n{result['question']}: {result['title']}")
    print(f"  {'':76} {'value':>10} {'peer':>10}  {'ratio':>6} {'95 %':>14}")
    for r in result["rows"]:
        name = f"{r['name']}, {r['unit']}, {r['peer']}"
        print(f"  {name:76} {plot.figure(r['value']):>10} {plot.figure(r['peer_value']):>10}  {r['ratio']:6.2f} "
              f"{r['ratio_low']:6.2f} -{r['ratio_high']:6.2f}  {verdict(r)}", flush=True)


def ask(name, build):
    """One question; returns its result."""
    question = importlib.import_module(f"questions.{name}")
    started = time.monotonic()
    folder = tempfile.mkdtemp(prefix=f"{name}-", dir=build / "bench")
    os.chmod(folder, 0o755)  # the servers' own users pass through
    try:
        rows = question.run(Bench(build, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result = {"question": name, "title": question.TITLE, "machine": measure.machine(), "rows": rows,
              "seconds": round(time.monotonic() - started, 1)}
    (build / f"bench/{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (build / f"bench/{name}.svg").write_text(getattr(question, "draw", plot.draw)(result))
    show(result)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("names", nargs="*", metavar="QUESTION", help=" ".join(NAMES))
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown question {unknown[0]}; there are: {' '.join(NAMES)}")
    busy = os.getloadavg()[0]
    if busy > 1:
        print(f"the machine is busy (load average {busy:.1f}): the figures will be worth less", file=sys.stderr)
    print(measure.machine())
    failed = 0
    for name in args.names or NAMES:
        try:
            ask(name, args.build.resolve())
        except (measure.BenchError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
