"""The commands of `fastgd`: a command is one function, added to the group below by one line."""

import click
import rich  # noqa: F401  (every command prints with it: its absence is told before any work is done)

from fastgd.commands.bench import bench
from fastgd.commands.fit import fit
from fastgd.commands.info import info
from fastgd.commands.lab import lab
from fastgd.commands.train import train
from fastgd.commands.verify import verify
from fastgd.version import __version__

__all__ = ["fastgd"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="fastgd")
def fastgd() -> None:
    """Native gradient descent: train a model, measure, verify, see what this machine offers."""


for command in (train, fit, lab, bench, verify, info):
    fastgd.add_command(command)
