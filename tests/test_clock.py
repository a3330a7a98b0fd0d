"""The clock: what is inside a part counts there, compiling counts apart, and the parts add up."""

import time

import jax
import jax.numpy as jnp
import pytest

from gradalign.clock import Clock, _heard, _union, part


def test_parts_and_compiling_add_up_to_the_total():
    clock = Clock().start()
    with part("read"):
        time.sleep(0.02)
    with part("gradients"):
        jax.block_until_ready(jax.jit(lambda x: jnp.sin(x) + 0.4321)(jnp.ones(3)))
    seconds = clock.stop().seconds()
    assert seconds["read"] >= 0.02
    assert seconds["compile"] > 0
    assert seconds["write"] == 0
    total = seconds.pop("total")
    assert sum(seconds.values()) == pytest.approx(total)
    assert "compile" in str(clock)


def test_without_a_clock_nothing_is_counted():
    clock = Clock()
    with part("read"):
        time.sleep(0.001)
    assert clock.seconds()["read"] == 0


def test_what_overlaps_counts_once():
    assert _union([(5.0, 6.0), (1.0, 3.0), (2.0, 2.5), (2.9, 4.0)]) == [(1.0, 4.0), (5.0, 6.0)]


def test_time_that_the_cache_saved_is_not_time_spent():
    clock = Clock().start()
    _heard("/jax/compilation_cache/compile_time_saved_sec", 100.0)
    assert clock.stop().seconds()["compile"] == 0
