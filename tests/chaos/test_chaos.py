# SPDX-License-Identifier: Apache-2.0
"""Random faults while clients push, pull, tag and delete. FAIRLEAD_TEST_SEED repeats a run, CHAOS_SECONDS says how long.
Seeds that once showed a defect stay in SEEDS."""

import os
import random
import time

import pytest

import http1
import netlab
from images import ImageWorkload
from nodes import hosts, one_node
from storage import Storage, StorageNode, storage_hosts
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


def lose(storage, rng, seconds):
    """One node after the other loses what it holds, or does not count any more, while faults of the others lose nothing.
    Then all is made good again."""
    end, done = time.monotonic() + seconds, {}
    losses = []
    while time.monotonic() < end and not storage.workload.errors:
        losses = losses or rng.sample(StorageNode.LOSSES, len(StorageNode.LOSSES))  # each before any comes again
        node, loss = rng.choice(storage.nodes), losses.pop()
        getattr(node, loss)(storage, rng)
        done[loss] = done.get(loss, 0) + 1
        for fault, times in disturb([each for each in storage.nodes if each is not node], rng, rng.uniform(0, 4)).items():
            done[fault] = done.get(fault, 0) + times
        if loss != "harm" and rng.random() < 0.5:
            storage.rest(without=node)  # the others make up for it
        node.make_good(storage)
        storage.rest()
    return done


def run(nodes, workload, fault):
    """fault() does what is to be done to the nodes, and returns what it was."""
    workload.start()
    try:
        done = fault()
        for node in nodes:
            node.undo()
        for node in nodes:
            assert http1.wait_until(lambda node=node: well(node), 60), node.name
    finally:
        workload.stop()
    found = workload.verify()
    print(f"{done}\n{found}")
    assert done and found["operations"] > 20 and found["blobs"] > 2 and found["good"] > found["failed"] / 10


@pytest.mark.timeout(900 + 2 * SECONDS)
@pytest.mark.parametrize("seed", seeds())
def test_one_node(seed):
    with one_node() as nodes:
        run(nodes, Workload(nodes, seed), lambda: disturb(nodes, random.Random(f"{seed} faults"), SECONDS))


@netlab.needed
@pytest.mark.timeout(900 + 2 * SECONDS)
@pytest.mark.parametrize("seed", seeds())
def test_hosts(seed):
    with hosts(*"abcde") as nodes:
        run(nodes, Workload(nodes, seed), lambda: disturb(nodes, random.Random(f"{seed} faults"), SECONDS))


@netlab.needed
@pytest.mark.timeout(1800 + 2 * SECONDS)
@pytest.mark.parametrize("seed", seeds())
def test_storage(seed):
    """Three managers and a worker, all replicas: no copy of anything is lost for long, and nothing is left over."""
    with storage_hosts("abc", "w") as nodes:
        storage = Storage(nodes, ImageWorkload(nodes, seed))
        before = storage.measure()
        run(nodes, storage.workload, lambda: lose(storage, random.Random(f"{seed} faults"), SECONDS))
        storage.verify(before)
