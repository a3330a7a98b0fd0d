"""Where compiled programs are kept; that a run keeps them there is in test_cli.py."""

import sys
from pathlib import Path

import pytest

from gradalign.cache import cache_folder


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
