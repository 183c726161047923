"""No private value reaches a formatter: a taint check over the source of sfumato.

The rule, inside ``privacy/`` and ``data/``, function by function. *Private* is what one of SOURCES
returns, an attribute in ATTRIBUTES, a parameter in PARAMETERS, a caught exception (its text may
quote a record), and any name that is assigned, unpacked or iterated from something private. A
private value may not stand inside a formatter: an f-string, ``%`` on a text, ``.format``, ``repr``,
``print``, a logger's or ``warnings`` call, or an exception's argument. A caught
exception may be asked for its type's name and ``strerror``, which the system fixes.

Outside of these folders, nobody asks an image source for records at all.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sfumato

ROOT = Path(sfumato.__file__).parent
SOURCES = frozenset(
    "_records batches _private_length _private_name _unit_keys fingerprint decode fit_pixels "
    "rows short_rows take contributions contributed whole_rows clipped_sum clipped_sums "
    "_label_rows _label _label_values _texts _values _contents read_at _rows _text tag_value "
    "pixels_of picture row_label".split()
)
ATTRIBUTES = frozenset(
    "_files _members _entries _length _done _passed_over _names _items _dataset _voters".split()
)
PARAMETERS = frozenset("error record records pixels content grid fingerprint losses norms".split())
FORMATTERS = frozenset("repr format print ascii debug info warning warn error log echo".split())
HARMLESS = frozenset({"strerror", "exit_code", "failure"})
PUBLIC_ERRORS = {("data/readers/named.py", "_download"), ("data/units.py", "__post_init__")}
"""Where what went wrong is about a public download, or a regular expression that a user wrote."""
READERS = ("data", "privacy", "audit")
"""Folders that may ask an image source for its records; ``audit`` plants canaries among them."""
ASKING = frozenset("_records batches _private_length _private_name _unit_keys fingerprint".split())


def called(node: ast.AST | None) -> str:
    """The last name of what is called: f, x.f."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a function, nested functions too: they see the same names."""
    return ast.walk(function)


def is_private(expression: ast.AST, private: set[str]) -> bool:
    """Whether an expression holds something private, harmless questions left aside."""
    waiting: list[ast.AST] = [expression]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Attribute) and node.attr in HARMLESS:
            continue
        if (
            isinstance(node, ast.Attribute)
            and node.attr == "__name__"
            and called(node.value) == ("type")
        ):
            continue
        if called(node) in SOURCES:
            return True
        if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            return True
        if isinstance(node, ast.Name) and node.id in private:
            return True
        waiting += ast.iter_child_nodes(node)
    return False


def bindings(function: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """(target, value) of everything that binds a name in a function."""
    for node in own_nodes(function):
        if isinstance(node, ast.Assign):
            yield from ((target, node.value) for target in node.targets)
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value:
            yield node.target, node.value
        elif isinstance(node, (ast.For, ast.comprehension)):
            yield node.target, node.iter
        elif isinstance(node, ast.withitem) and node.optional_vars:
            yield node.optional_vars, node.context_expr


def names_in(target: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)} - {"self"}


def private_names(function: ast.FunctionDef, public_errors: bool) -> set[str]:
    """Names that hold something private anywhere in a function."""
    given = [node.arg for node in own_nodes(function) if isinstance(node, ast.arg)]
    private = set(given) & PARAMETERS
    if not public_errors:
        private |= {
            node.name
            for node in own_nodes(function)
            if isinstance(node, ast.ExceptHandler) and node.name
        }
    while True:
        more = {
            name
            for target, value in bindings(function)
            if is_private(value, private)
            for name in names_in(target)
        }
        if more <= private:
            return private
        private |= more


def formatted(function: ast.AST) -> Iterator[ast.AST]:
    """Everything in a function that becomes text."""
    for node in own_nodes(function):
        if isinstance(node, ast.FormattedValue):
            yield node.value
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            if isinstance(node.left, (ast.Constant, ast.JoinedStr)) and not isinstance(
                getattr(node.left, "value", ""), (int, float)
            ):
                yield node.right
        elif isinstance(node, ast.Call) and called(node) in FORMATTERS:
            yield from (*node.args, *(keyword.value for keyword in node.keywords))
        elif isinstance(node, ast.Raise) and called(node.exc).endswith(("Error", "Exception")):
            yield from node.exc.args  # type: ignore[union-attr]


