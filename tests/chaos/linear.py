# SPDX-License-Identifier: Apache-2.0
"""Is a history of reads and writes of registers linearizable? (Herlihy and Wing 1990; the search is that of Wing and Gong
1993 with the memory of Lowe 2017.)

A register holds a value or None (absent). An operation was called and returned at some time; the outcome of a write can be
unknown, then it may have happened at any time after its call, or never. Registers are independent of each other, so each is
judged alone, which is what makes the search affordable: keep the histories of single registers short.
"""

import dataclasses
import graphlib

READ, WRITE = "read", "write"
NEVER = float("inf")


@dataclasses.dataclass(frozen=True)
class Operation:
    kind: str
    value: object  # that was written, or read
    called: float
    returned: float = NEVER  # NEVER: the outcome is not known
    by: str = ""
    node: str = ""  # that answered

    def __str__(self):
        until = "?" if self.returned == NEVER else f"{self.returned:.6f}"
        return f"{self.called:.6f} - {until}  {self.by}@{self.node} {self.kind} {self.value}"


class Violation(AssertionError):
    """No order of the operations explains what was read."""

    def __init__(self, key, operations, stuck):
        listed = "\n".join(("-> " if each in stuck else "   ") + str(each) for each in operations)
        super().__init__(f"{key}: the history is not linearizable; nothing explains the marked operations\n{listed}")


def check_register(key, operations, initial=None):
    """Raises Violation. A read whose outcome is not known says nothing and must not be in the history."""
    order = sorted(relevant(operations), key=lambda each: each.called)
    assert all(each.kind == WRITE or each.returned != NEVER for each in order)
    must = sum(1 << i for i, each in enumerate(order) if each.returned != NEVER)
    seen = set()
    stack = [(0, initial)]
    farthest, farthest_done = -1, 0
    while stack:
        done, value = stack.pop()
        if (done, value) in seen:
            continue
        seen.add((done, value))
        if done & must == must:
            return
        count = (done & must).bit_count()
        if count > farthest:
            farthest, farthest_done = count, done
        stack.extend(steps(order, done, value))
    left = [each for i, each in enumerate(order) if not farthest_done >> i & 1 and each.returned != NEVER]
    first_return = min(each.returned for each in left)
    raise Violation(key, order, {each for each in left if each.called <= first_return})


def relevant(operations):
    """Without the writes of unknown outcome that nobody has seen: they may as well never have happened."""
    read = {each.value for each in operations if each.kind == READ}
    return [each for each in operations if each.returned != NEVER or each.value in read]


def steps(order, done, value):
    """What may have come next: whatever was called before the first return of what is still to be explained. A read that
    the value explains changes nothing for what follows, so it alone is enough."""
    bound, at, result = NEVER, 0, []
    while at < len(order):
        each = order[at]
        if each.called > bound:
            break
        if not done >> at & 1:
            bound = min(bound, each.returned)
            if each.kind == WRITE:
                result.append((done | 1 << at, each.value))
            elif each.value == value:
                return [(done | 1 << at, value)]
        at += 1
    return result


def check_order(key, operations):
    """All nodes saw the writes in one order, that of real time where it says something. Values are written once each."""
    after = {}
    writes = [each for each in operations if each.kind == WRITE and each.value is not None]
    for first in writes:
        after.setdefault(first.value, set()).update(each.value for each in writes if first.returned < each.called)
    for node in {each.node for each in operations}:
        reads = sorted((each for each in operations if each.kind == READ and each.node == node), key=lambda each: each.called)
        for first, then in zip(reads, reads[1:]):
            if first.returned < then.called and None not in (first.value, then.value) and first.value != then.value:
                after.setdefault(first.value, set()).add(then.value)
    try:
        graphlib.TopologicalSorter(after).prepare()
    except graphlib.CycleError as cycle:
        raise Violation(key, operations, {each for each in operations if each.value in cycle.args[1]}) from None


def check(history, initial=None):
    """history: {key: [Operation]} of nodes that each have a copy. A write that returned was on all of them, one that did not
    is on each at any time after its call; so what one node answers is linearizable, and all of them see one order. (That two
    nodes change in the same instant nobody promises.) Returns how many operations there were."""
    for key, operations in history.items():
        writes = [each for each in operations if each.kind == WRITE]
        for node in sorted({each.node for each in operations if each.kind == READ}):
            check_register(f"{key} at {node}", writes + [each for each in operations if each.kind == READ and each.node == node],
                           initial)
        check_order(key, operations)
    return sum(len(operations) for operations in history.values())
