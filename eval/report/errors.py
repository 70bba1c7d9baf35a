"""What a report cannot be made of."""

from ajepa.errors import AjepaError


class ReportError(AjepaError, ValueError):
    """A report has nothing to show of a path; the message names it and says what to give."""
