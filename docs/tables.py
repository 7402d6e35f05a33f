"""Writes what follows from the code: tables in README.md and docs/, the gallery's page, the package's stubs.

`python docs/tables.py` rewrites them, `python docs/tables.py --check` says whether they are up to date.
"""

import ast
import inspect
import re
import sys
from pathlib import Path

import fastgd
from fastgd import nn, schedules
from fastgd.lab import EXPERIMENTS
from fastgd.monitor.kinds import KINDS, sees
from fastgd.monitor.thresholds import THRESHOLDS
from fastgd.optim import KEYWORDS
from fastgd.options import LABELLING, LASTING
from fastgd.rules import RULES, Rule
from fastgd.settings import SETTINGS

ROOT = Path(__file__).parent.parent


def rules_table() -> str:
    lines = ["| class | what it is | hyperparameters and defaults | source |", "| --- | --- | --- | --- |"]
    for rule in RULES.values():
        values = ", ".join(f"`{name}={value!r}`" for name, value in rule.defaults.items())
        lines.append(f"| `{rule.title}` | {rule.summary} | {values} | {rule.source} |")
    return "\n".join(lines)


def annotation(value: object) -> str:
    if isinstance(value, tuple):
        return f"tuple[{', '.join(type(v).__name__ for v in value)}]"
    return "float | None" if value is None else type(value).__name__


def settings_table() -> str:
    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for name, (default, entry) in SETTINGS.items():
        lines.append(f"| `{name}` | `{default!r}` | {entry.meaning} |")
    return "\n".join(lines)


def layers_table() -> str:
    """Each layer and loss with the first paragraph of its documentation."""
    lines = ["| class | what it is |", "| --- | --- |"]
    for name in nn.__all__:
        what = getattr(nn, name)
        if inspect.isclass(what) and issubclass(what, (nn.Layer, nn.Loss)) and not inspect.isabstract(what):
            first = inspect.cleandoc(what.__doc__ or "").split("\n\n")[0]
            assert first, f"nn.{name} has no documentation"
            text = " ".join(first.split()).replace("|", "\\|")
            lines.append(f"| `{name}` | {text} |")
    return "\n".join(lines)


def findings() -> str:
    """A section for each kind of finding."""
    parts = []
    for name, kind in KINDS.items():
        helps = "\n".join(f"- {remedy}" for remedy in kind.remedies)
        title = kind.title[0].upper() + kind.title[1:]
        parts.append(f"### {title}\n\n`{name}`, when {sees(name)}.\n\nWhy: {kind.reason}.\n\n{helps}")
    return "\n\n".join(parts)


def thresholds_table() -> str:
    lines = ["| threshold | value | what it bounds |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {entry.value:g} | {entry.reason} |" for name, entry in THRESHOLDS.items()]
    return "\n".join(lines)


def gallery() -> str:
    """Each experiment with its documentation, plain text with indented blocks, and its picture."""
    parts = []
    for name in EXPERIMENTS:
        source = ROOT / f"fastgd/lab/{name}.py"
        about = inspect.cleandoc(ast.get_docstring(ast.parse(source.read_text())) or "")
        assert about, f"experiment {name} has no documentation"
        title = " ".join(about.split("\n\n")[0].split())
        parts += [f"## {name}", about, f"```sh\nfastgd lab {name}\n```"]
        if (ROOT / f"docs/images/lab/{name}.png").exists():
            parts.append(f"![{title}](images/lab/{name}.png)")
    return "\n\n".join(parts)


def schedules_table() -> str:
    """Each schedule with its arguments and the first paragraph of its documentation."""
    lines = ["| schedule | what it is |", "| --- | --- |"]
    for cls in (*schedules.KINDS, schedules.ReduceOnPlateau):
        arguments = [name for name in inspect.signature(cls).parameters if name != "self"]
        text = " ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split())
        lines.append(f"| `{cls.__name__}({', '.join(arguments)})` | {text} |")
    return "\n".join(lines)


def stub_class(rule: Rule, base: str, beside: dict[str, tuple[str, object]], *rest: str) -> str:
    """The class of a rule's optimizers. beside: keyword arguments -> (type, default). rest: what follows."""
    own = {
        name: (rule.hyperparameter(name).type or annotation(value), value)
        for name, value in rule.defaults.items()
    }
    settings = {name: (entry.type or annotation(value), value) for name, (value, entry) in SETTINGS.items()}
    lines = [f"class {rule.title}({base}):", "    def __init__(", "        self,", "        params: Any,"]
    lines += [f"        {name}: {kind} = {value!r}," for name, (kind, value) in own.items()]
    lines.append("        *,")
    lines += [
        f"        {name}: {kind} = {value!r}," for name, (kind, value) in {**settings, **beside}.items()
    ]
    lines += [f"        {line}" for line in rest]
    return "\n".join([*lines, "    ) -> None: ...\n"])


