"""Errors a user is meant to read: one line that says what is wrong (with the value) and the remedy."""

import textwrap


class SNNError(Exception):
    """Something failed. The command line prints `snn_mnist VERB: error: MESSAGE` and exits with `exit_code`."""

    exit_code = 1


class UsageError(SNNError):
    """Wrong flags, configuration or arguments."""

    exit_code = 2


def reason(error: BaseException) -> str:
    """Return the message of an exception on one line, a long one cut between words."""
    return textwrap.shorten(str(getattr(error, "strerror", None) or error), 200) or type(error).__name__
