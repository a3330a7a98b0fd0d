"""The training run: updates, checkpoints, measurements on speech kept aside, and what is told about them."""

import dataclasses
import importlib.util
import json
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradalign.analysis.diagonality import label_flip_index
from gradalign.bundle import Bundle, load, save
from gradalign.error_rate import edit_distance
from gradalign.errors import FormatError, GradalignError
from gradalign.io._files import write_text
from gradalign.lexicon import PHONES
from gradalign.nn.aed import AED
from gradalign.training.checkpoint import Checkpoints, TrainState
from gradalign.training.config import LossConfig, TrainConfig
from gradalign.training.data import Batch, Corpus, dev_batches, digest, hold_out, mixture, read_corpora, stream
from gradalign.training.flops import matmul_flops, matmul_peak
from gradalign.training.loss import Shares, ctc_losses, decoder_losses, losses
from gradalign.training.optimizer import optimizer

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
    init: str | Path | None = None,
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
        init: Model whose parameters to begin with, in place of random ones; of the same network and features.
        report: Told each line worth keeping.
        status: Told, more often, what is going on right now.
        stop_after: End as if interrupted after so many updates in this process.

    Raises:
        FormatError: If the data cannot be read or used, ``out`` holds another run, or ``init`` is another
            kind of model.
        GradalignError: If the loss is not finite; the message names the update and the utterances of the batch.
    """
    out = Path(out)
    _check_folder(config, out, resume=resume)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    network = _network(config, init)
    bundle = Bundle(config.name, network, config.features, PHONES)
    train_set, dev_set = _speech(config, Path(data), bundle, Path(cache or out / "features"), status)
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
    written = Metrics(out, first)
    report(
        f"{network.n_parameters():,} parameters; {len(source)} utterances to train on, "
        f"{sum(int((b.n_labels > 0).sum()) for b in dev)} to measure on; {n_devices} device(s)"
    )
    speed = Speed()
    key = jax.random.key(config.seed)
    step, reason = first, "no better" if _no_better(config, progress) else "finished"
    # One that had stopped, and was killed before its last model was written, must not go on.
    until = config.steps if reason == "finished" else first
    with closing(checkpoints), closing(written), _signals() as stopped:
        for step, (batch, names) in enumerate(stream(source, first + 1, until), start=first + 1):
            placed = place(batch, mesh)
            salient = saliency_due(config, step, batch.features.shape[1])
            arguments = (state, placed, jax.random.fold_in(key, step), shares_at(config, step))
            if first + 1 == step:
                status("compiling the first update")
                plain = partial(update, graph=graph, tx=tx, settings=settings_of(config, salient=False))
                speed.count(matmul_flops(plain, *arguments), batch.features.shape)
            state, metrics = update(*arguments, graph=graph, tx=tx, settings=settings_of(config, salient=salient))
            values = {name: float(value) for name, value in metrics.items()}
            if not np.isfinite(values["loss"]) or not np.isfinite(values["grad_norm"]):
                # The update left the state as it was: what is kept is the last good one.
                checkpoints.save(step - 1, state, progress)
                _export(bundle, state, out / "models" / "last")
                raise GradalignError(_not_finite(step, values, names, out / "models" / "last"))
            progress["hours"] += float(batch.n_frames.sum()) * hop_s / 3600
            speed.tick(batch.features.shape, salient=salient)
            written.add(values)
            if step % config.run.report_every == 0 or step == first + 1:
                line = written.flush(step, progress["hours"], speed.frames_per_s)
                report(_line(line, step, config.steps, speed))
            status(f"update {step}/{config.steps}, {speed.left(config.steps - step)} left")
            if dev and (step % config.run.dev_every == 0 or step == config.steps):
                status(f"update {step}: measuring on {len(dev)} batches kept aside")
                found = measure(graph, state.averaged, dev, mesh, config)
                written.write("dev", step, found)
                report(_dev_line(step, found))
                if warning := reversal_warning(found["cross_flip"]):
                    log.warning("update %d: %s", step, warning)
                # Without CTC there is no error rate to go by.
                badness = found.get("per", found["attention"])
                if progress["best_per"] is None or badness < progress["best_per"]:
                    progress |= {"best_per": badness, "best_step": step, "worse": 0}
                    _export(bundle, state, out / "models" / "best")
                else:
                    progress["worse"] += 1
                speed.pause()
            if config.run.export_every and step % config.run.export_every == 0:
                _export(bundle, state, out / "models" / f"step-{step}")
            enough = stop_after is not None and step - first >= stop_after
            if _no_better(config, progress):
                reason = "no better"
            elif (stopped() or enough) and step < config.steps:
                reason = "interrupted"
            last = step == config.steps or reason != "finished"
            if last or step % config.run.checkpoint_every == 0:
                checkpoints.save(step, state, progress)
                speed.pause()
            if last:
                break
    model = None
    if reason != "interrupted":
        model = out / "models" / "last"
        _export(bundle, state, model)
    best = out / "models" / "best"
    per = progress["best_per"] if config.loss.ctc else None
    return Outcome(step, reason, model, best if best.is_dir() else None, per)


def saliency_due(config: TrainConfig, step: int, frames: int) -> bool:
    """Whether the saliency is trained at this update, whose examples have so many frames."""
    loss = config.loss
    due = loss.saliency > 0 and step >= loss.saliency_start and step % loss.saliency_every == 0
    return due and frames <= loss.saliency_max_frames


def shares_at(config: TrainConfig, step: int) -> Shares:
    """What holds at an update, counted from 1."""
    augment, guided, remedies = config.augment, config.loss.guided_steps, config.remedies
    grown = (step - augment.start_step) / max(augment.full_step - augment.start_step, 1)
    share = augment.share * float(np.clip(grown, 0, 1)) * (step > augment.start_step)
    guide = float(np.clip(2 - step / guided, 0, 1)) if guided else 0.0
    heard = None if not remedies.self_attention_from else float(step >= remedies.self_attention_from)
    centre = None
    if remedies.centre_attention_until or remedies.centre_attention_fade:
        centre = (step - remedies.centre_attention_until) / max(remedies.centre_attention_fade, 1)
        centre = float(np.clip(centre, 0, 1))
    as_array = jnp.float32
    return Shares(
        as_array(share),
        as_array(guide),
        None if heard is None else as_array(heard),
        None if centre is None else as_array(centre),
    )


def place(batch: Batch, mesh: Mesh) -> Batch:
    """The batch on the devices, its examples divided among them."""
    return Batch(*(jax.device_put(part, NamedSharding(mesh, PartitionSpec("data"))) for part in batch))


class Settings(NamedTuple):
    """What of a config an update is compiled for."""

    loss: LossConfig
    mix: float
    average: float
    precision: str
    with_saliency: bool


def settings_of(config: TrainConfig, *, salient: bool) -> Settings:
    """The settings of an update with or without the loss on the saliency."""
    return Settings(config.loss, config.augment.mix, config.optimizer.average, config.optimizer.precision, salient)


@partial(jax.jit, static_argnames=("graph", "tx", "settings"), donate_argnums=0)
def update(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    shares: Shares,
    *,
    graph: Any,
    tx: optax.GradientTransformation,
    settings: Settings,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update; with a loss or a gradient that is not finite the state stays as it was.

    The batch is divided among the devices and the state is whole on each: the compiler puts the sums
    over devices where they belong.
    """
    dtype = jnp.dtype(settings.precision)

    def loss_of(params):
        used = jax.tree.map(lambda p: p.astype(dtype), params)
        return losses(
            nnx.merge(graph, used),
            Batch(*batch),
            key,
            shares,
            settings.loss,
            mix=settings.mix,
            with_saliency=settings.with_saliency,
        )

    grads, metrics = jax.grad(loss_of, has_aux=True)(state.params)
    norm = optax.tree.norm(grads)
    updates, moments = tx.update(grads, state.moments, state.params)
    params = optax.apply_updates(state.params, updates)
    # A mean over all updates so far at first, then over the last ones.
    count = optax.tree.get(moments, "count", filtering=lambda path, _: "ScaleByAdam" in str(path)).astype(jnp.float32)
    decay = jnp.minimum(settings.average, (1.0 + count) / (10.0 + count))
    averaged = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.averaged, params)
    good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
    new = TrainState(params, averaged, moments)
    return jax.tree.map(lambda n, old: jnp.where(good, n, old), new, state), metrics | {"grad_norm": norm}


