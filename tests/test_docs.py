"""What the documents promise: their Python code runs, their commands parse, their links and options exist."""

import argparse
import re
import shlex
import shutil
from pathlib import Path

import pytest

from gradalign import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
EXECUTED = ("README.md", "docs/quickstart.md", "docs/extending.md")
"""Pages whose Python code is run."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Code blocks of a language, each with the line at which its code starts."""
    text = page.read_text("utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n") + 1, match[1]) for match in found]


def commands() -> list:
    """Every gradalign command in the documents."""
    parts = [
        pytest.param(part.strip(), id=f"{name_of(page)}:{first + number}")
        for page in PAGES
        for first, code in blocks(page, "sh")
        for number, line in enumerate(code.splitlines())
        for part in line.split("&&")
        if part.strip().startswith("gradalign ")
    ]
    assert len(parts) >= 10, "the blocks of the documents were not found"
    return parts


def subcommands() -> dict[str, argparse.ArgumentParser]:
    choices = next(a.choices for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert choices
    return dict(choices)


@pytest.mark.parametrize("page", EXECUTED)
def test_python_code_of_a_page_runs_in_order(page, tmp_path, monkeypatch):
    found = blocks(ROOT / page, "python")
    assert found
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for line, code in found:
        # Blank lines before the code, so that a traceback names the line of the page.
        exec(compile("\n" * (line - 1) + code, ROOT / page, "exec"), names)
    assert list(tmp_path.glob("*.TextGrid"))


@pytest.mark.parametrize("command", commands())
def test_commands_of_the_documents_parse(command):
    words = shlex.split(command, comments=True)
    assert cli._parser().parse_args(words[1:]).run


@pytest.mark.parametrize("name", subcommands())
def test_cli_page_names_every_argument(name):
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    section = re.search(rf"^## gradalign {name}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section, f"docs/cli.md has no section on {name}"
    first_cells = " ".join(re.findall(r"^\| (`.*?) \|", section[1], re.MULTILINE))
    written = set(re.findall(r"--?[a-z][a-z-]*|[A-Z_]{3,}", first_cells))
    known = {"-h", "--help"}
    for action in subcommands()[name]._actions:
        known |= set(action.option_strings) or {str(action.metavar)}
    assert known - {"-h", "--help"} - written == set()
    assert {word for word in written if word.startswith("--")} - known == set()


def test_cli_page_names_every_choice():
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    for parser in subcommands().values():
        for action in parser._actions:
            for choice in action.choices or ():
                assert f"`{choice}`" in page


def test_readme_shows_both_commands_in_its_first_screen():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    align = "pip install . && gradalign align docs/examples/example.wav docs/examples/example.txt -o example.TextGrid"
    assert lines.index(align) < 30
    start = lines.index("<!-- test -->")
    assert start < 30
    inside = lines[start : lines.index("<!-- end -->", start)]
    assert [line for line in inside if line.startswith("pip")] == ['pip install ".[test]" && pytest -n 2']


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_file(), f"{name_of(page)}: no {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", h.lower()).strip()) for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_documents_name_no_path_of_a_machine(page):
    assert not re.search(r"/(home|work|root|tmp|Users)/|[A-Z]:\\", page.read_text("utf-8"))
