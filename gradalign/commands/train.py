"""``gradalign train``."""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gradalign.cache import prepare_jax
from gradalign.errors import FormatError, GradalignError
from gradalign.terminal import note, reporters, say

if TYPE_CHECKING:
    from gradalign.training.config import TrainConfig


def run(args: argparse.Namespace) -> int:
    """Train a model as a file says."""
    from gradalign.training import config as configs

    path = _config_path(args.config)
    config = configs.read(path, changes=args.set)
    data = args.data or path.parent
    if args.check:
        return _check_data(config, data)
    output: Path | None = args.output
    if output is None:
        args.parser.error("where to? give -o FOLDER")
        raise AssertionError("argparse has left")
    if missing := [name for name in ("grain", "orbax.checkpoint") if not _is_installed(name)]:
        raise GradalignError(f'training needs {" and ".join(missing)}: pip install "gradalign[train]"')
    prepare_jax()
    _log_to_terminal(quiet=args.quiet)
    from gradalign.training.loop import train

    report, status = reporters(quiet=args.quiet)
    done = train(
        config,
        output,
        data=data,
        cache=args.cache,
        resume=args.resume,
        init=args.init,
        report=report,
        status=status,
    )
    if done.reason == "interrupted":
        note("", quiet=args.quiet)
        say(
            "warning", f"interrupted after update {done.step} of {config.steps}; the same command with --resume goes on"
        )
        return 130
    early = f", which is where it stopped: {config.run.patience} measurements without a better one"
    report(f"{done.model}: the model after update {done.step}{early if done.reason == 'no better' else ''}")
    if done.best is not None and done.per is not None:
        report(f"{done.best}: the one with the lowest PER on speech kept aside, {100 * done.per:.1f} %")
    return 0


def _config_path(name: str) -> Path:
    """The config that is meant: a TOML file, or the recipe of a model."""
    from gradalign.bundle import folder_of

    path = Path(name)
    if path.is_file():
        return path
    try:
        if path.suffix:
            raise FormatError(f"{path}: no such file")
        recipe = folder_of(name) / "train.toml"
    except FormatError as error:
        expected = "expected a TOML file (docs/training.md), or a model that comes with its recipe, such as en-us"
        raise FormatError(f"{name}: no such training config; {expected}") from error
    if not recipe.is_file():
        raise FormatError(f"model {name} comes without a recipe: there is no {recipe}")
    return recipe


def _check_data(config: "TrainConfig", data: Path) -> int:
    """Print what is wrong with the speech that a config names."""
    from gradalign import manifest

    status = 0
    for source in (*config.data.train, *config.data.dev):
        found = manifest.read(data / source.path)
        chosen = [u for u in found if not source.weights or u.set in source.weights]
        report = manifest.check(chosen, max_duration_s=config.data.lengths[-1] * config.features.grid.hop_s)
        print(f"{source.path}: {report}")
        missing = sorted(source.weights.keys() - {u.set for u in report.usable})
        if missing or not report.usable:
            say("error", f"{source.path}: nothing usable" + (f" of the set {', '.join(missing)}" if missing else ""))
            status = 1
    return status


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _log_to_terminal(*, quiet: bool) -> None:
    """Show what the package logs, such as reports on data, and nothing of other packages."""
    import logging

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("gradalign").setLevel(logging.WARNING if quiet else logging.INFO)