def measure(graph: Any, params: Any, batches: list[Batch], mesh: Mesh, config: TrainConfig) -> dict[str, float]:
    """Losses a label, accuracy of the decoder given the right history, and phone error rate of greedy CTC.

    And ``cross_flip``, the flip index of cross-attention: positive where it falls, as behind an encoder that reverses
    time. No augmentation, no dropout, no remedies; no error rate if CTC is not trained.
    """
    sums: dict[str, float] = {}
    labels = edits = 0
    for batch in batches:
        parts, heard = _measure(params, place(batch, mesh), graph=graph, smoothing=config.loss.label_smoothing)
        n = int(batch.n_labels.sum())
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value) * n
        labels += n
        found = np.asarray(heard)
        subsampling = batch.features.shape[1] // found.shape[1]
        for row, n_frames, said, n_labels in zip(found, batch.n_frames, batch.labels, batch.n_labels, strict=True):
            if n_labels:
                best = _collapsed(row[: -(-int(n_frames) // subsampling)])
                edits += edit_distance(said[:n_labels].tolist(), best).errors
    means = {name: total / labels for name, total in sums.items()}
    return means | {"per": edits / labels} if config.loss.ctc else means


@partial(jax.jit, static_argnames=("graph", "smoothing"))
def _measure(params: Any, batch: Batch, *, graph: Any, smoothing: float):
    """Losses of a batch, and the best label of each encoder frame."""
    network = nnx.merge(graph, params)
    out = jax.vmap(lambda x, n, y: network.training_pass(x, n, y, None))(batch.features, batch.n_frames, batch.labels)
    decoder_loss, accuracy = decoder_losses(out.log_probs, batch, smoothing)
    heard = out.ctc_log_probs[:, -1]
    ctc_loss = ctc_losses(heard, batch.n_frames, batch, batch.features.shape[1] // heard.shape[1])
    n_labels = jnp.maximum(batch.n_labels, 1)
    n_encoder = -(-batch.n_frames // (batch.features.shape[1] // heard.shape[1]))
    flips = jax.vmap(lambda m, s, t: label_flip_index(m, n_labels=s, n_frames=t))(
        out.attention, n_labels, jnp.maximum(n_encoder, 1)
    )
    # By labels, as the others; an example without labels is padding.
    flip = (flips * batch.n_labels).sum() / jnp.maximum(batch.n_labels.sum(), 1)
    parts = {"attention": decoder_loss, "ctc": ctc_loss, "accuracy": accuracy, "cross_flip": flip}
    return parts, heard.argmax(-1)


def reversal_warning(cross_flip: float) -> str | None:
    """What to tell of a model whose cross-attention falls, with the remedies; None for any other.

    Args:
        cross_flip: Flip index of its cross-attention; see `gradalign.analysis.diagonality.label_flip_index`.
    """
    if cross_flip < 0.1:
        return None
    return (
        f"cross-attention runs backwards (flip index {cross_flip:+.2f}): the encoder seems to reverse time, and only "
        "gradients at the input will align. Remedies, in a new run: loss.ctc = 0.3, remedies.self_attention_from, "
        "remedies.centre_attention_until or network.diagonal_bias; gradalign inspect tells more"
    )


class Metrics:
    """``metrics.jsonl`` and, with tensorboardX installed, the same for TensorBoard; means since the last line."""

    def __init__(self, out: Path, resumed_at: int):
        self._path = out / "metrics.jsonl"
        if self._path.exists():
            # What was written after the checkpoint will be written again; so will a line that a crash cut off.
            whole = self._path.read_text("utf-8").splitlines(keepends=True)
            lines = [line for line in whole if line.endswith("}\n") and json.loads(line)["step"] <= resumed_at]
            write_text(self._path, "".join(lines), overwrite=True)
        self._file = self._path.open("a", encoding="utf-8")
        self._window: list[dict[str, float]] = []
        self._board = None
        if importlib.util.find_spec("tensorboardX") is not None:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=resumed_at + 1)

    def add(self, values: dict[str, float]) -> None:
        """Note what an update measured."""
        self._window.append(values)

    def flush(self, step: int, hours: float, frames_per_s: float) -> dict[str, float]:
        """Write the means since the last time."""
        names = {name for values in self._window for name in values}
        mean = {k: float(np.mean([v[k] for v in self._window if k in v])) for k in sorted(names)}
        self._window = []
        mean |= {"hours": hours, "frames_per_s": frames_per_s}
        self.write("train", step, mean)
        return mean

    def write(self, part: str, step: int, values: dict[str, float]) -> None:
        """Write one line of metrics."""
        line = {"step": step, "part": part, **{name: round(value, 5) for name, value in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            if self._board is not None:
                self._board.add_scalar(f"{part}/{name}", value, step)

    def close(self) -> None:
        """Let go of the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


class Speed:
    """Frames a second, share of the machine's matmul peak, and time left; compilation and measuring left out."""

    def __init__(self) -> None:
        self._flops_per_frame = 0.0
        self._peak = 0.0
        self._seen: set[tuple] = set()
        self._last: float | None = None
        self._seconds = self._frames = 0.0
        self._updates = 0

    def count(self, flops: float, shape: tuple[int, ...]) -> None:
        """Note the arithmetic of one update of this shape, and measure what the machine can do."""
        self._flops_per_frame = flops / (shape[0] * shape[1])
        self._peak = matmul_peak() * len(jax.devices())

    def tick(self, shape: tuple[int, ...], *, salient: bool) -> None:
        """Note that an update has ended; the first of each shape was compiled and does not count."""
        now = time.monotonic()
        if (shape, salient) in self._seen and self._last is not None:
            # Older updates fade, so that the rate is that of now.
            self._seconds = 0.99 * self._seconds + now - self._last
            self._frames = 0.99 * self._frames + shape[0] * shape[1]
            self._updates = 0.99 * self._updates + 1
        self._seen.add((shape, salient))
        self._last = now

    def pause(self) -> None:
        """What was done since the last update was no update."""
        self._last = time.monotonic()

    @property
    def frames_per_s(self) -> float:
        """Feature frames a second, padding included; 0 if not known yet."""
        return self._frames / self._seconds if self._seconds else 0.0

    @property
    def of_peak(self) -> float:
        """Share of the peak of one float32 matrix product, in [0, 1]; for updates without saliency."""
        return self.frames_per_s * self._flops_per_frame / self._peak if self._peak else 0.0

    def left(self, updates: int) -> str:
        """Time for so many updates, in words."""
        if not self._updates:
            return "time unknown"
        seconds = updates * self._seconds / self._updates
        return f"{seconds / 3600:.1f} h" if seconds > 5400 else f"{seconds / 60:.0f} min"


def _collapsed(best: np.ndarray) -> list[int]:
    """Repeats as one, then without blanks."""
    first = np.diff(best, prepend=-1) != 0
    return best[first & (best > 0)].tolist()


def _line(values: dict[str, float], step: int, steps: int, speed: Speed) -> str:
    names = {"loss": "loss", "attention": "decoder", "ctc": "ctc", "saliency": "saliency", "accuracy": "accuracy"}
    parts = [f"{shown} {values[name]:.3f}" for name, shown in names.items() if name in values]
    if speed.frames_per_s:
        parts.append(f"{speed.frames_per_s:,.0f} frames/s ({100 * speed.of_peak:.0f} % of matmul peak)")
        parts.append(f"{speed.left(steps - step)} left")
    return f"update {step}/{steps}: " + ", ".join(parts)


def _dev_line(step: int, found: dict[str, float]) -> str:
    per = f"PER {100 * found['per']:.1f} %, " if "per" in found else ""
    return (
        f"update {step}, kept aside: {per}decoder {found['attention']:.3f}, ctc {found['ctc']:.3f}, "
        f"accuracy {found['accuracy']:.3f}"
    )


def _not_finite(step: int, values: dict[str, float], names: tuple[str, ...], kept: Path) -> str:
    who = list(dict.fromkeys(names))
    more = f" and {len(who) - 40} more" if len(who) > 40 else ""
    return (
        f"update {step}: the loss is {values['loss']}, the norm of the gradient {values['grad_norm']}. "
        f"Utterances of the batch: {', '.join(who[:40])}{more}. The state before it is kept, as a model in {kept}. "
        f"Look at these utterances, or begin in another folder with a lower optimizer.peak and --init {kept}"
    )


def _check_same(now: dict[str, Any], before: dict[str, Any], out: Path) -> None:
    """Other data, or another number of devices, would give other batches without a word."""
    for name, what in (("devices", "number of devices"), ("data", "data")):
        if before.get(name, now[name]) != now[name]:
            raise FormatError(
                f"{out} was trained with another {what} ({before[name]}, now {now[name]}), so that it cannot go on as "
                "it would have; give it the same, or begin in another folder with --init"
            )


def _no_better(config: TrainConfig, progress: dict[str, Any]) -> bool:
    return 0 < config.run.patience <= progress["worse"]


def _described(config: TrainConfig) -> str:
    return json.dumps(dataclasses.asdict(config), indent=1)


def _check_folder(config: TrainConfig, out: Path, *, resume: bool) -> None:
    """Make sure that ``out`` is free, or holds this very run."""
    if out.exists() and not out.is_dir():
        raise FormatError(f"{out} is a file, expected a folder for results")
    path = out / "config.json"
    if not path.exists():
        return
    if not resume:
        raise FormatError(f"{out} holds a run already; go on with --resume, or choose another folder")
    try:
        before = dict(json.loads(path.read_text("utf-8")))
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path}: not the config of a run ({error}); choose another folder") from error
    now = json.loads(_described(config))
    if changed := [k for k in now if now[k] != before.get(k)]:
        raise FormatError(
            f"{out} was trained with another config ({', '.join(changed)} differ); resume with the config it began "
            "with, or begin in another folder, perhaps with --init"
        )


def _network(config: TrainConfig, init: str | Path | None) -> AED:
    """A network with random parameters, or with those of a model."""
    if config.network.vocabulary != len(PHONES) + 1:
        raise FormatError(f"network.vocabulary must be {len(PHONES) + 1} for phone labels")
    if init is None:
        return AED(config.network, rngs=nnx.Rngs(config.seed))
    given = load(init)
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
        raise FormatError(f"cannot begin with the parameters of {init}: {'; '.join(problems)}")
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


def _export(bundle: Bundle, state: TrainState, folder: Path) -> None:
    """The running mean as a model. What is in ``folder`` is always whole: a kill may leave a draft beside it."""
    here = jax.tree.map(lambda p: jnp.asarray(jax.device_get(p)), state.averaged)
    nnx.update(bundle.network, here)
    draft, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
    for left in (draft, old):
        shutil.rmtree(left, ignore_errors=True)
    save(bundle, draft)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


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
