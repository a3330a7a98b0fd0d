"""The training run: what is prepared, what happens at each update, and how it ends."""

import dataclasses
import json
import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradalign.bundle import Bundle, load, save
from gradalign.errors import FormatError, GradalignError
from gradalign.io._files import write_text
from gradalign.lexicon import PHONES
from gradalign.nn.aed import AED
from gradalign.training.checkpoint import Checkpoints, TrainState
from gradalign.training.config import TrainConfig
from gradalign.training.data import Batch, Corpus, Mixture, dev_batches, digest, hold_out, mixture, read_corpora, stream
from gradalign.training.flops import matmul_flops
from gradalign.training.measure import measure, reversal_warning
from gradalign.training.optimizer import optimizer
from gradalign.training.report import Metrics, Speed, dev_line, not_finite, update_line
from gradalign.training.update import place, saliency_due, settings_of, shares_at, update

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: Updates done.
        reason: "finished", "no better" (early stopping) or "interrupted" (it can be resumed).
        model: Folder of the model at the end, None if interrupted.
        best: Folder of the model that was best on the speech kept aside, None if it was never measured.
        per: Its phone error rate there by greedy CTC, in [0, ...); None if it was never measured or
            CTC was not trained.
    """

    step: int
    reason: str
    model: Path | None
    best: Path | None
    per: float | None


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    data: str | Path = ".",
    cache: str | Path | None = None,
    resume: bool = False,
    init: Sequence[str | Path] = (),
    report: Callable[[str], None] = log.info,
    status: Callable[[str], None] = lambda line: None,
    stop_after: int | None = None,
) -> Outcome:
    """Train a model as ``config`` says, on all devices of this machine, and leave it in ``out``.

    ``out`` gets ``checkpoints/``, ``models/step-<n>/``, ``models/best/`` and ``models/last/`` (with the running
    mean of the parameters), ``config.json``, ``metrics.jsonl`` and, with tensorboardX installed, ``tensorboard/``.
    SIGINT and SIGTERM end the run after the update that is being computed, with a checkpoint.

    Args:
        config: The run.
        out: Folder for results; without ``resume`` it must not hold a run.
        data: Folder that the paths of ``config.data`` are relative to.
        cache: Folder of cached features, which several runs may share; default ``out/features``.
        resume: Go on from the last checkpoint in ``out``; without one, begin.
        init: Models whose parameters to begin with, in place of random ones: those of one, or the mean of several that
            were trained one from another; of the same network and features.
        report: Told each line worth keeping.
        status: Told, more often, what is going on right now.
        stop_after: End as if interrupted after so many updates in this process.

    Raises:
        FormatError: If the data cannot be read or used, ``out`` holds another run, or one of ``init`` is
            another kind of model.
        GradalignError: If the loss is not finite; the message names the update and the utterances of the batch.
    """
    out = Path(out)
    _check_folder(config, out, resume=resume)
    cache = Path(cache or out / "features")
    run = _prepare(config, out, data=Path(data), cache=cache, resume=resume, init=init, report=report, status=status)
    reason = _reason(run, stop=False)
    # One that had stopped, and was killed before its last model was written, must not go on.
    until = config.steps if reason == "finished" else run.first
    with closing(run.checkpoints), closing(run.metrics), _signals() as stopped:
        for batch, names in stream(run.source, run.first + 1, until):
            values = _advance(run, batch)
            _check_finite(run, values, names)
            _note(run, batch, values)
            if run.dev and (run.step % config.run.dev_every == 0 or run.step == config.steps):
                _measure_dev(run)
            if config.run.export_every and run.step % config.run.export_every == 0:
                _export(run, f"step-{run.step}")
            enough = stop_after is not None and run.step - run.first >= stop_after
            reason = _reason(run, stop=stopped() or enough)
            last = run.step == config.steps or reason != "finished"
            if last or run.step % config.run.checkpoint_every == 0:
                run.checkpoints.save(run.step, run.state, run.progress)
                run.speed.pause()
            if last:
                break
    model = None if reason == "interrupted" else _export(run, "last")
    best = out / "models" / "best"
    per = run.progress["best_per"] if config.loss.ctc else None
    return Outcome(run.step, reason, model, best if best.is_dir() else None, per)


@dataclass(slots=True)
class _Run:
    """A run that is going on; an update changes ``step``, ``state`` and ``progress``.

    Attributes:
        config: What was asked for.
        out: Folder for results.
        report: Told each line worth keeping.
        status: Told what is going on right now.
        mesh: Devices.
        bundle: What is exported, with the parameters of the last export.
        graph: The network without its parameters.
        tx: The optimiser.
        key: Of all that is random in an update.
        source: Speech to train on.
        dev: Batches kept aside.
        checkpoints: What a killed run resumes from.
        metrics: Numbers on disk.
        speed: Of this process.
        first: Updates done before this process.
        step: Updates done.
        state: Parameters, their running mean, and moments.
        progress: What else a resumed run has to know, as JSON.
    """

    config: TrainConfig
    out: Path
    report: Callable[[str], None]
    status: Callable[[str], None]
    mesh: Mesh
    bundle: Bundle
    graph: Any
    tx: optax.GradientTransformation
    key: jax.Array
    source: Mixture
    dev: list[Batch]
    checkpoints: Checkpoints
    metrics: Metrics
    speed: Speed
    first: int
    step: int
    state: TrainState
    progress: dict[str, Any]


def _prepare(
    config: TrainConfig,
    out: Path,
    *,
    data: Path,
    cache: Path,
    resume: bool,
    init: Sequence[str | Path],
    report: Callable[[str], None],
    status: Callable[[str], None],
) -> _Run:
    """All that comes before the first update: network, speech, optimiser, and what was done already."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    network = _network(config, init)
    bundle = Bundle(config.name, network, config.features, PHONES)
    train_set, dev_set = _speech(config, data, bundle, cache, status)
    hop_s, n_devices = config.features.grid.hop_s, mesh.size
    source = mixture(train_set, config.data, hop_s=hop_s, seed=config.seed, devices=n_devices)
    dev = dev_batches(dev_set, config.data, hop_s=hop_s, devices=n_devices)
    # Not before the data could be read: after a mistake the same command must do.
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.json", _described(config), overwrite=True)

    graph, params = nnx.split(network)
    tx = optimizer(config.optimizer, config.steps)
    everywhere = NamedSharding(mesh, PartitionSpec())
    state = jax.device_put(TrainState(params, jax.tree.map(jnp.copy, params), tx.init(params)), everywhere)
    checkpoints = Checkpoints(out / "checkpoints", keep=config.run.keep)
    progress: dict[str, Any] = {"best_per": None, "best_step": 0, "worse": 0, "hours": 0.0}
    progress |= {"devices": n_devices, "data": digest(train_set)}
    first = checkpoints.latest() or 0
    if first:
        state, kept = checkpoints.restore(first, state)
        _check_same(progress, kept, out)
        progress |= kept
        report(f"resumed after update {first} of {config.steps}")
    elif resume:
        report(f"no checkpoint in {out} yet: from the beginning")
    metrics = Metrics(out, first)
    report(
        f"{network.n_parameters():,} parameters; {len(source)} utterances to train on, "
        f"{sum(int((b.n_labels > 0).sum()) for b in dev)} to measure on; {n_devices} device(s)"
    )
    return _Run(
        config=config,
        out=out,
        report=report,
        status=status,
        mesh=mesh,
        bundle=bundle,
        graph=graph,
        tx=tx,
        key=jax.random.key(config.seed),
        source=source,
        dev=dev,
        checkpoints=checkpoints,
        metrics=metrics,
        speed=Speed(),
        first=first,
        step=first,
        state=state,
        progress=progress,
    )


