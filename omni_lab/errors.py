"""Errors that speak to a person: what was given, what was expected, what to do next, in one line.

Everything that a user can cause (a broken file, a wrong size, an unknown name) is raised as an `OmniLabError`; the
command line prints its one line and returns 1. Anything else that escapes is a bug of ours.
"""


class OmniLabError(Exception):
    """Base of all errors that a user can cause. The message is one line of readable length, whatever it quotes."""

    def __init__(self, message: object = "") -> None:
        line = " ".join(str(message).splitlines())
        super().__init__(line if len(line) <= 600 else f"{line[:400]} ... {line[-190:]}")


class ConfigError(OmniLabError, ValueError):
    """A configuration holds a value that no model can have."""


class CheckpointError(OmniLabError, ValueError):
    """A weights folder is missing, damaged, incomplete, of another shape or of a format that is not trusted."""


class InputError(OmniLabError, ValueError):
    """An array, tensor or message given to the model has the wrong shape, type or content."""


class MediaError(InputError):
    """A picture, sound or video file is missing, truncated, empty or none of the formats that we read."""


class DataError(OmniLabError, ValueError):
    """A data file or data set is missing or damaged."""


class NotWritten(OmniLabError, RuntimeError):
    """A graded release: the function is an exercise, and there is no answer to it yet."""
