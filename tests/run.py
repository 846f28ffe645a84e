#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs tests, bounds their time, counts them.

    run.py [OPTIONS] unit PROGRAM...            cmocka programs, two at a time
    run.py pytest FOLDER [ARGS...]    pytest; two workers for each processor, a test's file stays on one
    run.py fuzz PROGRAM...            libFuzzer targets: the corpus first, then new inputs for a share of --seconds
    run.py one NAME COMMAND...        a command that passes or fails as one
    run.py tier NAME "SECONDS TARGET ARGS"...   several `make TARGET ARGS`, all of them, whatever fails

Each run appends lines "name passed failed skipped" to the file FAIRLEAD_RESULTS, if that is set; a tier sums them up. A
line for each failure goes to the file FAIRLEAD_FAILURES, for whoever sees only the end of the output. A run that hangs is ended with everything it started, and counts as a failure.
"""

import argparse
import concurrent.futures
import ctypes
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PR_SET_CHILD_SUBREAPER = 36
ADDR_NO_RANDOMIZE = 0x0040000
UNIT_SECONDS = 120
libc = ctypes.CDLL(None, use_errno=True)


class Count:
    def __init__(self, passed=0, failed=0, skipped=0):
        self.passed, self.failed, self.skipped = passed, failed, skipped

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self):
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def record(name, count, started):
    """Tells the user and whoever sums up; returns the exit code."""
    print(f"{name}: {count} ({time.monotonic() - started:.1f} s)", flush=True)
    path = os.environ.get("FAIRLEAD_RESULTS")
    if path:
        with open(path, "a", encoding="ascii") as results:
            results.write(f"{name.replace(' ', '_')} {count.passed} {count.failed} {count.skipped}\n")
    return 1 if count.failed else 0


def note_failure(where, what):
    path = os.environ.get("FAIRLEAD_FAILURES")
    if path:
        with open(path, "a", encoding="utf-8") as failures:
            failures.write(f"{where}: {what[:500]}\n")


def descendants(pid):
    found = []
    try:  # it may end meanwhile
        for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in children.read_text().split()]
    except OSError:
        pass
    return found + [below for child in found for below in descendants(child)]


def kill_tree(pid):
    """Ends a process and all that came from it, also what left its session."""
    for victim in [pid] + descendants(pid):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass


def kill_orphans():
    """What a finished run left behind fell to us, as the subreaper."""
    for _ in range(10):
        left = descendants(os.getpid())
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
        if not left:
            return


def environment(san):
    """Sanitizers report and stop at the first finding. Under TSan, addresses are not randomised: it needs its own map."""
    env = dict(os.environ)
    env.setdefault("ASAN_OPTIONS", "abort_on_error=1:detect_leaks=1:detect_stack_use_after_return=1")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")
    env.setdefault("TSAN_OPTIONS", f"halt_on_error=1:second_deadlock_stack=1:history_size=7:suppressions={os.getcwd()}/tests/tsan.supp")
    if "thread" in san:
        libc.personality(ADDR_NO_RANDOMIZE)
    return env


def run_bounded(command, seconds, env=None):
    """Returns (exit code or None for a time-out, output)."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_tree(process.pid)
            process.wait()
            code = None
        out.seek(0)
        return code, out.read().decode(errors="replace")


def describe(code):
    if code is None:
        return "timed out"
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


# ---------------------------------------------------------------- unit

FAILED_UNIT = re.compile(r"^\[  FAILED  \] \w+$|^.*: error: .*$|^SUMMARY: .*$|^.*(?:CHECK\(|impossible: ).*$", re.M)


def run_unit(program, env):
    code, output = run_bounded([program], UNIT_SECONDS, env)
    passed = len(re.findall(r"^\[       OK \]", output, re.M))
    skipped = len(re.findall(r"^\[  SKIPPED \] \w+$", output, re.M)) // 2
    listed = re.findall(r"^\[  FAILED  \] (\d+) test\(s\)", output, re.M)
    failed = sum(int(n) for n in listed)
    if (code != 0 or not (passed or skipped)) and not failed:
        failed = 1
    return program, code, output, Count(passed, failed, skipped)


