"""`fastgd fit`: a table of data in, and a table of estimates with their errors, a picture or JSON out."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from fastgd import fit as regression
from fastgd import readers
from fastgd.arrays import Array
from fastgd.commands.outputs import UserError, check_outputs
from fastgd.commands.parsing import Parsed, parse_option
from fastgd.commands.results import finite
from fastgd.fit.beside import Other, beside
from fastgd.fit.result import Result, missing_scipy
from fastgd.rules import RULES
from fastgd.tables import DataError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["fit"]

UNCONVERGED = 1


def parse_start(text: str) -> dict[str, float]:
    start: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not equals or not name or not math.isfinite(number):
            raise ValueError(f'{part.strip()!r} is not of the form name=number, as in "a=1,b=0.5"')
        if name in start:
            raise ValueError(f"{name} has two starting values")
        start[name] = number
    return start


def parse_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ValueError(f"{text!r} is no list of columns like age,income")
    return names


@click.command(short_help="Fit a line, classes or a curve to a table, with standard errors.")
@click.argument("data", metavar="DATA.csv")
@click.option("--target", metavar="NAME", help="Column that is to be explained.  [default: the last]")
@click.option(
    "--columns",
    type=Parsed("NAMES", parse_names),
    help='Columns that explain it, like "age,income".  [default: all others]',
)
@click.option("--logistic", is_flag=True, help="The target holds classes: logistic regression.")
@click.option("--formula", metavar="TEXT", help='A curve, like "a*exp(-b*t)+c", of columns and parameters.')
@click.option("--start", type=Parsed("VALUES", parse_start), help='Of its parameters, like "a=1,b=1,c=0".')
@click.option("--weights", metavar="NAME", help="Column of weights: inverse variances, or counts of classes.")
@click.option("--no-intercept", is_flag=True, help="No constant term.")
@click.option("--l2", type=float, default=0.0, help="Ridge penalty.  [default: 0]")
@click.option("--optimizer", type=click.Choice(list(RULES)), help="[default: sgd, tuned by the curvature]")
@click.option("--lr", type=float, help="Learning rate.  [default: tuned, or for --optimizer from 0.1 down]")
@click.option(
    "-o",
    "--option",
    "options",
    type=Parsed("NAME=VALUE", parse_option),
    multiple=True,
    help="Any other hyperparameter of the optimizer, like betas=0.9,0.95; can be repeated.",
)
@click.option("--max-iterations", type=int, default=100_000, show_default=True)
@click.option(
    "--tol", type=float, default=1e-9, show_default=True, help="Distance of the minimum, in standard errors."
)
@click.option("--compare", is_flag=True, help="NumPy's lstsq or SciPy's curve_fit or minimize beside it.")
@click.option("--plot", type=click.Path(), metavar="FILE", help="Save a picture as .png, .svg or .pdf.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def fit(ctx: click.Context, /, data: str, **given: Any) -> None:
    """Fit a line, classes or a curve to the columns of a CSV file by gradient descent, with standard errors.

    Linear regression of the last column on all others, unless options say otherwise. Columns of text become
    one of 0 and 1 for each of their values but the first. The exit status is 1 when the descent has not
    converged, and 2 for wrong input.
    """
    plot = given["plot"]
    if plot:
        check_picture(plot)
    try:
        problem = read_problem(data, given)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", regression.ConvergenceWarning)  # the table says it
            result = problem.solve(given)
        other = compared(result, problem, given["l2"]) if given["compare"] else None
        if plot:
            result.plot(plot, x=problem.axis(result), y="" if given["logistic"] else problem.target)
    except (DataError, TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"cannot write {plot}: {error.strerror or error}") from error
    if given["as_json"]:
        click.echo(json.dumps(finite(summary(result, other)), indent=2, allow_nan=False))
    else:
        show(result, other)
        if plot:
            click.echo(f"picture in {plot}")
    ctx.exit(0 if result.converged else UNCONVERGED)


def check_picture(path: str) -> None:
    check_outputs(path, None, None)
    if (missing := missing_scipy()) is not None:
        raise UserError(missing)


# ---- The problem -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Columns by name, what they are to explain, and weights or None."""

    columns: dict[str, Array]
    target: str
    y: Array
    weights: Array | None

    def solve(self, given: dict[str, Any]) -> Result:
        names = ("optimizer", "lr", "max_iterations", "tol")
        search = {**{name: given[name] for name in names}, "options": dict(given["options"])}
        if given["formula"] is not None:
            start = given["start"] or {}
            return regression.curve(
                given["formula"], self.columns, self.y, start, weights=self.weights, **search
            )
        method = regression.logistic if given["logistic"] else regression.linear
        intercept = not given["no_intercept"]
        return method(
            self.columns, self.y, intercept=intercept, l2=given["l2"], weights=self.weights, **search
        )

    def axis(self, result: Result) -> str:
        found = result._model.axis(result.x)
        return found[0] if found else ""


