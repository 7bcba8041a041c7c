"""Floating point operations of a compiled program: XLA's own count, with loops as often as they run.

XLA's analysis takes the body of a loop once. The matrix products and convolutions of bodies whose number of rounds XLA
knows are found in the program's text, and what the further rounds do is added.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\w+\[[\d,]*\]\S*) ([\w-]+)\((.*?)\)(.*)$")
CALLED = re.compile(r"\b(?:calls|to_apply|body)=%?([\w.-]+)")
ROUNDS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
NAME = re.compile(r"%([\w.-]+)")
Shape = tuple[int, ...]


class Call(NamedTuple):
    """One computation's use of another."""

    name: str
    rounds: int


class Computation(NamedTuple):
    """A function of the program."""

    flops: float
    """Of its own matrix products and convolutions."""
    calls: list[Call]


def count_flops(program: Any) -> float | None:
    """Floating point operations of a call of a compiled program, a multiply-add being two.

    Convolutions and matrix products dominate; additions, comparisons and the like count one each. What a convolution
    would do with its padding is not counted. None where XLA's backend counts nothing. Kernels of other libraries,
    which a GPU's program calls for convolutions and products, count as far as XLA's analysis knows them.
    """
    found = program.cost_analysis()
    found = found[0] if isinstance(found, list) and found else found
    flops = found.get("flops", 0.0) if found else 0.0
    return flops + further_rounds(program.as_text()) if flops > 0 else None


def further_rounds(text: str) -> float:
    """What matrix products and convolutions in loops do beyond their first round, from the text of a program."""
    computations, entry = read_computations(text)
    return _total(computations, entry, loops=True) - _total(computations, entry, loops=False)


def read_computations(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a program by name, and the name of the one that is run."""
    found: dict[str, Computation] = {}
    entry, shapes = "", {}
    for line in text.splitlines():
        if start := COMPUTATION.match(line):
            name, shapes = start[2], {}
            found[name] = Computation(0.0, [])
            entry = name if start[1] else entry
        elif instruction := INSTRUCTION.match(line):
            result, kind, operation, operands, rest = instruction.groups()
            shapes[result] = _shape(kind)
            own = _flops(operation, shapes[result], [shapes.get(o, ()) for o in NAME.findall(operands)], rest)
            rounds = int(match[1]) if operation == "while" and (match := ROUNDS.search(rest)) else 1
            calls = [Call(called, rounds) for called in CALLED.findall(rest)]
            found[name] = Computation(found[name].flops + own, found[name].calls + calls)
    return found, entry


def _total(computations: Mapping[str, Computation], name: str, *, loops: bool) -> float:
    if name not in computations:
        return 0.0
    flops, calls = computations[name]
    return flops + sum((c.rounds if loops else 1) * _total(computations, c.name, loops=loops) for c in calls)


def _shape(kind: str) -> Shape:
    """Of an array; that of a tuple is of no use here and empty."""
    match = re.match(r"\w+\[([\d,]*)\]", kind)
    return tuple(map(int, match[1].split(","))) if match and match[1] else ()


def _flops(operation: str, result: Shape, operands: list[Shape], rest: str) -> float:
    """Two for each multiply-add. Zero for other operations."""
    if operation == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]+)\}", rest)
        return 2.0 * math.prod(result) * math.prod(operands[0][int(i)] for i in contracted[1].split(","))
    if operation == "convolution":
        kernel = re.search(r"dim_labels=\w+_(\w+)->", rest)[1]
        return 2.0 * math.prod(result) * math.prod(operands[1]) / operands[1][kernel.index("o")]
    return 0.0
