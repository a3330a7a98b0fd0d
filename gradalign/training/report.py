"""What is told about a run: its file of metrics, its speed, and the lines for whoever watches it."""

import importlib.util
import json
import time
from pathlib import Path

import jax
import numpy as np

from gradalign.io._files import write_text
from gradalign.training.flops import matmul_peak


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


def update_line(values: dict[str, float], step: int, steps: int, speed: Speed) -> str:
    """The line on the updates up to ``step``; ``values`` are their means."""
    names = {"loss": "loss", "attention": "decoder", "ctc": "ctc", "saliency": "saliency", "accuracy": "accuracy"}
    parts = [f"{shown} {values[name]:.3f}" for name, shown in names.items() if name in values]
    if speed.frames_per_s:
        parts.append(f"{speed.frames_per_s:,.0f} frames/s ({100 * speed.of_peak:.0f} % of matmul peak)")
        parts.append(f"{speed.left(steps - step)} left")
    return f"update {step}/{steps}: " + ", ".join(parts)


def dev_line(step: int, found: dict[str, float]) -> str:
    """The line on what was measured on the speech kept aside."""
    per = f"PER {100 * found['per']:.1f} %, " if "per" in found else ""
    return (
        f"update {step}, kept aside: {per}decoder {found['attention']:.3f}, ctc {found['ctc']:.3f}, "
        f"accuracy {found['accuracy']:.3f}"
    )


def not_finite(step: int, values: dict[str, float], names: tuple[str, ...], kept: Path) -> str:
    """What to tell of an update whose loss or gradient is not finite.

    Args:
        step: The update.
        values: What it measured.
        names: Utterances of its batch.
        kept: Folder of the model before it.
    """
    who = list(dict.fromkeys(names))
    more = f" and {len(who) - 40} more" if len(who) > 40 else ""
    return (
        f"update {step}: the loss is {values['loss']}, the norm of the gradient {values['grad_norm']}. "
        f"Utterances of the batch: {', '.join(who[:40])}{more}. The state before it is kept, as a model in {kept}. "
        f"Look at these utterances, or begin in another folder with a lower optimizer.peak and --init {kept}"
    )
