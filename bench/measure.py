# SPDX-License-Identifier: Apache-2.0
"""What is measured, and what is made of it: processor time, memory, medians, ratios with their intervals."""

import json
import os
import pathlib
import random
import statistics
import subprocess
import time

QUICK = bool(os.environ.get("BENCH_QUICK"))  # whether each row works at all, not what it says
RUNS = 1 if QUICK else 5
RESAMPLES = 4000
LOAD_TIMEOUT_S = 120


class BenchError(Exception):
    """The benchmark cannot go on; the message says why."""


# ---------------------------------------------------------------- processes

def tree(pid):
    """A process and its descendants."""
    found = [pid]
    for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [below for child in children.read_text().split() for below in tree(int(child))]
        except OSError:
            pass
    return found


def cpu_seconds(pids):
    """Processor time (user and system) of whole processes, in nanosecond steps: all threads, also those of io_uring's
    worker pool, also those that have ended. The clock's number is that of clock_getcpuclockid(3)."""
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def pss_bytes(pids):
    """Proportional set size: private memory and a fair share of shared memory."""
    total_kib = 0
    for pid in pids:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total_kib += int(line.split()[1])
    return total_kib * 1024


def load(tool, server, mode, connections, *options):
    """Runs the load generator against a server. Adds the server's processor time to its result."""
    pids = server.pids()
    before = cpu_seconds(pids)
    result = run_client([tool, mode, server.port, connections, *options], server.name)
    result["cpu_s"] = cpu_seconds(pids) - before
    return figures(result)


def run_client(command, name):
    """Runs a client to its end; returns the JSON that it prints."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=LOAD_TIMEOUT_S)
    if done.returncode:
        raise BenchError(f"{name}: {done.stderr.strip()[:500]}")
    return json.loads(done.stdout)


def memory_held(command, server, count):
    """What a client that says "ready" and waits costs its server, for each of its connections: (PSS grown, PSS in all)."""
    before = server.pss_bytes()
    holder = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if holder.stdout.readline() != "ready\n":
            raise BenchError(f"{server.name}: the connections did not open")
        after = server.pss_bytes()
    finally:
        holder.communicate(timeout=60)
    return {"grown": (after - before) / count, "all": after / count}


def figures(result):
    """The figures that rows are made of. GB is 10^9 bytes."""
    gigabytes, seconds = result["bytes"] / 1e9, result["seconds"]
    requests = result.get("requests", 0)
    result["gb_per_s"] = gigabytes / seconds
    result["requests_per_s"] = requests / seconds
    result["cpu_s_per_gb"] = result["cpu_s"] / gigabytes
    if requests:
        result["cpu_s_per_100k"] = result["cpu_s"] / requests * 1e5
    return result


# ---------------------------------------------------------------- rounds and rows

def interleave(trials, runs=RUNS):
    """trials: {name: function that makes one run and returns its figures}. One run of each that is not counted, then
    `runs` rounds, every other one in reverse order, so that what drifts on the machine hits all alike."""
    names = list(trials)
    results = {name: [] for name in names}
    for name in names if not QUICK else ():
        trials[name]()
    for number in range(runs):
        for name in names if number % 2 == 0 else reversed(names):
            results[name].append(trials[name]())
    return results


def interval(values, peer_values, ratio, statistic=statistics.median):
    """95 % interval of the ratio of medians (or another statistic), by resampling whole rounds."""
    generator = random.Random(1)
    rounds, peer_rounds = range(len(values)), range(len(peer_values))
    found = []
    for _ in range(RESAMPLES):
        chosen = generator.choices(rounds, k=len(values))
        peer_chosen = chosen if rounds == peer_rounds else generator.choices(peer_rounds, k=len(peer_values))
        found.append(ratio(statistic([values[i] for i in chosen]), statistic([peer_values[i] for i in peer_chosen])))
    found.sort()
    return found[int(0.025 * RESAMPLES)], found[int(0.975 * RESAMPLES) - 1]


def row(name, unit, key, results, subject, peer, less_is_better=False, at_least=None, aim=None):
    """One row of a result. The ratio is above 1 where the subject is better than the peer."""
    values = [r[key] for r in results[subject]]
    peer_values = [r[key] for r in results[peer]]

    def ratio(value, peer_value):
        better, worse = (peer_value, value) if less_is_better else (value, peer_value)
        return better / worse if worse else 0.0

    value, peer_value = statistics.median(values), statistics.median(peer_values)
    low, high = interval(values, peer_values, ratio)
    return {
        "name": name, "value": value, "unit": unit, "min": min(values), "max": max(values), "runs": len(values),
        "peer": peer, "peer_value": peer_value, "ratio": ratio(value, peer_value),
        "ratio_low": low, "ratio_high": high, "peer_min": min(peer_values), "peer_max": max(peer_values),
        "subject": subject, "at_least": at_least, "aim": aim,
    }


def machine():
    """One line about where the figures come from."""
    model = "unknown processor"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory_kib = int(pathlib.Path("/proc/meminfo").read_text().split()[1])
    return f"{model}, {os.cpu_count()} processors, {memory_kib / 2 ** 20:.1f} GiB, Linux {os.uname().release}"
