"""The one exception of this package."""


class StackError(RuntimeError):
    """A server or a tool that the stack needs is missing or failed; the text says what to do."""
