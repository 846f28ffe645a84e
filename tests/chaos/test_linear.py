# SPDX-License-Identifier: Apache-2.0
"""The checker finds what it is there to find: against every order there is, for short histories made at random."""

import itertools
import random

import pytest

from linear import NEVER, READ, WRITE, Operation, Violation, check, check_register


def read(value, called, returned):
    return Operation(READ, value, called, returned)


def write(value, called, returned=NEVER):
    return Operation(WRITE, value, called, returned)


GOOD = {
    "nothing": [],
    "one after the other": [write(1, 0, 1), read(1, 2, 3), write(None, 4, 5), read(None, 6, 7)],
    "at the same time: before": [write(1, 0, 1), write(2, 2, 9), read(1, 3, 4), read(2, 5, 6)],
    "unknown, seen late": [write(1, 0, 1), write(2, 2), read(1, 3, 4), read(2, 50, 51)],
    "unknown, never seen": [write(1, 0, 1), write(2, 2), read(1, 3, 4)],
}
BAD = {
    "lost": [write(1, 0, 1), read(None, 2, 3)],
    "stale": [write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)],
    "back and forth": [write(1, 0, 1), write(2, 2, 9), read(2, 3, 4), read(1, 5, 6)],
    "from nowhere": [write(1, 0, 1), read(3, 2, 3)],
    "before it was written": [read(1, 0, 1), write(1, 2, 3)],
    "deleted, and back": [write(1, 0, 1), write(None, 2, 3), read(1, 4, 5)],
    "unknown, seen and unseen": [write(1, 0, 1), write(2, 2), read(2, 3, 4), read(1, 5, 6)],
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name):
    check_register("k", GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad(name):
    with pytest.raises(Violation):
        check_register("k", BAD[name])


def at(node, operation):
    return Operation(operation.kind, operation.value, operation.called, operation.returned, "", node)


def test_nodes():
    """Nodes may change one after the other while a write is under way; not after it, not back, not in another order."""
    both = [at("a", write(1, 0, 1)), at("a", write(2, 2, 9))]
    check({"k": [*both, at("a", read(2, 3, 4)), at("b", read(1, 5, 6)), at("b", read(2, 10, 11))]})
    with pytest.raises(Violation):
        check({"k": [*both, at("a", read(2, 3, 4)), at("b", read(1, 10, 11))]})
    with pytest.raises(Violation):
        check({"k": [*both, at("b", read(2, 3, 4)), at("b", read(1, 5, 6))]})
    twisted = [at("a", write(1, 0, 9)), at("a", write(2, 0, 9))]
    check({"k": [*twisted, at("a", read(1, 1, 2)), at("a", read(2, 3, 4)), at("b", read(1, 1, 2)), at("b", read(2, 3, 4))]})
    with pytest.raises(Violation):
        check({"k": [*twisted, at("a", read(1, 1, 2)), at("a", read(2, 3, 4)), at("b", read(2, 1, 2)), at("b", read(1, 3, 4))]})


def explained(operations):
    """By trying every order of every choice of the unknown ones."""
    known = [each for each in operations if each.returned != NEVER]
    unknown = [each for each in operations if each.returned == NEVER]
    for count in range(len(unknown) + 1):
        for some in itertools.combinations(unknown, count):
            for order in itertools.permutations(known + list(some)):
                if all(a.called <= b.returned for a, b in itertools.combinations(order, 2)) and follows(order):
                    return True
    return False


def follows(order):
    value = None
    for each in order:
        if each.kind == READ and each.value != value:
            return False
        value = each.value if each.kind == WRITE else value
    return True


def test_like_every_order():
    rng, bad = random.Random(7), 0
    for _ in range(1500):
        operations = []
        for _ in range(rng.randint(1, 6)):
            called = rng.randint(0, 20)
            kind = rng.choice((READ, WRITE))
            returned = NEVER if kind == WRITE and rng.random() < 0.3 else called + rng.randint(1, 8)
            operations.append(Operation(kind, rng.choice((None, 1, 2)), called, returned))
        try:
            check_register("k", operations)
            found = True
        except Violation:
            found = False
        bad += not found
        assert found == explained(operations), operations
    assert 200 < bad < 1300
