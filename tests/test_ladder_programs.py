"""What the ladder times, in turns, and what it counts of a compiled program: operations and memory."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.ladder_flops import count_flops
from benchmarks.ladder_programs import Program, System, count_mib, time_in_turn


@pytest.fixture(autouse=True)
def quick_samples(monkeypatch):
    """Without Python's collector before each sample: it walks through what all other tests left behind."""
    monkeypatch.setattr("gc.collect", lambda: None)


def fake(log, name, fail_at=None):
    def run():
        log.append(name)
        if len([entry for entry in log if entry == name]) == fail_at:
            raise RuntimeError(f"{name} broke")

    return System(0, {"inference": Program(run, {})})


def test_systems_take_turns_and_one_that_breaks_leaves_the_others():
    log = []
    systems = {"a": fake(log, "a"), "b": fake(log, "b", fail_at=4), "c": fake(log, "c", fail_at=1)}
    rounds = list(time_in_turn(systems, 3, at_least=0.0))
    assert "".join(log) == "aabbc" + "ab" + "ba" + "a"
    assert [[(s.system, s.error is None) for s in samples] for samples in rounds] == [
        [("c", False)],
        [("a", True), ("b", True)],
        [("b", False), ("a", True)],
        [("a", True)],
    ]
    assert str(rounds[2][0].error) == "b broke" and rounds[1][0].seconds > 0


def compiled(function, *args, **options):
    return jax.jit(function, **options).lower(*args).compile()


def convolve(x, kernel, padding="VALID"):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_flops_are_those_counted_by_hand():
    x, kernel = jnp.ones((2, 16, 20, 8)), jnp.ones((3, 3, 8, 24))
    taps = 2 * 3 * 3 * 8 * 24
    assert count_flops(compiled(convolve, x, kernel)) == 2 * 14 * 18 * taps
    # At the border the taps that meet padding are not counted: 16 + 14 + 16 rows of three, 20 + 18 + 20 columns less 2.
    rows, columns = 3 * 16 - 2, 3 * 20 - 2
    assert count_flops(compiled(lambda *a: convolve(*a, "SAME"), x, kernel)) == 2 * rows * columns * 2 * 8 * 24
    assert count_flops(compiled(jnp.matmul, jnp.ones((5, 7)), jnp.ones((7, 11)))) == 2 * 5 * 7 * 11


def test_loops_count_as_often_as_they_run():
    x = jnp.ones((32, 32))

    def repeated(times, function):
        return lambda x: jax.lax.scan(lambda x, _: (function(x), None), x, None, length=times)[0]

    product = 2 * 32**3
    inner = repeated(3, lambda x: x @ x)
    for function, times in ((repeated(10, lambda x: x @ x), 10), (repeated(5, inner), 15)):
        # Beside the products there are a few additions to count the rounds.
        assert times * product <= count_flops(compiled(function, x)) < times * product + 1000
    kernel = jnp.ones((3, 3, 4, 4))
    filtered = repeated(6, lambda x: convolve(x, kernel, "SAME"))
    whole = 6 * 2 * 8 * 8 * 9 * 4 * 4
    assert 0.8 * whole < count_flops(compiled(filtered, jnp.ones((1, 8, 8, 4)))) <= whole + 1000


def test_programs_without_a_count_have_none():
    class Silent:
        def cost_analysis(self):
            return None

        memory_analysis = cost_analysis

    assert count_flops(Silent()) is None and count_mib(Silent()) is None


def test_memory_is_arguments_and_results_and_what_is_shared_counts_once():
    x = jnp.ones((2**18,), jnp.float32)  # 1 MiB
    assert count_mib(compiled(lambda x: x + 1, x)) == 2
    assert count_mib(compiled(lambda x: x + 1, x, donate_argnums=0)) == 1
