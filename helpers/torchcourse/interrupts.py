"""Ctrl-C, or Jupyter's stop button: what is said when it ended something, in a notebook without the frames inside."""


def stopped(text: str) -> KeyboardInterrupt:
    """Return the error to raise: it ends Run All too, and a notebook shows its text alone."""
    error = KeyboardInterrupt(text)
    shown = f"KeyboardInterrupt: {text}".splitlines()
    # IPython asks an error for this method instead of its traceback.
    error._render_traceback_ = lambda: shown  # type: ignore[attr-defined]  # no class of errors declares it
    return error