def _advance(run: _Run, batch: Batch) -> dict[str, float]:
    """Do the next update; what it measured."""
    run.step += 1
    config, shape = run.config, batch.features.shape
    salient = saliency_due(config, run.step, shape[1])
    arguments = (run.state, place(batch, run.mesh), jax.random.fold_in(run.key, run.step), shares_at(config, run.step))
    if run.step == run.first + 1:
        run.status("compiling the first update")
        plain = partial(update, graph=run.graph, tx=run.tx, settings=settings_of(config, salient=False))
        run.speed.count(matmul_flops(plain, *arguments), shape)
    settings = settings_of(config, salient=salient)
    run.state, measured = update(*arguments, graph=run.graph, tx=run.tx, settings=settings)
    return {name: float(value) for name, value in measured.items()}


def _check_finite(run: _Run, values: dict[str, float], names: tuple[str, ...]) -> None:
    """End the run, with a checkpoint and a model, if the loss or the gradient of the update is not finite."""
    if np.isfinite(values["loss"]) and np.isfinite(values["grad_norm"]):
        return
    # The update left the state as it was: what is kept is the last good one.
    run.checkpoints.save(run.step - 1, run.state, run.progress)
    raise GradalignError(not_finite(run.step, values, names, _export(run, "last")))


def _note(run: _Run, batch: Batch, values: dict[str, float]) -> None:
    """Count the update that was done, and tell of it when it is time to."""
    config, step, shape = run.config, run.step, batch.features.shape
    run.progress["hours"] += float(batch.n_frames.sum()) * config.features.grid.hop_s / 3600
    run.speed.tick(shape, salient=saliency_due(config, step, shape[1]))
    run.metrics.add(values)
    if step % config.run.report_every == 0 or step == run.first + 1:
        means = run.metrics.flush(step, run.progress["hours"], run.speed.frames_per_s)
        run.report(update_line(means, step, config.steps, run.speed))
    run.status(f"update {step}/{config.steps}, {run.speed.left(config.steps - step)} left")


def _measure_dev(run: _Run) -> None:
    """Measure on the speech kept aside, and export the model if it is the best one so far."""
    run.status(f"update {run.step}: measuring on {len(run.dev)} batches kept aside")
    found = measure(run.graph, run.state.averaged, run.dev, run.mesh, run.config)
    run.metrics.write("dev", run.step, found)
    run.report(dev_line(run.step, found))
    if warning := reversal_warning(found["cross_flip"]):
        log.warning("update %d: %s", run.step, warning)
    # Without CTC there is no error rate to go by.
    badness = found.get("per", found["attention"])
    if run.progress["best_per"] is None or badness < run.progress["best_per"]:
        run.progress |= {"best_per": badness, "best_step": run.step, "worse": 0}
        _export(run, "best")
    else:
        run.progress["worse"] += 1
    run.speed.pause()


