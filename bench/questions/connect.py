# SPDX-License-Identifier: Apache-2.0
"""What choosing a backend adds to a connect(): by steer, and by DNAT of nftables with one map of all services."""

import json
import os
import pathlib
import subprocess

import measure

TITLE = "time that a service's address adds to connect(), over loopback, by number of services"
SERVICES = (1, 100, 4000)
SAMPLES = 20000
ROUNDS = 11
AIM_NS = 1000


def trial(build, mode, services):
    def run():
        command = [build / "bench/connect", build / "bpf", mode, services, SAMPLES]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise measure.BenchError(f"connect {mode}: {done.stderr.strip()[:300]}")
        return json.loads(done.stdout)
    return run


def added(results, name):
    """What each round of it took more than the same round without anything. Not less than a nanosecond: noise has no sign."""
    return [{"ns": max(1, one["ns"] - bare["ns"]), "p99_ns": max(1, one["p99_ns"] - bare["p99_ns"])}
            for one, bare in zip(results[name], results["none"])]


def run(bench):
    if os.geteuid() != 0:
        raise measure.BenchError("programs for the kernel, namespaces and nftables need root")
    build = pathlib.Path(bench.load_tool).parents[1]
    trials = {"none": trial(build, "none", 1)}
    for services in SERVICES:
        for mode in ("steer", "watch", "nftables"):
            trials[f"{mode} {services}"] = trial(build, mode, services)
    results = measure.interleave(trials, ROUNDS)
    rows = []
    for services in SERVICES:
        both = {"fairlead": added(results, f"steer {services}"), "nftables": added(results, f"nftables {services}"),
                "aim": [{"ns": AIM_NS, "p99_ns": AIM_NS}] * ROUNDS,
                "with watch": added(results, f"watch {services}")}
        of = f"{services} service{'s' if services > 1 else ''}"
        rows += [measure.row(f"added, {of}, median", "ns", "ns", both, "fairlead", "nftables", True, 1.0),
                 measure.row(f"added, {of}, median", "ns", "ns", both, "fairlead", "with watch", True),
                 measure.row(f"added, {of}, median, against the aim", "ns", "ns", both, "fairlead", "aim", True, 1.0)]
    ends = {"fairlead": added(results, f"steer {SERVICES[-1]}"), "1 service": added(results, "steer 1")}
    rows.append(measure.row(f"added, {SERVICES[-1]} services against one", "ns", "ns", ends, "fairlead", "1 service", True))
    whole = {"fairlead": results["steer 100"], "without": results["none"], "nftables": results["nftables 100"]}
    rows += [measure.row("connect(), 100 services, whole", "ns", "ns", whole, "fairlead", peer, True)
             for peer in ("without", "nftables")]
    return rows
