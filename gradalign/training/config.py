"""The one file that describes a training run: read from TOML, checked, and nothing else decides."""

import dataclasses
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from gradalign._types import Precision
from gradalign.errors import FormatError
from gradalign.features import LogMel
from gradalign.nn.config import AEDConfig, leaf_depth

ScheduleName = Literal["cosine", "inverse_sqrt"]
OptimizerName = Literal["adamw", "muon"]


@dataclass(frozen=True, slots=True)
class Source:
    """Speech to train on.

    Attributes:
        path: A manifest, or a folder in the LibriSpeech or MFA layout; relative to the data folder of the run.
        weights: Share of the draws from each set in it, relative to all other weights; sets that are not
            named are left out. Empty: one set of weight 1.
    """

    path: str
    weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is trained on, and in which shapes.

    Attributes:
        train: Where the speech is.
        dev: Speech for early stopping; empty: a share ``hold_out`` of each set of ``train`` instead.
        hold_out: Share of the utterances kept from training for that, in [0, 0.5].
        frames_per_batch: Feature frames of a batch, padding included, on all devices together.
        lengths: Frames of the examples of each bucket, increasing; each is one compiled program.
        shares: Share of the batches that each bucket gets.
        join: Share of the examples of the shorter half of buckets made of several utterances end to end; those
            of longer buckets always are.
        easy_steps: First batches with single utterances of the two shortest buckets only.
    """

    train: tuple[Source, ...] = ()
    dev: tuple[Source, ...] = ()
    hold_out: float = 0.01
    frames_per_batch: int = 5120
    lengths: tuple[int, ...] = (320, 640, 1280, 2560)
    shares: tuple[float, ...] = (0.25, 0.45, 0.22, 0.08)
    join: float = 0.4
    easy_steps: int = 0


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """How strongly features are changed.

    Attributes:
        share: Share of examples that are changed, in [0, 1].
        mix: Share of those that also get another example of the batch as background speech, in [0, 1].
        pause: Share of those with exact times that get a pause, before, in or after what is said, in [0, 1].
        smooth: Share of those whose spectra are made smooth, as those of parametric synthesisers are, in [0, 1].
        start_step: No augmentation up to here; a network that does not know speech yet learns nothing from
            what is hard to hear.
        full_step: From here on ``share``; in between it grows linearly.
    """

    share: float = 0.6
    mix: float = 0.1
    pause: float = 0.0
    smooth: float = 0.0
    start_step: int = 0
    full_step: int = 0


@dataclass(frozen=True, slots=True)
class LossConfig:
    """What is minimised, a label.

    Attributes:
        ctc: Weight of the CTC loss in [0, 1]; the decoder's cross-entropy has the rest. With 0 there is no phone
            error rate: the best model is then the one with the least loss of the decoder.
        ctc_blocks: Blocks, counted from 1, whose output the CTC head also reads.
        ctc_blocks_share: Share of the CTC loss that they have together, in [0, 1].
        label_smoothing: In [0, 1).
        guided_steps: First updates that also learn from exact times, where known; as many again fade this out.
        saliency: Weight of the loss on the saliency itself, for examples with exact times; 0 is off.
        saliency_leaf: Where its gradients are taken: "features", "stem", "block-K" or "encoder".
        saliency_start: First update with it.
        saliency_every: It is computed on one of so many updates; these take several times as long.
        saliency_max_frames: It is not computed on batches with longer examples than this.
        saliency_examples: Examples of a batch whose saliency is trained.
        saliency_labels: Labels of each of them, or pull-backs with a stride.
        saliency_stride: Labels so many apart share a pull-back, and each counts on the frames nearest to it: many
            times as many labels at the price of one. 0: each label has its own.
        saliency_boundary: Weight beside that of the loss on where neighbours meet, 0 is off; it needs a stride and two
            pull-backs or more, which are then of neighbouring labels.
        saliency_silence: Weight beside that of the loss on which frames are silence, 0 is off.
    """

    ctc: float = 0.3
    ctc_blocks: tuple[int, ...] = ()
    ctc_blocks_share: float = 0.3
    label_smoothing: float = 0.1
    guided_steps: int = 0
    saliency: float = 0.0
    saliency_leaf: str = "features"
    saliency_start: int = 0
    saliency_every: int = 1
    saliency_max_frames: int = 1280
    saliency_examples: int = 8
    saliency_labels: int = 4
    saliency_stride: int = 0
    saliency_boundary: float = 0.0
    saliency_silence: float = 0.0


@dataclass(frozen=True, slots=True)
class RemedyConfig:
    """Remedies against encoders that reverse time, all off by default (method of Schmitt et al. 2025).

    Attributes:
        self_attention_from: Before this update each encoder frame attends to itself alone.
        centre_attention_until: Up to this update every label attends to the middle frame alone.
        centre_attention_fade: So many updates after that it goes over to the learned weights.
    """

    self_attention_from: int = 0
    centre_attention_until: int = 0
    centre_attention_fade: int = 0


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """AdamW or Muon with clipping and a learning rate schedule.

    Attributes:
        method: "adamw"; or "muon", which makes the step of each inner matrix orthogonal and leaves all else to
            Adam with Nesterov's momentum, undecayed. Its steps are as large as those of AdamW, so both want like
            learning rates.
        peak: Highest learning rate.
        warmup: Updates of linear growth to it.
        schedule: "cosine" falls to ``peak * final`` at the last update; "inverse_sqrt" as 1 / sqrt(update).
        final: Share of the peak at the end of a cosine.
        b2: Decay of the second moment.
        weight_decay: Decoupled, on matrices only.
        clip: Largest global norm of the gradient.
        average: Decay of the running mean of the parameters, which is what is kept as the model; 0 is none.
        frozen: Parts of the network that stay as they are: "encoder", "decoder", "ctc_head". What lies before all that
            is trained is not differentiated, which saves time.
        precision: What the network computes in; parameters, norms, softmax and losses stay float32.
    """

    method: OptimizerName = "adamw"
    peak: float = 2e-3
    warmup: int = 500
    schedule: ScheduleName = "cosine"
    final: float = 0.02
    b2: float = 0.98
    weight_decay: float = 1e-2
    clip: float = 1.0
    average: float = 0.999
    frozen: tuple[str, ...] = ()
    precision: Precision = "float32"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """How the run is watched and kept.

    Attributes:
        report_every: Updates between lines of metrics.
        checkpoint_every: Updates between checkpoints, which a killed run resumes from.
        keep: Checkpoints kept.
        export_every: Updates between model folders for later comparison; 0 for none but the last and the best.
        dev_every: Updates between measurements on the dev utterances.
        patience: Measurements without a better phone error rate before the run stops; 0 never stops.
    """

    report_every: int = 20
    checkpoint_every: int = 250
    keep: int = 2
    export_every: int = 1000
    dev_every: int = 500
    patience: int = 0


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A whole run. The same file, data, device and versions give the same model.

    Attributes:
        name: Of the model.
        steps: Updates.
        seed: Of everything random.
    """

    name: str = "model"
    steps: int = 3000
    seed: int = 1
    network: AEDConfig = field(default_factory=AEDConfig)
    features: LogMel = field(default_factory=LogMel)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    remedies: RemedyConfig = field(default_factory=RemedyConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def problems(self) -> list[str]:
        """What is wrong with it, one sentence each."""
        data, loss = self.data, self.loss
        found = [] if data.train else ["data.train names no speech to train on"]
        for name, (words, allows) in _RANGES.items():
            value = attrgetter(name)(self)
            if not allows(value):
                found.append(f"{name} must {words}, got {value}")
        if self.network.n_mels != self.features.n_mels:
            found.append(f"network.n_mels {self.network.n_mels} must be features.n_mels {self.features.n_mels}")
        shares_add_up = all(share >= 0 for share in data.shares) and sum(data.shares) > 0
        if len(data.lengths) != len(data.shares) or not shares_add_up:
            found.append(f"data.lengths {data.lengths} needs as many data.shares >= 0, not all 0, got {data.shares}")
        if list(data.lengths) != sorted(set(data.lengths)) or any(n % 160 or n <= 0 for n in data.lengths):
            found.append(f"data.lengths must be increasing multiples of 160 frames, got {data.lengths}")
        try:
            leaf_depth(loss.saliency_leaf, self.network.encoder_layers)
        except ValueError as error:
            found.append(f"loss.saliency_leaf: {error}")
        parts = ("encoder", "decoder", "ctc_head")
        if not set(self.optimizer.frozen) < set(parts):
            found.append(f"optimizer.frozen must be some of {', '.join(parts)}, not all, got {self.optimizer.frozen}")
        blocks = (0, *loss.ctc_blocks, self.network.encoder_layers)
        if list(blocks) != sorted(set(blocks)):
            found.append(f"loss.ctc_blocks {loss.ctc_blocks} must increase within 1..{self.network.encoder_layers - 1}")
        if loss.saliency_boundary and not (loss.saliency > 0 and min(loss.saliency_stride, loss.saliency_labels) > 1):
            found.append(
                "loss.saliency_boundary has no effect without loss.saliency more than 0 and loss.saliency_stride and "
                "loss.saliency_labels at least 2, "
                f"got {loss.saliency}, {loss.saliency_stride} and {loss.saliency_labels}"
            )
        return found


class _Range(NamedTuple):
    """What a number may be: in words, after "must", and as a check, which no NaN passes."""

    words: str
    allows: Callable[[float], bool]


_POSITIVE_COUNT = _Range("be at least 1", lambda value: value >= 1)
_NOT_NEGATIVE = _Range("be at least 0", lambda value: value >= 0)
_SHARE = _Range("lie in [0, 1]", lambda value: 0 <= value <= 1)
_SHARE_BELOW_1 = _Range("lie in [0, 1)", lambda value: 0 <= value < 1)

# In the order in which problems are told.
_RANGES = {
    "steps": _POSITIVE_COUNT,
    "data.frames_per_batch": _POSITIVE_COUNT,
    "loss.saliency_every": _POSITIVE_COUNT,
    "loss.saliency_examples": _POSITIVE_COUNT,
    "loss.saliency_labels": _POSITIVE_COUNT,
    "run.report_every": _POSITIVE_COUNT,
    "run.checkpoint_every": _POSITIVE_COUNT,
    "run.keep": _POSITIVE_COUNT,
    "run.dev_every": _POSITIVE_COUNT,
    "seed": _NOT_NEGATIVE,
    "data.easy_steps": _NOT_NEGATIVE,
    "augment.start_step": _NOT_NEGATIVE,
    "augment.full_step": _NOT_NEGATIVE,
    "loss.guided_steps": _NOT_NEGATIVE,
    "loss.saliency": _NOT_NEGATIVE,
    "loss.saliency_start": _NOT_NEGATIVE,
    "loss.saliency_stride": _NOT_NEGATIVE,
    "loss.saliency_boundary": _NOT_NEGATIVE,
    "loss.saliency_silence": _NOT_NEGATIVE,
    "remedies.self_attention_from": _NOT_NEGATIVE,
    "remedies.centre_attention_until": _NOT_NEGATIVE,
    "remedies.centre_attention_fade": _NOT_NEGATIVE,
    "optimizer.peak": _NOT_NEGATIVE,
    "optimizer.warmup": _NOT_NEGATIVE,
    "optimizer.final": _NOT_NEGATIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "run.export_every": _NOT_NEGATIVE,
    "run.patience": _NOT_NEGATIVE,
    "augment.share": _SHARE,
    "augment.mix": _SHARE,
    "augment.pause": _SHARE,
    "augment.smooth": _SHARE,
    "data.join": _SHARE,
    "loss.ctc": _SHARE,
    "loss.ctc_blocks_share": _SHARE,
    "data.hold_out": _Range("lie in [0, 0.5]", lambda value: 0 <= value <= 0.5),
    "loss.label_smoothing": _SHARE_BELOW_1,
    "optimizer.average": _SHARE_BELOW_1,
    "optimizer.b2": _SHARE_BELOW_1,
    "optimizer.clip": _Range("be more than 0", lambda value: value > 0),
}

_SECTIONS = {
    "network": AEDConfig,
    "features": LogMel,
    "data": DataConfig,
    "augment": AugmentConfig,
    "loss": LossConfig,
    "remedies": RemedyConfig,
    "optimizer": OptimizerConfig,
    "run": RunConfig,
}


def read(path: str | Path, *, changes: Sequence[str] = ()) -> TrainConfig:
    """The run that a TOML file describes; what it leaves out has the default.

    Args:
        path: The file.
        changes: Options in place of those in the file, each as a line of TOML such as "optimizer.peak=1e-3".

    Raises:
        FormatError: If the file cannot be read, names an option that does not exist, or an option has a value
            of the wrong kind or out of range. All problems are named.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FormatError(f"{path}: unreadable training config: {error}") from error
    for change in changes:
        try:
            _merge(table, tomllib.loads(change))
        except tomllib.TOMLDecodeError as error:
            example = 'optimizer.peak=1e-3 or name="mine"'
            raise FormatError(f"{change!r} changes no option: {error}; write it as in TOML, {example}") from error
    return parse(table, str(path))


def _merge(table: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value


def parse(table: dict[str, Any], name: str) -> TrainConfig:
    """`read` for a table that was read already; ``name`` is for messages.

    Raises:
        FormatError: As in `read`.
    """
    problems: list[str] = []
    sections: dict[str, Any] = {}
    top = {key: value for key, value in table.items() if key not in _SECTIONS}
    for key, kind in _SECTIONS.items():
        values = table.get(key, {})
        if not isinstance(values, dict):
            problems.append(f"{key} must be a table, [{key}]")
            continue
        values = dict(values)
        if kind is DataConfig:
            values |= {part: _sources(values[part], part, problems) for part in ("train", "dev") if part in values}
        checked = _checked(kind, values, f"{key}.", problems)
        try:
            sections[key] = kind(**checked)
        except ValueError as error:
            problems.append(f"{key}: {error}")
    checked = _checked(TrainConfig, top, "", problems)
    if not problems:
        config = TrainConfig(**checked, **sections)
        problems = config.problems()
        if not problems:
            return config
    raise FormatError(f"{name}: {'; '.join(problems)}")


def _checked(kind: type, values: dict[str, Any], prefix: str, problems: list[str]) -> dict[str, Any]:
    """``values`` as the fields of ``kind`` want them; what does not fit goes to ``problems``."""
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in _SECTIONS}
    good: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            problems.append(f"there is no option {prefix}{key}; there are {', '.join(sorted(fields))}")
            continue
        default = fields[key].default
        if isinstance(value, list):
            value = tuple(value)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        choices = get_args(fields[key].type) if get_origin(fields[key].type) is Literal else ()
        if choices and value not in choices:
            problems.append(f"{prefix}{key} must be one of {', '.join(choices)}, got {value!r}")
        elif type(value) is not type(default):
            problems.append(f"{prefix}{key} must be {_kind(default)}, got {value!r}")
        elif isinstance(value, tuple):
            kind_of_part = get_args(fields[key].type)[0]
            allowed = (int, float) if kind_of_part is float else (kind_of_part,)
            if all(type(part) in allowed for part in value):
                good[key] = tuple(float(part) if kind_of_part is float else part for part in value)
            else:
                problems.append(f"{prefix}{key} must be a list, each {_kind(kind_of_part())}, got {list(value)!r}")
        else:
            good[key] = value
    return good


def _kind(default: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", tuple: "a list"}
    return names[type(default)]


def _sources(tables: Any, part: str, problems: list[str]) -> tuple[Source, ...]:
    if not isinstance(tables, list) or not all(isinstance(t, dict) and isinstance(t.get("path"), str) for t in tables):
        problems.append(f'data.{part} must be a list of tables such as {{ path = "train.jsonl" }}')
        return ()
    found = []
    for table in tables:
        weights = table.get("weights", {})
        if set(table) - {"path", "weights"}:
            problems.append(f"data.{part} knows path and weights, got {sorted(table)}")
        if not isinstance(weights, dict) or not all(type(w) in (int, float) and w > 0 for w in weights.values()):
            problems.append(f"data.{part}: weights must be a table of numbers > 0 by set, got {weights!r}")
            continue
        found.append(Source(table["path"], {name: float(weight) for name, weight in weights.items()}))
    return tuple(found)