def unit(args):
    started, total = time.monotonic(), Count()
    env = environment(args.san)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for program, code, output, count in pool.map(lambda p: run_unit(p, env), args.what):
            total.add(count)
            if count.failed:
                print(output)
                note_failure(f"unit {args.san} {os.path.basename(program)}", describe(code) + " " + " ".join(FAILED_UNIT.findall(output)))
            print(f"  {os.path.basename(program)}: {count}" + (f" ({describe(code)})" if code else ""), flush=True)
    if not args.what:
        total.failed = 1
        print("  there are no unit tests")
    return record(f"unit {args.san}".strip(), total, started)


# ---------------------------------------------------------------- pytest

# Verbose lines, with and without xdist; the summary at the end has no percentage.
PROGRESS = re.compile(r"(?:^\[gw\d+\] \[ *\d+%\] (?P<xdist>\w+) (?P<xdist_id>.*\S))"
                      r"|(?:^(?P<plain_id>\S+::.*) (?P<plain>[A-Z]+)(?: \(.*\))? +\[ *\d+%\]$)")
# Of these no repetition makes anything good.
ALARM = re.compile(r"Sanitizer|runtime error:|fatal: \S+:\d+: |killed by|SIGSEGV|SIGABRT")
SECOND_TRY_MAX = 5
# Most of a system test is waiting: two for each processor. A file's tests stay on one worker: they share what they started.
WORKERS = ["-n", str(2 * os.cpu_count()), "--dist", "loadfile"]


class Failures:
    """Takes the reports at the end apart: a title for each test that failed, then lines that say what was wrong."""
    TITLE = re.compile(r"^_{3,} (.+) _{3,}$")

    def __init__(self, where):
        self.where, self.title, self.lines, self.notes, self.alarms = where, None, [], [], 0

    def line(self, text):
        title = self.TITLE.match(text)
        if title or text.startswith("==="):
            self.end()
            self.title, self.lines = title and title[1], []
        elif self.title:
            self.alarms += bool(ALARM.search(text))
            if text.startswith("E ") or text.startswith("tests/"):
                self.lines.append(text.strip())

    def end(self):
        if self.title:
            self.notes.append((f"{self.where} {self.title}", " | ".join(self.lines)))


def pytest(args):
    """A machine under load can break a time limit: a few tests that failed get a second try, alone on the machine. That one
    passed only then is said, at the end of a tier of tests, too."""
    started = time.monotonic()
    name = f"{os.path.basename(args.what[0])} {args.san}".strip()
    count, failed, failures, code = pytest_once(args, args.what, ["-p", "no:xdist"] if args.serial else WORKERS)
    if 0 < len(failed) <= SECOND_TRY_MAX and count.failed == len(failed) and not failures.alarms and code == 1:
        print(f"\n{name}: a second try for {len(failed)} of them", flush=True)
        again, failed, second, code = pytest_once(args, sorted(failed), ["-p", "no:xdist"])
        count.passed += again.passed
        count.failed = again.failed + (code != 0 and not again.failed)
        for where, what in failures.notes:
            note_failure(("" if where in dict(second.notes) else "passed at the second try: ") + where, what)
        for where, what in second.notes:
            if where not in dict(failures.notes):
                note_failure(f"at the second try only: {where}", what)
    else:
        for where, what in failures.notes:
            note_failure(where, what)
    if (code != 0 or not count.passed) and not count.failed:
        count.failed = 1
        print(f"pytest: {describe(code)}")
    return record(name, count, started)


def pytest_once(args, what, how):
    """(counts, names of those that failed, reports, exit code)."""
    count, failed = Count(), set()
    command = [sys.executable, "-m", "pytest", "-v", "-rN", "--tb=short", "--durations=10", f"--timeout={args.timeout}",
               "-o", f"cache_dir={os.path.abspath(args.build)}/pytest"]
    process = subprocess.Popen(command + how + what, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, env=environment(args.san), text=True, errors="replace")
    failures = Failures(f"{os.path.basename(args.what[0])} {args.san}".strip())
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        failures.line(line.rstrip())
        found = PROGRESS.search(line)
        result = found and (found["xdist"] or found["plain"])
        if result in ("PASSED", "XFAIL"):
            count.passed += 1
        elif result in ("FAILED", "ERROR", "XPASS"):
            count.failed += 1
            failed.add(found["xdist_id"] or found["plain_id"])
        elif result == "SKIPPED":
            count.skipped += 1
    return count, failed, failures, process.wait()


# ---------------------------------------------------------------- fuzz