def violations(source: str, where: str = "privacy/planted.py") -> list[str]:
    """Places at which a module gives something private to a formatter."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            private = private_names(function, (where, function.name) in PUBLIC_ERRORS)
            found += [
                f"{where}:{value.lineno} {function.name}: {ast.unparse(value)}"  # type: ignore[attr-defined]
                for value in formatted(function)
                if is_private(value, private)
            ]
    return found


def modules(*folders: str) -> list[str]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path.relative_to(ROOT).as_posix() for path in paths]


FOR_THE_CUSTODIAN = {
    "data/duplicates.py": ["cli/commands/data/check.py"],
    "data/inspection.py": ["cli/commands/data/check.py"],
    "data/decoding/diagnosis.py": ["data/inspection.py"],
}
"""Their findings are names, counts and faults of records, for a terminal; and who imports them."""


@pytest.mark.parametrize(
    "module", [name for name in modules("privacy", "data") if name not in FOR_THE_CUSTODIAN]
)
def test_no_private_value_reaches_a_formatter(module: str) -> None:
    assert violations((ROOT / module).read_text(), module) == []


def asked(source: str) -> set[str]:
    """What a module asks of image sources."""
    return {name for node in ast.walk(ast.parse(source)) if (name := called(node)) in ASKING}


def test_only_the_folders_below_ask_for_records() -> None:
    for module in modules("."):
        if module.split("/")[0] not in READERS:
            assert asked((ROOT / module).read_text()) == set(), module


@pytest.mark.parametrize("findings", FOR_THE_CUSTODIAN)
def test_only_the_command_check_looks_at_findings(findings: str) -> None:
    imported = findings.removesuffix(".py").replace("/", ".")
    importers = [
        module for module in modules(".") if f"sfumato.{imported}" in (ROOT / module).read_text()
    ]
    assert importers == FOR_THE_CUSTODIAN[findings]


PLANTED = {
    "length": "raise DataError(f'there are {source._private_length()} records')",
    "length by name": "n = source._private_length()\n    report(f'{n} left')",
    "length by way of others": "n = source._private_length()\n    share = done / n\n"
    "    shown = share * 100\n    print(shown)",
    "labels": "for images, labels in source.batches(9):\n        print(labels)",
    "percent": "for images, labels in source.batches(9):\n        x = 'label %d' % labels[0]",
    "format": "for images, labels in source.batches(9):\n        x = '{}'.format(images.mean())",
    "logging": "total = sum(len(y) for _, y in source.batches(9))\n    logger.info('n', total)",
    "warning": "x = decode(data, spec)\n    warnings.warn(str(x is None))",
    "bare raise": "x = source.fingerprint()\n    raise DataError(x)",
    "exception text": "try:\n        f()\n    except ValueError as error:\n"
    "        raise DataError(f'bad: {error}')",
    "exception argument": "try:\n        f()\n    except ValueError as error:\n"
    "        raise DataError(str(error))",
    "file name": "raise DataError(f'{self._files[0]} is broken')",
    "count of files": "print(len(self._members))",
    "parameter": "raise DataError(f'{norms.max()} is too large')",
    "comprehension": "x = [repr(y) for y in source._records()]",
    "walrus": "if (n := source._private_length()) > 3:\n        print('n', n)",
    "nested": "def shown():\n        return f'{source._private_length()}'",
    "key of a unit": "for key in source._unit_keys():\n        print(key)",
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_leak_is_found(plant: str) -> None:
    assert violations(f"def f(source, self, data, spec, norms=None):\n    {PLANTED[plant]}\n")


def test_what_is_public_passes() -> None:
    source = """
def f(path, spec, source):
    n = source._private_length()
    try:
        g(n)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
    except Exception as error:
        failure = type(error).__name__
    raise SfumatoError(f"{spec.height}: failed with {failure}")
"""
    assert violations(source) == []


def test_a_module_elsewhere_that_asks_is_found() -> None:
    assert asked("def f(source):\n    return list(source.batches(3))\n") == {"batches"}
