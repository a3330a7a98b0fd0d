"""Forced alignment from the gradients of a Conformer attention encoder-decoder.

    import gradalign

    alignment = gradalign.align("rec.wav", "She had your dark suit.")
    alignment.to_textgrid("rec.TextGrid")

Names are imported when they are first used, so that ``import gradalign`` and ``gradalign --help``
do not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradalign import evidence, io, lattice, metrics, plot
    from gradalign.aligner import align
    from gradalign.alignment import Alignment, Evidence, Interval, Tier, TranscriptWord
    from gradalign.bundle import Bundle, load, save
    from gradalign.errors import AlignmentError, FormatError, GradalignError
    from gradalign.gradients import saliency
    from gradalign.lexicon import Lexicon
    from gradalign.metrics import Comparison, compare
    from gradalign.placement import place
    from gradalign.plain import gradient_saliency
    from gradalign.timing import FrameGrid
    from gradalign.transcript import Transcript

    __version__: str

__all__ = [
    "Alignment",
    "AlignmentError",
    "Bundle",
    "Comparison",
    "Evidence",
    "FormatError",
    "FrameGrid",
    "GradalignError",
    "Interval",
    "Lexicon",
    "Tier",
    "Transcript",
    "TranscriptWord",
    "__version__",
    "align",
    "compare",
    "evidence",
    "gradient_saliency",
    "io",
    "lattice",
    "load",
    "metrics",
    "place",
    "plot",
    "saliency",
    "save",
]

_HOME = {
    "Alignment": "alignment",
    "AlignmentError": "errors",
    "Bundle": "bundle",
    "Comparison": "metrics",
    "Evidence": "alignment",
    "FormatError": "errors",
    "FrameGrid": "timing",
    "GradalignError": "errors",
    "Interval": "alignment",
    "Lexicon": "lexicon",
    "Tier": "alignment",
    "Transcript": "transcript",
    "TranscriptWord": "alignment",
    "align": "aligner",
    "compare": "metrics",
    "gradient_saliency": "plain",
    "load": "bundle",
    "place": "placement",
    "saliency": "gradients",
    "save": "bundle",
}
_MODULES = frozenset({"evidence", "io", "lattice", "metrics", "plot"})


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("gradalign")
        except PackageNotFoundError:  # a checkout that was not installed
            return "0+unknown"
    if name in _MODULES:
        return importlib.import_module(f"gradalign.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'gradalign' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gradalign.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
