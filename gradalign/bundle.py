"""A model as one thing: network, features, labels and times, as loaded from or saved to a folder.

A folder holds ``config.json``, ``params.safetensors``, ``card.md`` and ``calibration.json``, the last two if it has
them. Nothing in it is executed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from flax import nnx

from gradalign import calibration as calibrations
from gradalign._types import LoadedPrecision, Precision
from gradalign.analysis.verdict import TimeOrder, place
from gradalign.calibration import Calibration
from gradalign.device import fast_bfloat16
from gradalign.errors import AlignmentError, FormatError
from gradalign.features import LogMel
from gradalign.io._files import write_text
from gradalign.nn.aed import AED
from gradalign.nn.config import AEDConfig
from gradalign.timing import FrameGrid

FORMAT = "gradalign-model"
VERSION = 1
DEFAULT = "en-us"
CALIBRATION = "calibration.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """Everything that belongs to one trained model.

    Attributes:
        name: Short name, shown in results.
        network: The attention encoder-decoder.
        features: How its log-mel frames are made.
        labels: Names of ids 1, 2, ...; id 0 is blank and sentence boundary.
        max_duration_s: Longest recording it takes in one piece; attention memory grows with its square.
        card: Text of the model card, "" if there is none.
        calibrations: How its evidence relates to true times, by method; empty if it has not learnt any.
        calibrated_on: On what, in words.
        time_order: What its encoder does to the order of time, as far as `gradalign inspect --save` has found out.
    """

    name: str
    network: AED
    features: LogMel
    labels: tuple[str, ...]
    max_duration_s: float = 60.0
    card: str = ""
    calibrations: Mapping[str, Calibration] = dataclasses.field(default_factory=dict)
    calibrated_on: str = ""
    time_order: TimeOrder | None = None

    @property
    def grid(self) -> FrameGrid:
        """Times of the feature frames."""
        return self.features.grid

    @property
    def encoder_grid(self) -> FrameGrid:
        """Times of the encoder frames."""
        return self.grid.subsampled(self.network.config.subsampling)

    def ids(self, phones: tuple[str, ...]) -> np.ndarray:
        """Label ids of phones, counted from 1, in their order.

        Raises:
            AlignmentError: If the model lacks a phone; the message lists those it has.
        """
        table = {label: i for i, label in enumerate(self.labels, start=1)}
        unknown = sorted({p for p in phones if p not in table})
        if unknown:
            raise AlignmentError(
                f"model {self.name!r} has no label for {unknown}; it knows {list(self.labels)}. For a model with "
                "other labels than phones make the transcript with Transcript.from_units"
            )
        return np.array([table[p] for p in phones], np.int32)

    def check_time_order(self, source: str, depth: int) -> None:
        """Refuse evidence from behind a block that is known to reverse time: its frames are not those of the speech.

        Args:
            source: What the evidence is, for the message.
            depth: Where it is taken: -1 for the features, 0 for the stem's output, ``k`` for that of block ``k``.

        Raises:
            AlignmentError: If the model was found to reverse time before that depth.
        """
        order = self.time_order
        if order is not None and order.block is not None and depth >= order.block:
            earlier = f", or at a leaf before {place(order.block)}" if order.block else ""
            raise AlignmentError(
                f"model {self.name!r}: its {order}, so that {source} would put words at the wrong places; "
                f'align with gradients at the input (method "gradient", leaf "features"){earlier}'
            )


def folder_of(name_or_path: str | Path) -> Path:
    """Where a model lives: a folder given as a path, else one of the models that come with the package.

    Raises:
        FormatError: If there is none; the message lists the models that come with the package.
    """
    given = Path(name_or_path)
    if (given / "config.json").is_file():
        return given
    here = Path(__file__).parent
    # An installed wheel holds the models inside the package, a checkout beside it.
    roots = [here / "models"] + [here.parent / "models"] * (here.parent / "pyproject.toml").is_file()
    shipped = [root for root in roots if root.is_dir()]
    for root in shipped:
        if (root / str(name_or_path) / "config.json").is_file():
            return root / str(name_or_path)
    names = sorted({path.parent.name for root in shipped for path in root.glob("*/config.json")})
    raise FormatError(
        f"no model {str(name_or_path)!r}: expected a folder with config.json and params.safetensors, or one of the "
        f"models that come with gradalign: {', '.join(names) or 'none'}"
    )


def load(
    name_or_path: str | Path = DEFAULT,
    *,
    calibrated: bool = True,
    calibration: str | Path | None = None,
    precision: LoadedPrecision | None = None,
) -> Bundle:
    """Load a model by its name or folder. Touches no network and executes nothing from the folder.

    Args:
        name_or_path: A folder, or the name of a model that comes with the package.
        calibrated: Whether to read what it has learnt from times, too; without, it can be learnt anew.
        calibration: A file of that in place of the model's own.
        precision: What it computes in. By default "mixed" where `gradalign.device.fast_bfloat16` holds, else "float32":
            "mixed" takes the products with the network's kernels in bfloat16 on the way back of gradients in windows,
            and all else in float32, which moves boundaries by next to nothing. "bfloat16" takes all products in it, for
            devices that are faster with it; CPUs are slower.

    Raises:
        FormatError: If there is no such model, a file is unreadable or truncated, or parameters and
            config do not belong together; all missing, extra and misshapen parameters are named. Or if what it
            has learnt from times was learnt for other parameters.
        ValueError: If a calibration is given and none is wanted, or for an unknown precision.
    """
    if precision is None:
        precision = "mixed" if fast_bfloat16() else "float32"
    if precision not in get_args(LoadedPrecision):
        raise ValueError(f"precision must be one of {', '.join(get_args(LoadedPrecision))}; got {precision!r}")
    if calibration is not None and not calibrated:
        raise ValueError(f"a calibration goes with calibrated=True, got {calibration} and False")
    folder = folder_of(name_or_path)
    config = _read_config(folder / "config.json")
    try:
        network_config = AEDConfig(**config["network"])
        features = LogMel(**config["features"])
        labels = tuple(config["labels"])
        name, limit = str(config["name"]), float(config["max_duration_s"])
        found = config.get("time_order")
        order = None if found is None else TimeOrder(**found)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{folder / 'config.json'}: not a config of a gradalign model: {error}") from error
    if len(labels) + 1 != network_config.vocabulary:
        raise FormatError(
            f"{folder / 'config.json'}: {len(labels)} labels need vocabulary {len(labels) + 1}, "
            f"got {network_config.vocabulary}"
        )
    if features.n_mels != network_config.n_mels:
        raise FormatError(
            f"{folder / 'config.json'}: features of {features.n_mels} mels do not fit a network of "
            f"{network_config.n_mels}"
        )
    params = folder / "params.safetensors"
    arrays = _read_params(params)
    network = _fill(network_config, arrays, params, "bfloat16" if precision == "bfloat16" else "float32")
    network.windows_in = "float32" if precision == "float32" else "bfloat16"
    card, own = folder / "card.md", folder / CALIBRATION
    text = card.read_text("utf-8") if card.is_file() else ""
    learnt, about = {}, ""
    if calibrated and (calibration is not None or own.is_file()):
        learnt, about = calibrations.load(calibration or own, network=fingerprint(arrays))
    return Bundle(name, network, features, labels, limit, text, learnt, about, order)


def save(bundle: Bundle, folder: str | Path, *, dtype: Any = np.float32) -> None:
    """Write a model: config, parameters, and card and calibration where it has them.

    Args:
        bundle: The model.
        folder: Where to, made if need be; files that are there are replaced.
        dtype: Of the numbers.

    Raises:
        FormatError: If a file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FormatError(f"{folder}: cannot be made ({error}); choose another folder to write to") from error
    config = {
        "format": FORMAT,
        "version": VERSION,
        "name": bundle.name,
        "max_duration_s": bundle.max_duration_s,
        "network": dataclasses.asdict(bundle.network.config),
        "features": dataclasses.asdict(bundle.features),
        "labels": list(bundle.labels),
    }
    if bundle.time_order is not None:
        config["time_order"] = dataclasses.asdict(bundle.time_order)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n", overwrite=True)
    params = {key: np.asarray(value, dtype) for key, value in flat_params(bundle.network).items()}
    try:
        save_file(params, folder / "params.safetensors")
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{folder / 'params.safetensors'}: cannot be written ({error})") from error
    # The library writes for the owner alone; a model is for everybody who may read its folder.
    (folder / "params.safetensors").chmod((folder / "config.json").stat().st_mode)
    if bundle.card:
        write_text(folder / "card.md", bundle.card, overwrite=True)
    own, network = folder / CALIBRATION, fingerprint(params)
    if bundle.calibrations:
        calibrations.save(bundle.calibrations, own, about=bundle.calibrated_on, network=network)
    elif own.is_file():
        try:
            calibrations.load(own, network=network)
        except FormatError:
            own.unlink()  # that of the parameters which were here before


