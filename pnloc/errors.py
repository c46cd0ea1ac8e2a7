"""The one exception meant for users: a single line that says what is wrong and what to do."""


class PnlocError(Exception):
    """An error of input or configuration; command line and notebooks print its message alone."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback."""
        return [f"PnlocError: {self}"]
