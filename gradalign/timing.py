"""Frames to seconds and back. The only place in the package where that conversion happens."""

from dataclasses import dataclass

from gradalign._types import Seconds


@dataclass(frozen=True, slots=True)
class FrameGrid:
    """A uniform grid of frames over a recording.

    Frame ``i`` is centred on sample ``first_centre_samples + i * hop_samples`` and owns the hop
    around its centre, ``[centre - hop/2, centre + hop/2)``. With ``first_centre_samples = 0`` this
    is the grid of a centred short-time Fourier transform, and of any symmetric subsampling of it.

    Attributes:
        sample_rate: Samples a second, > 0.
        hop_samples: Distance between frame centres in samples, > 0.
        first_centre_samples: Where frame 0 is centred, in samples.

    Raises:
        ValueError: If the rate or the hop is not positive.
    """

    sample_rate: int
    hop_samples: int
    first_centre_samples: int = 0

    def __post_init__(self) -> None:
        if self.sample_rate <= 0 or self.hop_samples <= 0:
            raise ValueError(
                f"a frame grid needs a positive sample rate and hop, got sample_rate="
                f"{self.sample_rate}, hop_samples={self.hop_samples}"
            )

    @property
    def hop_s(self) -> Seconds:
        """Distance between frame centres."""
        return self.hop_samples / self.sample_rate

    def n_frames(self, n_samples: int) -> int:
        """How many frames a recording of ``n_samples`` has: every centre that lies in it or on its end."""
        return max(0, 1 + (n_samples - self.first_centre_samples) // self.hop_samples)

    def edge_s(self, frame: int | float) -> Seconds:
        """Where frame ``frame`` begins; the end of frame ``i`` is ``edge_s(i + 1)``. Not clipped."""
        return (self.first_centre_samples + (frame - 0.5) * self.hop_samples) / self.sample_rate

    def span_s(self, first: int, last: int, duration_s: Seconds) -> tuple[Seconds, Seconds]:
        """Seconds of the half-open run of frames ``[first, last)``, clipped to the recording."""
        return max(0.0, self.edge_s(first)), min(duration_s, self.edge_s(last))

    def frame_at(self, time_s: Seconds) -> int:
        """Index of the frame that owns ``time_s`` (unclipped)."""
        samples = time_s * self.sample_rate - self.first_centre_samples
        return int((samples / self.hop_samples + 0.5) // 1)

    def subsampled(self, factor: int) -> "FrameGrid":
        """The grid of every ``factor``-th frame: what a symmetric strided stem leaves."""
        return FrameGrid(self.sample_rate, self.hop_samples * factor, self.first_centre_samples)