def save_time_order(order: TimeOrder, folder: str | Path) -> None:
    """Note in a model's config what its encoder does to the order of time; the parameters are not touched.

    Raises:
        FormatError: If there is no config of a model, or it cannot be written.
    """
    path = Path(folder) / "config.json"
    config = _read_config(path) | {"time_order": dataclasses.asdict(order)}
    write_text(path, json.dumps(config, indent=2) + "\n", overwrite=True)


def flat_params(network: nnx.Module) -> dict[str, jax.Array]:
    """The parameters of a network by dotted path."""
    state = nnx.to_flat_state(nnx.state(network, nnx.Param))
    return {".".join(map(str, path)): variable[...] for path, variable in state}


def fingerprint(params: Mapping[str, np.ndarray | jax.Array]) -> str:
    """A short name for these parameters, the same whether they are kept in float32 or float16.

    Args:
        params: By dotted path, as `flat_params` gives them.
    """
    found = hashlib.sha256()
    with np.errstate(over="ignore"):  # those of a run that diverged are infinite in float16
        for name in sorted(params):
            found.update(name.encode())
            found.update(np.asarray(params[name]).astype(np.float16).tobytes())
    return found.hexdigest()[:16]


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path}: unreadable model config: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise FormatError(f'{path}: not the config of a gradalign model (no "format": "{FORMAT}")')
    if config.get("version") != VERSION:
        raise FormatError(
            f"{path}: model format version {config.get('version')}, this gradalign reads {VERSION}; "
            "install the gradalign that wrote it or a newer one"
        )
    return config


