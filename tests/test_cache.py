"""Where compiled programs are kept; that a run keeps them there is in test_cli.py."""

import platform
import subprocess
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from gradalign import cache
from gradalign.cache import by_shape, cache_folder, drop_programs


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_folder_asked_for_is_made(monkeypatch):
    monkeypatch.setenv("GRADALIGN_CACHE", "mine")
    assert cache_folder() == Path("mine/jax")
    assert Path("mine/jax").is_dir()


@pytest.mark.parametrize("asked", ["", "file/cache"])
def test_none_is_asked_for_or_can_be_made(monkeypatch, asked):
    Path("file").touch()
    monkeypatch.setenv("GRADALIGN_CACHE", asked)
    assert cache_folder() is None


@pytest.mark.parametrize(
    ("platform", "variable", "below"),
    [("linux", "XDG_CACHE_HOME", ""), ("win32", "LOCALAPPDATA", ""), ("darwin", "HOME", "Library/Caches")],
)
def test_else_it_lies_in_the_users_folder_of_caches(monkeypatch, platform, variable, below):
    monkeypatch.delenv("GRADALIGN_CACHE", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(Path.cwd() / "own"))
    assert cache_folder() == Path.cwd() / "own" / below / "gradalign" / "jax"


def printed(program: str, how: str) -> int:
    """The number that a process of its own prints."""
    return int(subprocess.run([sys.executable, "-c", program, how], check=True, capture_output=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone gives memory back at once")
def test_memory_that_is_freed_is_kept_for_the_next_call():
    program = (
        "import resource, sys, numpy as np\n"
        "from gradalign.cache import _keep_freed_memory\n"
        "if sys.argv[1] == 'kept': _keep_freed_memory()\n"
        "for i in range(8):\n"
        "    if i == 3: before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    np.ones(40 << 20, np.uint8)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    assert printed(program, "kept") < printed(program, "as it is") / 10


def test_processes_of_our_own_seldom_look_for_garbage():
    program = (
        "import gc, sys\n"
        "from gradalign.cache import prepare_jax\n"
        "if sys.argv[1] == 'prepared': prepare_jax()\n"
        "gc.collect()\n"
        "seen = []\n"
        "gc.callbacks.append(lambda phase, info: seen.append(phase))\n"
        "kept = [[] for _ in range(40_000)]\n"
        "print(len(seen))\n"
    )
    assert printed(program, "prepared") == 0 < printed(program, "as it is")


def memory_maps() -> int:
    return Path("/proc/self/maps").read_bytes().count(b"\n")


@by_shape
def doubled(x):
    return jnp.concatenate([jnp.sort(x), jnp.cumsum(jnp.flip(x))])


def test_the_compiler_is_told_only_what_it_knows(monkeypatch):
    """A later XLA may not know the option; the programs are compiled anyway."""
    import jax

    cache.compiler_options.cache_clear()
    options = cache.compiler_options()
    assert options  # the XLA of these tests knows it
    monkeypatch.setattr(cache, "_FASTER", {"xla_no_such_option": False})
    cache.compiler_options.cache_clear()
    assert cache.compiler_options() == {}
    np.testing.assert_array_equal(doubled(jnp.arange(7))[:7], np.arange(7))
    monkeypatch.undo()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    cache.compiler_options.cache_clear()
    assert cache.compiler_options() == {}
    monkeypatch.undo()
    cache.compiler_options.cache_clear()


def test_programs_that_were_not_used_for_longest_are_dropped(monkeypatch):
    monkeypatch.setattr(cache, "_programs", OrderedDict())
    for n in (3, 4, 5, 6, 3):
        np.testing.assert_array_equal(doubled(jnp.arange(n))[:n], np.arange(n))
    assert [shapes for _, shapes in cache._programs] == [((4,),), ((5,),), ((6,),), ((3,),)]
    drop_programs(most=10**9)
    assert len(cache._programs) == 4
    if not Path("/proc/self/maps").exists():
        return
    held = memory_maps()
    drop_programs(most=0)
    assert [shapes for _, shapes in cache._programs] == [((6,),), ((3,),)]
    assert memory_maps() < held
    np.testing.assert_array_equal(doubled(jnp.arange(4))[:4], np.arange(4))


def test_inside_of_another_program_it_is_part_of_that():
    import jax

    found = jax.vmap(doubled)(jnp.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(found[1], [3, 4, 5, 5, 9, 12])
    np.testing.assert_array_equal(jax.jit(lambda x: doubled(x) + 1)(jnp.arange(3)), [1, 2, 3, 3, 4, 4])


def test_programs_by_shape_know_static_arguments_by_name_and_by_place():
    @partial(by_shape, static_argnames=("power", "times"))
    def raised(x, power, *, times=1):
        assert isinstance(power, int)
        assert isinstance(times, int)
        return times * x**power

    assert raised(jnp.asarray(3), 2) == 9
    assert raised(jnp.asarray(3), power=3, times=2) == 54
    assert "jit_raised" in raised.lower(jnp.asarray(3), 2).as_text()
