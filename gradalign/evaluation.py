"""Alignment files against reference files: which belong together, and how far one is from the other.

No measures here (`gradalign.metrics`), and no printing: the command line shows what these return.
"""

from dataclasses import dataclass
from pathlib import Path

from gradalign import io
from gradalign.alignment import Alignment, Tier
from gradalign.errors import FormatError
from gradalign.metrics import Comparison, compare
from gradalign.pairing import Match


@dataclass(frozen=True, slots=True)
class FilePair:
    """A file of the reference and the one that is measured by it.

    Attributes:
        reference: What is right.
        hypothesis: What is measured, or None if there is none.
    """

    reference: Path
    hypothesis: Path | None


@dataclass(frozen=True, slots=True)
class FilePairs:
    """All files of a reference, each with its hypothesis.

    Attributes:
        pairs: One entry a file of the reference, by name.
        warnings: What was left without a partner, one sentence each.
    """

    pairs: tuple[FilePair, ...]
    warnings: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every file of the reference has a hypothesis."""
        return all(pair.hypothesis is not None for pair in self.pairs)


def pair_files(reference: Path, hypothesis: Path) -> FilePairs:
    """Two files as a pair, or those of two folders paired by path in the folder without suffix.

    Args:
        reference: A file (.TextGrid, .json, .ctm), or a folder of them, with all folders below.
        hypothesis: Likewise, what is measured.

    Raises:
        FormatError: If a path does not exist, one is a file and the other a folder, two files of a folder
            differ only in suffix, or the folders have no name in common.
    """
    if reference.is_dir() != hypothesis.is_dir() and reference.exists() and hypothesis.exists():
        raise FormatError(f"{reference} and {hypothesis}: one is a file, the other a folder; give two of a kind")
    for path in (reference, hypothesis):
        if not path.exists():
            raise FormatError(f"{path}: no such file or folder; check the path")
    if not reference.is_dir():
        return FilePairs((FilePair(reference, hypothesis),))
    references, hypotheses = _alignments_in(reference), _alignments_in(hypothesis)
    if not references.keys() & hypotheses.keys():
        raise FormatError(
            f"{reference} and {hypothesis}: no two alignments have the same name without suffix "
            f"({len(references)} and {len(hypotheses)} files)"
        )
    warnings = [
        f"{references[name]}: no hypothesis of that name in {hypothesis}; all its units count as missing"
        for name in sorted(references.keys() - hypotheses.keys())
    ]
    if extra := hypotheses.keys() - references.keys():
        warnings.append(f"{len(extra)} hypotheses have no reference and are left out, such as {hypotheses[min(extra)]}")
    pairs = tuple(FilePair(references[name], hypotheses.get(name)) for name in sorted(references))
    return FilePairs(pairs, tuple(warnings))


def compare_files(pair: FilePair, *, tier: str = "words", match: Match = "label") -> Comparison:
    """How far one tier of a file is from that of its reference.

    Args:
        pair: The two files; without a hypothesis all units of the reference are missing.
        tier: Name of the tier, which both must have.
        match: As in `gradalign.metrics.compare`.

    Raises:
        FormatError: If a file cannot be read or has no such tier.
    """
    right = _with_tier(io.read(pair.reference), tier, pair.reference)
    if pair.hypothesis is None:
        found = Alignment(right.duration, (Tier(tier, ()),))
    else:
        found = _with_tier(io.read(pair.hypothesis), tier, pair.hypothesis)
    return compare(right, found, tier=tier, match=match)


def _alignments_in(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".textgrid", ".json", ".ctm") or not path.is_file():
            continue
        name = str(path.relative_to(folder).with_suffix(""))
        if name in found:
            raise FormatError(f"{path} and {found[name]} are alignments of the same name; keep one of them")
        found[name] = path
    return found


def _with_tier(alignment: Alignment, tier: str, path: Path) -> Alignment:
    names = [t.name for t in alignment.tiers]
    if tier not in names:
        raise FormatError(f"{path}: has no tier {tier!r}; it has {', '.join(names) or 'none'}: choose with --tier")
    return alignment