def _read_params(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        message = f"{path}: unreadable or truncated parameters ({error}); fetch or save the model anew"
        raise FormatError(message) from error


def _fill(config: AEDConfig, params: dict[str, np.ndarray], path: Path, precision: Precision) -> AED:
    """A network with these parameters; every key must match, both ways."""
    skeleton = nnx.eval_shape(lambda: AED(config, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(skeleton)
    targets = {".".join(map(str, key)): variable for key, variable in nnx.to_flat_state(state)}
    problems = [f"missing {key}" for key in sorted(targets.keys() - params.keys())]
    problems += [f"unexpected {key}" for key in sorted(params.keys() - targets.keys())]
    problems += [
        f"{key} has shape {params[key].shape}, the config wants {targets[key].shape}"
        for key in sorted(targets.keys() & params.keys())
        if params[key].shape != targets[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise FormatError(
            f"{path}: these parameters belong to another config: {'; '.join(problems[:8])}{more}. "
            "Put the config.json and params.safetensors of one model together"
        )
    # Converted on the host and moved at once: as JAX operations, each shape would be a program to load at every start.
    arrays = jax.device_put({key: value.astype(jax.numpy.dtype(precision)) for key, value in params.items()})
    filled = [(key, variable.replace(arrays[".".join(map(str, key))])) for key, variable in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(filled))
