"""The expressions of `labels.filters`: checked names, attributes compared by class name, evaluated by pandas."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from utils.errors import UserError, did_you_mean

_TOKENS = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|`([^`]*)`|([&|])""")


def evaluate(text: str, rows: pd.DataFrame, classes: Mapping[str, tuple[str, ...]], key: str) -> np.ndarray:
    """[N] bool: for which rows `text` holds. Columns with other characters stand in backticks: `hair length` == 2.

    Raises UserError (starting with `key`) for a syntax error, an unknown column or class, and anything but a condition.
    """
    tree, columns = _parse(text, rows, key)
    labels = {name: (column, classes[column]) for name, column in columns.items() if column in classes}
    tree = ast.fix_missing_locations(_ClassNames(labels, f"{key}: '{text}'").visit(tree))
    used = pd.DataFrame({name: rows[column] for name, column in columns.items()}, index=rows.index)
    try:
        held = used.eval(ast.unparse(tree), engine="python")
    except Exception as error:
        raise UserError(f"{key}: '{text}' cannot be evaluated: {error}") from None
    if not isinstance(held, pd.Series) or not pd.api.types.is_bool_dtype(held.dtype):
        raise UserError(f"{key}: '{text}' is not a condition on columns, such as \"age >= 20\"")
    return held.fillna(False).to_numpy(dtype=bool)


def columns_of(text: str, rows: pd.DataFrame, key: str) -> set[str]:
    """The columns that `text` is about. Raises UserError for a syntax error and an unknown column."""
    return set(_parse(text, rows, key)[1].values())


def _parse(text: str, rows: pd.DataFrame, key: str) -> tuple[ast.Expression, dict[str, str]]:
    """The expression, and the column that each of its names stands for."""
    columns: dict[str, str] = {}

    def plain(match: re.Match[str]) -> str:
        string, quoted, operator = match.groups()
        if string is not None:
            return string
        if operator is not None:  # binds like and/or, as everywhere in pandas expressions
            return " and " if operator == "&" else " or "
        name = f"column_{len(columns)}_"
        columns[name] = quoted
        return name

    try:
        tree = ast.parse(_TOKENS.sub(plain, text).strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{key}: '{text}' is not an expression ({getattr(error, 'msg', error)})") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            column = columns.setdefault(node.id, node.id)
            if column not in rows.columns:
                raise UserError(
                    f"{key}: '{text}': no column '{column}'{did_you_mean(column, rows.columns)}; text goes in quotes"
                )
    return tree, columns


class _ClassNames(ast.NodeTransformer):
    """Turns the class names that an attribute is compared with into their indices."""

    def __init__(self, labels: Mapping[str, tuple[str, tuple[str, ...]]], where: str):
        self.labels = labels
        self.where = where

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        sides = [node.left, *node.comparators]
        attributes = [side.id for side in sides if isinstance(side, ast.Name) and side.id in self.labels]
        if attributes:
            ordered = all(isinstance(op, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) for op in node.ops)
            node.left, *node.comparators = [self._index(side, *self.labels[attributes[0]], ordered) for side in sides]
        return self.generic_visit(node)

    def _index(self, side: ast.expr, attribute: str, names: tuple[str, ...], ordered: bool) -> ast.expr:
        if isinstance(side, (ast.List, ast.Tuple)):
            return ast.List([self._index(item, attribute, names, ordered) for item in side.elts], ast.Load())
        try:
            value = ast.literal_eval(side)
        except (ValueError, SyntaxError):
            return side
        if value == -1:
            return side
        if str(value) in names:
            return ast.Constant(names.index(str(value)))
        numbered = all(re.fullmatch(r"\d+", name) for name in names)
        if ordered and isinstance(value, int) and not numbered and 0 <= value < len(names):
            return side
        raise UserError(f"{self.where}: {attribute} has no class '{value}'{did_you_mean(str(value), names)}")
