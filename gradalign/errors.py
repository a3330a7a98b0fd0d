"""The three errors a user of gradalign may meet. Nothing else lives here."""


class GradalignError(Exception):
    """Base of every error this package raises on purpose; catch it to catch them all."""


class AlignmentError(GradalignError):
    """This utterance cannot be aligned (no speech, more labels than frames, no known word).

    A corpus run records it with the utterance's name and goes on with the next one.
    """


class FormatError(GradalignError):
    """A file is missing, unreadable, malformed, or belongs to another version or config."""
