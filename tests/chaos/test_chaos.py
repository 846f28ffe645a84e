# SPDX-License-Identifier: Apache-2.0
"""Random faults while clients push, pull, tag and delete. FAIRLEAD_TEST_SEED repeats a run, CHAOS_SECONDS says how long.
Seeds that once showed a defect stay in SEEDS."""

import os
import random
import time

import pytest

import http1
import netlab
from nodes import hosts, one_node
from workload import Workload

SECONDS = float(os.environ.get("CHAOS_SECONDS", "30"))
SEEDS = ()  # none has failed yet


def seeds():
    given = os.environ.get("FAIRLEAD_TEST_SEED")
    return [given] if given else [str(random.SystemRandom().randrange(1 << 32)), *SEEDS]


def disturb(nodes, rng, seconds):
    """One fault after another, with some peace in between. Returns what was done."""
    end, done = time.monotonic() + seconds, {}
    while time.monotonic() < end:
        node = rng.choice(nodes)
        fault = rng.choice(node.FAULTS)
        getattr(node, fault)()
        done[fault] = done.get(fault, 0) + 1
        time.sleep(rng.uniform(0, 1.5))
        node.undo()
        time.sleep(rng.uniform(0, 1.5))
    return done


def well(node):
    try:
        return node.exchange("GET", "/v2/").status == 200
    except (OSError, http1.ConnectionEnded):
        return False


def run(nodes, seed):
    workload = Workload(nodes, seed).start()
    try:
        done = disturb(nodes, random.Random(f"{seed} faults"), SECONDS)
    finally:
        for node in nodes:
            node.undo()
        for node in nodes:
            assert http1.wait_until(lambda node=node: well(node), 60), node.name
        workload.stop()
    found = workload.verify()
    print(f"{done}\n{found}")
    assert done and found["operations"] > 20 and found["blobs"] > 2 and found["good"] > found["failed"] / 10


@pytest.mark.timeout(900 + 2 * SECONDS)
@pytest.mark.parametrize("seed", seeds())
def test_one_node(seed):
    with one_node() as nodes:
        run(nodes, seed)


@netlab.needed
@pytest.mark.timeout(900 + 2 * SECONDS)
@pytest.mark.parametrize("seed", seeds())
@pytest.mark.parametrize("names", ["abc", "abcde"])
def test_hosts(names, seed):
    with hosts(*names) as nodes:
        run(nodes, seed)