def _reason(run: _Run, *, stop: bool) -> str:
    """Why the run ends, if it ends here; ``stop`` if it was asked to."""
    if 0 < run.config.run.patience <= run.progress["worse"]:
        return "no better"
    return "interrupted" if stop and run.step < run.config.steps else "finished"


def _check_same(now: dict[str, Any], before: dict[str, Any], out: Path) -> None:
    """Other data, or another number of devices, would give other batches without a word."""
    for name, what in (("devices", "number of devices"), ("data", "data")):
        if before.get(name, now[name]) != now[name]:
            raise FormatError(
                f"{out} was trained with another {what} ({before[name]}, now {now[name]}), so that it cannot go on as "
                "it would have; give it the same, or begin in another folder with --init"
            )


def _described(config: TrainConfig) -> str:
    return json.dumps(dataclasses.asdict(config), indent=1)


def _check_folder(config: TrainConfig, out: Path, *, resume: bool) -> None:
    """Make sure that ``out`` is free, or holds this very run."""
    if out.exists() and not out.is_dir():
        raise FormatError(f"{out} is a file, expected a folder for results")
    path = out / "config.json"
    if not path.exists():
        if (out / "checkpoints").exists():
            raise FormatError(f"{out} holds checkpoints of a run whose config.json is gone; choose another folder")
        return
    if not resume:
        raise FormatError(f"{out} holds a run already; go on with --resume, or choose another folder")
    try:
        before = dict(json.loads(path.read_text("utf-8")))
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: not the config of a run ({error}); choose another folder") from error
    now = json.loads(_described(config))
    # Options that came later were at their defaults.
    defaults = json.loads(_described(TrainConfig()))
    changed = []
    for name, value in now.items():
        then = before.get(name)
        if isinstance(value, dict) and isinstance(then, dict):
            then = {**defaults[name], **then}
            changed += [f"{name}.{option}" for option in value if value[option] != then.get(option)]
        elif value != then:
            changed.append(name)
    if changed:
        raise FormatError(
            f"{out} was trained with another config ({', '.join(changed)} differ); resume with the config it began "
            "with, or begin in another folder, perhaps with --init"
        )


def _network(config: TrainConfig, init: Sequence[str | Path]) -> AED:
    """A network with random parameters, those of a model, or the mean of several ("soups": Wortsman et al. 2022)."""
    if config.network.vocabulary != len(PHONES) + 1:
        raise FormatError(f"network.vocabulary must be {len(PHONES) + 1} for phone labels")
    if not init:
        return AED(config.network, rngs=nnx.Rngs(config.seed))
    networks = [_given(config, one) for one in init]
    mean = jax.tree.map(lambda *parts: sum(parts) / len(parts), *(nnx.state(network) for network in networks))
    nnx.update(networks[0], mean)
    return networks[0]


def _given(config: TrainConfig, model: str | Path) -> AED:
    """The network of a model, which must be one that the config describes."""
    given = load(model, calibrated=False)
    problems = [
        f"{section}.{field.name} is {getattr(theirs, field.name)}, the config has {getattr(ours, field.name)}"
        for section, theirs, ours in (
            ("network", given.network.config, config.network),
            ("features", given.features, config.features),
        )
        for field in dataclasses.fields(ours)
        if getattr(theirs, field.name) != getattr(ours, field.name)
    ]
    if given.labels != PHONES:
        problems.append("its labels are not the phones of CMUdict")
    if problems:
        raise FormatError(f"cannot begin with the parameters of {model}: {'; '.join(problems)}")
    return given.network


def _speech(
    config: TrainConfig, data: Path, bundle: Bundle, cache: Path, status: Callable[[str], None]
) -> tuple[list[Corpus], list[Corpus]]:
    """What is trained on, and what is kept aside."""
    read = partial(
        read_corpora, root=data, bundle=bundle, cache=cache, max_frames=config.data.lengths[-1], progress=status
    )
    found = read(config.data.train)
    if config.data.dev:
        return found, read(config.data.dev)
    return hold_out(found, config.data.hold_out)


def _export(run: _Run, name: str) -> Path:
    """Write the running mean as a model; its folder. That is always whole: a kill may leave a draft beside it."""
    folder = run.out / "models" / name
    here = jax.tree.map(lambda p: jnp.asarray(jax.device_get(p)), run.state.averaged)
    nnx.update(run.bundle.network, here)
    draft, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
    for left in (draft, old):
        shutil.rmtree(left, ignore_errors=True)
    save(run.bundle, draft)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come; a second one ends the process at once, as ever."""
    came: list[int] = []
    before = {}

    def note(number: int, _: object) -> None:
        came.append(number)
        signal.signal(number, before[signal.Signals(number)])

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
