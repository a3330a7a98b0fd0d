"""The public names: documented, importable without the extras, and light to import."""

import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gradalign

ROOT = Path(__file__).parent.parent
ON_PAGES = set(
    re.findall(
        r"^::: (\S+)$",
        "\n".join(page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.md")),
        re.MULTILINE,
    )
)
"""Everything that the API pages show, by dotted name."""

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(gradalign.__path__, "gradalign.")
    if not any(part.startswith("_") for part in module.name.split("."))
)
NOT_ON_PAGES = {"gradalign.nn", "gradalign.training"}
"""They hold nothing but modules."""

EXTRAS = (
    "grain",
    "tensorboardX",
    "matplotlib",
    "beartype",
    "hypothesis",
    "pytest",
    "parselmouth",
    "praatio",
    "pocketsphinx",
)


def run_python(code: str) -> str:
    """What a fresh interpreter prints for ``code``, with the package that is tested here."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(gradalign.__path__[0]).parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def public_members(module_name: str) -> list[tuple[str, object]]:
    """Functions and classes that a module defines under public names, and the public members of its classes."""
    module = importlib.import_module(module_name)
    found = []
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module_name:
            continue
        if inspect.isclass(value):
            found.append((name, value))
            found += [(f"{name}.{attribute}", member) for attribute, member in own_methods(value)]
        elif callable(value):
            found.append((name, value))
    return found


def own_methods(cls: type) -> list[tuple[str, object]]:
    kinds = (property, classmethod, staticmethod)
    members = [(n, m) for n, m in vars(cls).items() if not n.startswith("_")]
    # What a dataclass or a named tuple makes has a module of its own or none.
    return [
        (n, m)
        for n, m in members
        if isinstance(m, kinds) or (inspect.isfunction(m) and m.__qualname__ == f"{cls.__qualname__}.{n}")
        if not (hasattr(cls, "_fields") and n in ("count", "index"))
    ]


@pytest.mark.parametrize("name", gradalign.__all__)
def test_public_name_exists_and_is_on_an_api_page(name):
    value = getattr(gradalign, name)
    if name == "__version__":
        assert "`gradalign.__version__`" in (ROOT / "docs" / "api" / "aligner.md").read_text("utf-8")
        return
    home = value.__name__ if inspect.ismodule(value) else value.__module__
    assert home in ON_PAGES or f"{home}.{name}" in ON_PAGES


def test_all_is_sorted_and_complete():
    assert gradalign.__all__ == sorted(gradalign.__all__)
    assert set(gradalign.__all__) <= set(dir(gradalign))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = gradalign.no_such_name  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", sorted(set(MODULES) - NOT_ON_PAGES))
def test_module_is_on_an_api_page(module):
    assert module in ON_PAGES


def test_api_pages_show_only_what_exists():
    for name in ON_PAGES:
        importlib.import_module(name)


def test_every_api_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in navigation


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_and_classes_have_docstrings(module):
    if module not in NOT_ON_PAGES:
        assert importlib.import_module(module).__doc__, f"{module} has no docstring"
    bare = []
    for name, value in public_members(module):
        text = inspect.getdoc(value) or ""
        # A dataclass or named tuple without a docstring is given its own signature as one.
        if not text.strip() or text.startswith(f"{name}("):
            bare.append(name)
    assert bare == []


def test_import_brings_neither_jax_nor_extras():
    loaded = json.loads(run_python("import sys, json, gradalign; print(json.dumps(sorted(sys.modules)))"))
    heavy = {"jax", "jaxlib", "flax", "numpy", "librosa", "soundfile", *EXTRAS}
    assert heavy & {name.partition(".")[0] for name in loaded} == set()


@pytest.mark.parametrize("module", ["metrics", "io", "evaluation", "corpus", "manifest"])
def test_files_and_metrics_do_without_jax(module):
    code = f"import sys, gradalign.{module}; print(sorted({{'jax', 'jaxlib', 'flax'}} & set(sys.modules)))"
    assert run_python(code) == "[]\n"


def test_every_public_name_can_be_had_without_the_extras():
    code = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None  # importing it now fails
import gradalign
for name in gradalign.__all__:
    getattr(gradalign, name)
import gradalign.cli, gradalign.corpus, gradalign.recognition, gradalign.synth, gradalign.training.loop
print("done")
"""
    assert run_python(code) == "done\n"


def test_package_is_marked_as_typed():
    assert (Path(gradalign.__path__[0]) / "py.typed").is_file()
