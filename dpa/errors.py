"""One error tree; the class of an error decides what happens next.

A message is one line: what is wrong, the value seen, and the cure. Command lines turn
a :class:`UserError` into that line on standard error and exit code 2, without a traceback.
"""


class DpaError(Exception):
    """Base of every error dpa raises on purpose.

    Parameters
    ----------
    what : str
        What is wrong, naming file, column, row or field and the value seen.
    cure : str
        What the user can do about it; empty when there is nothing to do.
    """

    exit_code = 1

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(what, cure)
        self.what = what
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.what}; {self.cure}" if self.cure else self.what


class UserError(DpaError):
    """The user can mend it: print one line, exit with 2."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is unknown, missing or out of bounds; names the field."""


class DataError(UserError):
    """The data cannot be used; names file, column and row. Refuse, never repair silently."""


class RunError(UserError):
    """A run directory, model or checkpoint is missing, unreadable, altered or incompatible."""


class ClusterUnavailable(UserError):
    """The Ray cluster asked for cannot be reached."""


class TransientError(DpaError):
    """Worth trying again, with jitter."""


class OutcomeUnknown(DpaError):
    """Something was sent and no answer came: reconcile, never resend."""


class HaltError(DpaError):
    """Stop trading until a person has looked."""