def run_fuzz(program, seconds, work, env):
    """The committed corpus must pass; then new inputs, kept apart in the build folder."""
    name = os.path.basename(program).removeprefix("fuzz_")
    corpus = pathlib.Path("tests/fuzz/corpus") / name
    fresh, artifacts = work / name, work / f"{name}-found"
    fresh.mkdir(parents=True, exist_ok=True)
    artifacts.mkdir(exist_ok=True)
    options = [f"-artifact_prefix={artifacts}/", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]
    seeds = [str(p) for p in sorted(corpus.glob("*"))]
    if not seeds:
        return False, f"no corpus in {corpus}"
    code, output = run_bounded([program, *options, *seeds], 120, env)
    if code != 0:
        return False, f"{output}\nreplay of the corpus: {describe(code)}"
    code, output = run_bounded([program, *options, f"-max_total_time={seconds}", str(fresh), str(corpus)],
                               seconds + 60, env)
    if code != 0:
        return False, f"{output}\nfuzzing: {describe(code)}; the input is in {artifacts}"
    inputs = re.search(r"number_of_executed_units: (\d+)", output)
    return True, f"{len(seeds)} of the corpus, {inputs[1] if inputs else '?'} new inputs in {seconds} s"


def fuzz(args):
    started, count = time.monotonic(), Count()
    env = environment("address")
    work = pathlib.Path(args.work)
    shutil.rmtree(work, ignore_errors=True)
    seconds = max(1, args.seconds * 2 // max(1, len(args.what)))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [(p, pool.submit(run_fuzz, p, seconds, work, env)) for p in args.what]
        for program, job in jobs:
            good, text = job.result()
            count.add(Count(1, 0) if good else Count(0, 1))
            if not good:
                note_failure(os.path.basename(program), text[-500:].replace("\n", " "))
            print(f"  {os.path.basename(program)}: {text}", flush=True)
    if not args.what:
        count.failed = 1
        print("  there are no fuzz targets")
    return record("fuzz", count, started)


# ---------------------------------------------------------------- one command, and tiers

def one(args):
    started = time.monotonic()
    code = subprocess.run(args.what[1:], stdin=subprocess.DEVNULL).returncode
    if code:
        note_failure(args.what[0], describe(code))
    return record(args.what[0], Count(0, 1) if code else Count(1, 0), started)


def run_step(step, results):
    """One `make` of a tier; returns (name, what it recorded, seconds)."""
    seconds, _, target = step.partition(" ")
    print(f"\n== {target}", flush=True)
    started = time.monotonic()
    results.write_text("")
    process = subprocess.Popen(["make", "--no-print-directory", *shlex.split(target)], stdin=subprocess.DEVNULL,
                               env=os.environ | {"FAIRLEAD_RESULTS": str(results)})
    try:
        code = process.wait(float(seconds))
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        process.wait()
        code = None
    kill_orphans()
    total = Count()
    for line in results.read_text().splitlines():
        total.add(Count(*(int(n) for n in line.split()[1:])))
    if code != 0 and not total.failed:
        total.failed = 1
        text = describe(code) + (f" after {seconds} s" if code is None else "")
        print(f"{target}: {text}", flush=True)
        note_failure(target, text)
    return target, total, time.monotonic() - started


def tier(args):
    name, *steps = args.what
    started, total = time.monotonic(), Count()
    with tempfile.TemporaryDirectory() as folder:
        done = [run_step(step, pathlib.Path(folder) / "results") for step in steps]
    print(f"\n== {name}")
    for target, count, seconds in done:
        print(f"  {seconds:6.1f} s  {target}: {count}")
        total.add(count)
    return record(name, total, started)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("unit", "pytest", "fuzz", "one", "tier"))
    parser.add_argument("--san", default="", help="the sanitizers that the programs are built with")
    parser.add_argument("--build", default="build", help="pytest: the build folder")
    parser.add_argument("--serial", action="store_true", help="pytest: one worker")
    parser.add_argument("--timeout", type=int, default=180, help="pytest: seconds for one test")
    parser.add_argument("--seconds", type=int, default=60, help="fuzz: seconds in all, on two processors")
    parser.add_argument("--work", default="build/fuzz/work", help="fuzz: where new inputs go")
    parser.add_argument("what", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.chdir(pathlib.Path(__file__).resolve().parents[1])
    kinds = {"unit": unit, "pytest": pytest, "fuzz": fuzz, "one": one, "tier": tier}
    try:
        return kinds[args.kind](args)
    finally:
        kill_orphans()


if __name__ == "__main__":
    sys.exit(main())