def stub() -> str:
    tree = ast.parse((ROOT / "fastgd/__init__.py").read_text())
    lines = ['"""Made by docs/tables.py from the table of rules."""', ""]
    lines += ["from collections.abc import Callable", "from typing import Any", ""]
    lines += ["from fastgd import optim as optim"]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fastgd."):
            lines += [f"from {node.module} import {name.name} as {name.name}" for name in node.names]
    for name, module in fastgd._LAZY.items():
        where = module.removesuffix(f".{name}")
        lines.append(f"from {where} import {name} as {name}")
    beside = {name: (kind, value) for name, (kind, value, _) in KEYWORDS.items()}
    made = []
    for rule in RULES.values():
        text = stub_class(rule, "Optimizer", beside)
        if rule.hyperparameter("lr").folded:  # then it may be a function of the step
            text = text.replace("        lr: float =", "        lr: float | Callable[[int], float] =")
        made.append(text)
    return "\n".join([*lines, "", *made])


def torch_stub() -> str:
    """Of fastgd.torch, for which torch need not be there."""
    tree = ast.parse((ROOT / "fastgd/torch/__init__.py").read_text())
    lines = ['"""Made by docs/tables.py from the table of rules."""', "", "from typing import Any", ""]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fastgd."):
            shown = [name.name for name in node.names if name.name != "CLASSES"]
            lines += [f"from {node.module} import {name} as {name}" for name in shown]
    lines.append("from fastgd.torch.optimizer import Native as Native")
    words = {**LASTING, **KEYWORDS}
    beside = {name: (kind, value) for name, (kind, value, _) in words.items() if name != "copies"}
    # as torch's: flags that not all of its classes have, and lr and betas as tensors
    of_torch = "foreach: bool | None = None,", "fused: bool | None = None,", "**flags: bool,"
    made = [
        stub_class(rule, "Native", beside, *(of_torch if rule.in_torch else ())).replace(
            "lr: float", "lr: Any"
        )
        for rule in RULES.values()
    ]
    return "\n".join([*lines, "", *made])


def jax_stub() -> str:
    """Of fastgd.jax, for which JAX need not be there."""
    lines = ['"""Made by docs/tables.py from the table of rules."""', "", "from typing import Any", ""]
    lines.append("from fastgd.jax.models import function as function")
    lines.append("from fastgd.jax.optimizer import Optimizer as Optimizer")
    lines += [f"from fastgd.jax.packed import {name} as {name}" for name in ("Packed", "pack")]
    lines.append("from fastgd.jax.state import State as State")
    beside = {name: (kind, value) for name, (kind, value, _) in LASTING.items()} | {"seed": ("int", 0)}
    beside |= {name: (kind, value) for name, (kind, value, _) in LABELLING.items()}
    made = []
    for rule in RULES.values():
        text = stub_class(rule, "Optimizer", beside).replace("lr: float", "lr: Any")
        text = text.replace(f"class {rule.title}(Optimizer):\n    def __init__(", f"def {rule.name}(")
        text = text.replace("        self,\n        params: Any,\n", "").replace("-> None", "-> Optimizer")
        made.append(text.replace("\n        ", "\n    ").replace("\n    )", "\n)"))
    return "\n".join([*lines, "", *made])


def replaced(text: str, name: str, new: str) -> str:
    pattern = re.compile(rf"(<!-- {name} begin.*?-->\n).*?(<!-- {name} end -->)", re.DOTALL)
    assert pattern.search(text), f"the markers for {name} are lost"
    return pattern.sub(lambda m: f"{m.group(1)}{new}\n{m.group(2)}", text)


def outputs() -> dict[Path, str]:
    readme, models, lab = ROOT / "README.md", ROOT / "docs/models.md", ROOT / "docs/lab.md"
    watching = ROOT / "docs/monitor.md"
    rates = ROOT / "docs/schedules.md"
    return {
        lab: replaced(lab.read_text(), "experiments", gallery()),
        watching: replaced(
            replaced(watching.read_text(), "findings", findings()), "thresholds", thresholds_table()
        ),
        models: replaced(models.read_text(), "layers", layers_table()),
        rates: replaced(rates.read_text(), "schedules", schedules_table()),
        readme: replaced(replaced(readme.read_text(), "rules", rules_table()), "settings", settings_table()),
        ROOT / "fastgd/__init__.pyi": stub(),
        ROOT / "fastgd/torch/__init__.pyi": torch_stub(),
        ROOT / "fastgd/jax/__init__.pyi": jax_stub(),
    }


def stale() -> list[str]:
    """The files whose text is not what the table of rules gives."""
    return [
        str(path.relative_to(ROOT))
        for path, text in outputs().items()
        if not path.exists() or path.read_text() != text
    ]


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(f"out of date, run python docs/tables.py: {', '.join(stale())}" if stale() else 0)
    for path, text in outputs().items():
        path.write_text(text)
