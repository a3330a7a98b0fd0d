"""Where compiled programs are kept; that a run keeps them there is in test_cli.py."""

import sys
from pathlib import Path

import jax
import pytest

from gradalign.cache import cache_folder, spare_memory_maps


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


def test_programs_are_dropped_when_they_hold_too_many_memory_maps():
    program = jax.jit(lambda x: x + 1)
    program(1.0)
    spare_memory_maps(share=1.0)
    assert program._cache_size() == 1
    spare_memory_maps(share=0.0)
    if Path("/proc/self/maps").exists():
        assert program._cache_size() == 0
    assert program(1.0) == 2.0
