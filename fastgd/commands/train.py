"""`fastgd train`: options in, a progress bar, and a table, JSON, a picture and a checkpoint out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import click
from click.core import ParameterSource

from fastgd import readers, training
from fastgd.architectures import ARCHITECTURES
from fastgd.checkpoint import CheckpointError
from fastgd.commands.outputs import UserError, check_outputs, save_plot, save_run
from fastgd.commands.parsing import Parsed, parse_batch_size, parse_limit, parse_option, parse_widths
from fastgd.commands.ranks import Job, job, told
from fastgd.commands.results import finite, monitor_of, print_table, summary, text_of
from fastgd.data import DataError
from fastgd.distributed.communicator import RankError
from fastgd.machine import MAX_THREADS
from fastgd.nn.activations import ACTIVATIONS
from fastgd.rules import RULES
from fastgd.runs import SettingsError, resumed_settings
from fastgd.schedules.recipes import RECIPES
from fastgd.training import Checkpoint, Progress, Result, Settings

__all__ = ["train"]

DEFAULTS = Settings()
BUILT_IN = ", ".join(readers.BUILT_IN)
INTERRUPTED, DIVERGED = 130, 1


def listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


@click.command(short_help="Train a model on real data: a table, images, sequences or text.")
@click.option(
    "--data",
    metavar="NAME|PATH",
    help=f"{BUILT_IN}; a CSV file, its last column the target; an NPZ file of x and y, or of x_train, "
    "y_train, x_test and y_test; a folder of IDX files or of CIFAR's binary files; text:FILE, or text for "
    f"the documentation that every CPython carries.  [default: {DEFAULTS.data}]",
)
@click.option("--target", metavar="NAME", help="Column of a CSV file to predict.  [default: the last]")
@click.option("--task", type=click.Choice(["classification", "regression"]), help="[default: by the target]")
@click.option(
    "--test-size", type=float, help=f"Share of the rows to test on.  [default: {DEFAULTS.test_size}]"
)
@click.option(
    "--model",
    type=click.Choice(list(ARCHITECTURES)),
    help=f"A cnn takes images, the last three take sequences and text.  [default: {DEFAULTS.model}]",
)
@click.option(
    "--hidden",
    type=Parsed("WIDTHS", parse_widths),
    help=f'Hidden (or recurrent) layers, like "256,128", or none.  [default: {listed(DEFAULTS.hidden)}]',
)
@click.option(
    "--channels",
    type=Parsed("COUNTS", parse_widths),
    help=f"Of a cnn's convolutions, or none.  [default: {listed(DEFAULTS.channels)}]",
)
@click.option("--embedding", type=int, help=f"Numbers for a character.  [default: {DEFAULTS.embedding}]")
@click.option("--context", type=int, help=f"Characters in a window of text.  [default: {DEFAULTS.context}]")
@click.option(
    "--dropout", type=float, help=f"Share of hidden activations to drop.  [default: {DEFAULTS.dropout:g}]"
)
@click.option("--activation", type=click.Choice(list(ACTIVATIONS)), help=f"[default: {DEFAULTS.activation}]")
@click.option("--optimizer", type=click.Choice(list(RULES)), help=f"[default: {DEFAULTS.optimizer}]")
@click.option("--lr", type=float, help="Learning rate.  [default: the optimizer's]")
@click.option("--weight-decay", type=float, help="[default: the optimizer's]")
@click.option("--momentum", type=float, help="[default: the optimizer's]")
@click.option(
    "-o",
    "--option",
    "options",
    type=Parsed("NAME=VALUE", parse_option),
    multiple=True,
    help="Any other hyperparameter of the optimizer, like betas=0.9,0.95; can be repeated.",
)
@click.option(
    "--epochs",
    type=int,
    help="Passes over the training part, further ones after --load; 0 only evaluates."
    f"  [default: {DEFAULTS.epochs}, or what an interrupted run has left]",
)
@click.option(
    "--batch-size",
    type=Parsed("full|1|N", parse_batch_size),
    help=f"Batch, stochastic or mini-batch gradient descent.  [default: {DEFAULTS.batch_size}]",
)
@click.option(
    "--clip-norm",
    type=Parsed("NORM|none", parse_limit),
    help=f"Largest global norm of the gradients.  [default: {DEFAULTS.clip_norm}]",
)
@click.option(
    "--clip-value",
    type=Parsed("VALUE|none", parse_limit),
    help="Largest absolute value in a gradient.  [default: none]",
)
@click.option(
    "--skip-nonfinite/--no-skip-nonfinite",
    help="Go on after a step whose gradients are not finite, which is never applied, instead of ending.",
)
@click.option(
    "--seed", type=int, help=f"Of the split, the weights and the order.  [default: {DEFAULTS.seed}]"
)
@click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    help="Results do not depend on it.  [default: all cores; of several ranks, each its share]",
)
@click.option(
    "--schedule",
    metavar="NAME|NAME(...)",
    help=f"The learning rate over the run: {', '.join(RECIPES)}; with arguments like 'step(every=5)' or "
    "'cosine(warmup=1, end=1e-5)', lengths in epochs.  [default: it stays]",
)
@click.option(
    "--early-stopping",
    type=int,
    metavar="EPOCHS",
    help="End after so many epochs without a better validation loss, with the best weights.",
)
@click.option(
    "--swa",
    type=float,
    metavar="SHARE",
    help="Average the weights after the last epochs, this share of all (stochastic weight averaging).",
)
@click.option(
    "--validation-size",
    type=float,
    help="Share of the training part that is held out for the validation loss.  [default: 0.1 where "
    "something follows it, else 0]",
)
@click.option(
    "--monitor",
    is_flag=True,
    help="Watch the layers, and say what is wrong with the training and what helps.",
)
@click.option(
    "--report",
    type=click.Path(),
    metavar="FILE",
    help="Save a page (.html) that needs no network: curves, gradient norms by layer, warnings, settings.",
)
@click.option("--plot", type=click.Path(), metavar="FILE", help="Save the curves as .png, .svg or .pdf.")
@click.option("--save", type=click.Path(), metavar="FILE", help="Save model and optimizer as safetensors.")
@click.option(
    "--load",
    type=click.Path(),
    metavar="FILE",
    help="Go on from a saved run, whose settings become the defaults.",
)
@click.option("--quiet", is_flag=True, help="Neither progress bar nor table.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table.")
@click.pass_context
def train(ctx: click.Context, /, **given: Any) -> None:
    """Train a model on real data: a table, images, sequences or text.

    Without options: a small network on scikit-learn's digits, with AdamW and clipping, in a few seconds.
    mpiexec -n 4 fastgd train ... trains on the rows of each batch in 4 processes, and in each keeps a part of
    the optimizer's state; --save is then written after every epoch. Needs mpi4py: pip install "fastgd[mpi]".
    Ctrl-C ends the training after the current step, with the results so far; the exit status is then 130.
    It is 1 when the training had to end because something was not finite, and 2 for wrong input.
    """
    chosen = {name: value for name, value in given.items() if is_given(ctx, name)}
    own = job()
    try:
        status = run(chosen, own)
    except (CheckpointError, DataError, RankError, SettingsError, UserError) as error:
        if not own.is_first:  # the first rank says what is wrong
            ctx.exit(UserError.exit_code)
        raise error if isinstance(error, UserError) else UserError(str(error)) from error
    ctx.exit(status)


def is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


def run(chosen: dict[str, Any], own: Job) -> int:
    """Trains with the options that were given and hands out the result; returns the exit status."""
    plot, save, load, report = (chosen.get(name) for name in ("plot", "save", "load", "report"))
    is_shown = own.is_first and not (chosen.get("quiet") or chosen.get("as_json"))
    with own.together():
        own.check(chosen)
        check_outputs(plot, save, report)
        resume = training.load_checkpoint(load) if load else None
        settings = merge(chosen, resume)
    own.set_threads(chosen.get("threads"))

    def save_epoch(result: Result) -> None:
        if save and own.comm is not None:  # several machines are more likely to fail
            training.save_checkpoint(save, result)

    with ProgressBar(hidden=not is_shown) as on_step:
        result = training.train(
            settings,
            resume=resume,
            on_step=on_step,
            monitor=bool(chosen.get("monitor") or report),
            comm=own.comm,
            on_epoch=save_epoch,
        )
    ranks = own.described(result)
    if own.is_first:
        show(chosen, result, ranks)
    if save and not result.problem:
        training.save_checkpoint(save, result)
    if own.is_first:
        hand_out(chosen, result, bool(ranks))
    return DIVERGED if result.problem else INTERRUPTED if result.interrupted else 0


def show(chosen: dict[str, Any], result: Result, ranks: dict[str, Any]) -> None:
    """Prints the result. ranks: what it says of them, where there are several."""
    if chosen.get("as_json"):
        click.echo(json.dumps(finite({**summary(result), **ranks}), indent=2, allow_nan=False))
        return
    if chosen.get("quiet"):
        return
    print_table(result)
    if result.dataset.task == "text" and not result.problem:
        click.echo(f"\nthe model writes:\n{text_of(result)}\n")
    if chosen.get("monitor"):
        monitor_of(result).print()
    if ranks:
        click.echo(told(**ranks["ranks"]))
    if result.stopped:
        click.echo(f"stopped early: {result.stopped}")


def hand_out(chosen: dict[str, Any], result: Result, saves_epochs: bool) -> None:
    """Writes what shows the result, and says where, and what has ended the training."""
    plot, save, report = (chosen.get(name) for name in ("plot", "save", "report"))
    tell = (lambda line: None) if chosen.get("quiet") or chosen.get("as_json") else click.echo
    if save and not result.problem:
        tell(f"saved to {save}; to go on: fastgd train --load {save}")
    if plot:
        save_plot(plot, result)
        tell(f"curves in {plot}")
    if report:
        save_run(report, result)
        tell(f"report in {report}")
    if result.problem:
        before = f" {save} is as after the last epoch that was completed."
        saved = before if saves_epochs else f" Nothing was saved to {save}."
        click.echo(f"Training ended: {result.problem}.{saved if save else ''}", err=True)


def merge(chosen: dict[str, Any], resume: Checkpoint | None) -> Settings:
    """The settings of the loaded run, or the defaults, with what was given in their place."""
    settings = resumed_settings(resume) if resume else Settings()
    names = {item.name for item in fields(Settings)} - {"options"}
    options = dict(chosen.get("options", ()))
    options |= {name: chosen[name] for name in ("lr", "weight_decay", "momentum") if name in chosen}
    changes = {name: chosen[name] for name in names if name in chosen}
    return replace(settings, **changes, options={**settings.options, **options})


class ProgressBar:
    """A bar over all examples of the run on standard error, where that is a terminal; enters to `on_step`."""

    def __init__(self, hidden: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
        self.bar = Progress(
            *columns, console=console, transient=True, disable=hidden or not console.is_terminal
        )
        self.task = self.bar.add_task("", total=None)
        self.shown = 0.0

    def __enter__(self) -> Callable[[Progress], None]:
        if not self.bar.disable:
            self.bar.start()
        return self.show

    def __exit__(self, *_: object) -> None:
        if not self.bar.disable:  # else some versions of rich print an empty line
            self.bar.stop()

    def show(self, at: Progress) -> None:
        now = time.monotonic()
        if now - self.shown < 0.05:
            return
        self.shown = now
        done = (at.epoch - 1) * at.n_train + at.consumed
        text = f"epoch {at.epoch}/{at.last_epoch}  loss {at.loss:.4g}"
        self.bar.update(self.task, completed=done, total=at.last_epoch * at.n_train, description=text)
