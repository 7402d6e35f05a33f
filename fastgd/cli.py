"""The entry point of the `fastgd` command, which says what to install when its packages are missing."""

import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command line; ends with 1 and one sentence when click or rich is not installed."""
    try:
        from fastgd.commands import fastgd
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f'The fastgd command needs {error.name}, which is missing: pip install "fastgd[cli]"')
    fastgd(prog_name="fastgd")