def read_problem(source: str, given: dict[str, Any]) -> Problem:
    curve = given["formula"] is not None
    if curve and (given["logistic"] or given["no_intercept"] or given["l2"]):
        raise UserError("--formula is no linear model: --logistic, --no-intercept and --l2 are not for it")
    if curve and not given["start"]:
        raise UserError("--formula needs --start with a value for each parameter, like --start a=1,b=1,c=0")
    if given["start"] and not curve:
        raise UserError("--start is for --formula")
    table = readers.read(source, given["target"])
    x = np.asarray(table.x)
    if table.shape is not None or table.y.ndim != 1:
        raise DataError(f"{source} is no table with one target column")
    columns = {name: x[:, i].astype(np.float64) for i, name in enumerate(table.feature_names)}
    weights = None
    if given["weights"] is not None:
        if given["weights"] not in columns:
            raise DataError(f"{source} has no column of numbers {given['weights']} for --weights")
        weights = columns.pop(given["weights"])
    if given["columns"]:
        columns = chosen(source, columns, given["columns"])
    if not curve and not given["no_intercept"]:
        columns = without_bases(columns)
    y = table.y
    if given["logistic"] and table.class_names:
        y = np.array(table.class_names)[y.astype(int)]
    if not given["logistic"] and y.dtype.kind not in "fiub":
        raise DataError(f"the target of {source} is text: --logistic fits classes")
    return Problem(columns, given["target"] or "target", y, weights)


def chosen(source: str, columns: dict[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
    """Those columns; for one of text, all that its values became."""
    found: dict[str, Array] = {}
    for name in names:
        parts = [own for own in columns if own == name or own.startswith(f"{name}=")]
        if not parts:
            known = ", ".join(columns)
            raise DataError(f"{source} has no column named {name} beside the target; there are {known}")
        found |= {own: columns[own] for own in parts}
    return found


def without_bases(columns: dict[str, Array]) -> dict[str, Array]:
    """Of columns of 0 and 1 that came of one column of text, and sum to 1, all but the first."""
    groups: dict[str, list[str]] = {}
    for name in columns:
        stem, equals, _ = name.rpartition("=")
        if equals:
            groups.setdefault(stem, []).append(name)
    bases = {
        members[0]
        for members in groups.values()
        if np.array_equal(sum(columns[name] for name in members), np.ones_like(columns[members[0]]))
    }
    return {name: column for name, column in columns.items() if name not in bases}


# ---- What is printed ---------------------------------------------------------------------------------


def compared(result: Result, problem: Problem, l2: float) -> Other:
    try:
        return beside(result, l2=l2, weights=problem.weights)
    except ModuleNotFoundError as error:
        raise UserError('--compare needs SciPy, which is missing: pip install "fastgd[demo]"') from error


def show(result: Result, other: Other | None) -> None:
    from rich.console import Console

    console = Console()
    console.print(tabulated(result.title, *result.table()))
    for name, value in result.facts().items():
        console.print(f"{name}: {value}", highlight=False)
    if (missing := missing_scipy()) is not None:
        console.print(missing, highlight=False)
    if other:
        console.print(tabulated(f"beside {other.method}", *comparison(result, other)))
        if other.problem:
            console.print(f"{other.method}: {other.problem}", highlight=False)
    if not result.converged:
        click.echo(result.message[0].upper() + result.message[1:] + ".", err=True)


def tabulated(title: str, heads: list[str], rows: list[list[str]]) -> Table:
    from rich.table import Table

    table = Table(*heads, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    return table


def comparison(result: Result, other: Other) -> tuple[list[str], list[list[str]]]:
    """The heads and the rows of a table of both methods."""
    method = other.method.rpartition(".")[2]
    heads = ["", "fastgd", method, "difference", "std. error", f"of {method}"]
    errors = result.standard_errors.values()
    columns = zip(result.names, result.estimates, other.estimates, errors, other.errors, strict=True)
    return heads, [
        [name, f"{own:.9g}", f"{its:.9g}", f"{own - its:.1e}", f"{error:.6g}", f"{its_error:.6g}"]
        for name, own, its, error, its_error in columns
    ]


def summary(result: Result, other: Other | None) -> dict[str, Any]:
    """What --json prints: everything of the table, by the names of the Python interface."""
    known = missing_scipy() is None
    p_values = result.p_values if known else {}
    intervals = result.intervals() if known else {}
    found: dict[str, Any] = {
        "title": result.title,
        "parameters": {
            name: {
                "estimate": estimate,
                "standard_error": result.standard_errors[name],
                result.statistic: result.statistics[name],
                "p_value": p_values.get(name),
                "interval": intervals.get(name),
            }
            for name, estimate in result.parameters.items()
        },
        "covariance": result.covariance.tolist(),
        "classes": list(result.classes),
    }
    names = ("loss", "r2", "rows", "degrees_of_freedom", "residual_standard_error", "iterations", "converged")
    found |= {name: getattr(result, name) for name in (*names, "message", "gradient_norm", "derivatives")}
    if other:
        pairs = zip(result.names, other.estimates.tolist(), other.errors.tolist(), strict=True)
        values = {name: {"estimate": value, "standard_error": error} for name, value, error in pairs}
        found["compared"] = {"method": other.method, "problem": other.problem, "parameters": values}
    return found
