"""What a step does once its gradients are judged, launch by launch: units, lines, trials and updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd.backends.base import Block, Item
from fastgd.backends.reference_factored import band_of
from fastgd.cuda.device import WARP
from fastgd.cuda.element import Variant
from fastgd.cuda.factored import (
    band_sums_text,
    column_sums_text,
    line_text,
    row_factors_text,
    row_sums_text,
)
from fastgd.cuda.launches import Stage
from fastgd.cuda.layout import LANES, TENSOR_BYTES, TILE
from fastgd.cuda.matrices import Matrix, Workspace
from fastgd.cuda.orthogonal import blocks_for, momentum_text, polynomial_text, scale_text, scaled_text
from fastgd.cuda.passes import WIDE
from fastgd.cuda.products import library
from fastgd.cuda.ratios import ratios_text
from fastgd.cuda.sums import sums_text, trial_text
from fastgd.cuda.tables import COLUMN, Held, pieces, room
from fastgd.cuda.units import UNIT_BYTES, least_coef_text, pieces_in, unit_coefs_text, unit_sums_text
from fastgd.cuda.update import update_text
from fastgd.cuda.writer import Text
from fastgd.memory import memory_of
from fastgd.rules import at_step

if TYPE_CHECKING:
    from fastgd.cuda.judge import Judge

#: variant -> numbers of the tensors that are of it
Members = Mapping[Variant, Sequence[int]]


class Stages:
    """Of one plan with certain options."""

    def __init__(
        self, judge: Judge, items: Sequence[Item], blocks: Sequence[Block], members: Members, tried: int
    ) -> None:
        """tried: where chunks are tried, layout.TRIED_BYTES each."""
        self._judge, self._items, self._blocks, self._tried = judge, items, blocks, tried
        self._rows = judge.tensors.host
        self.launches: list[Stage] = []
        #: memory of matrices, by what they are computed in
        self._pools: dict[Any, Workspace] = {}
        if any(variant.units for variant in members):
            self._units(members)
        for variant, own in members.items():
            if variant.lines:
                self._lines(variant, [k for k in own if judge.sizes[k]])
        whole = {v: own for v, own in members.items() if v.of.orthogonal is None}
        for variant, own in whole.items():
            if variant.cautious or variant.of.trust is not None:
                self._trial(variant, own)
        for variant, own in whole.items():
            self._over(update_text(variant, WIDE), {k: judge.sizes[k] for k in own}, TILE)
        for variant, own in members.items():
            if variant not in whole:
                for k in own:
                    if judge.sizes[k]:
                        self._orthogonal(variant, k)
        judge.dirty = True

    # ---- launches ----

    def _launch(self, text: Text, blocks: int, arguments: tuple[int, ...], *tables: Held) -> None:
        self.launches.append(self._judge.launch(text, blocks, arguments, *tables))

    def _over(
        self, text: Text, counts: Mapping[int, int], length: int, *more: int, tensors: int | None = None
    ) -> int:
        """A launch over tiles of `length` of what there is of each tensor; returns the number of its blocks.

        tensors: a table in place of the judge's.
        """
        judge, members = self._judge, np.array(list(counts), np.int64)
        cut = pieces(list(counts.values()), length)
        cut[:, 0] = members[cut[:, 0]]
        tiles = Held(judge.device, np.ascontiguousarray(cut))
        given = (tensors or judge.tensors.pointer, tiles.pointer, judge.numbers.pointer, *more)
        self._launch(text, len(cut), given, tiles)
        return len(cut)

    def _share(self, column: str, counts: Mapping[int, int], each: int) -> Held:
        """Memory for so many things of `each` bytes of each tensor, whose column receives its address."""
        firsts = np.cumsum([0, *counts.values()])
        made = room(self._judge.device, int(firsts[-1]) * each)
        for k, first in zip(counts, firsts.tolist(), strict=False):
            self._rows[k, COLUMN[column]] = made.pointer + first * each
        self._judge.keep(made)
        return made

    # ---- units ----

    def _units(self, members: Members) -> None:
        sizes, unit = self._judge.sizes, self._rows[:, COLUMN["unit"]].tolist()
        counts = {k: sizes[k] // unit[k] for own in members.values() for k in own}
        cut = {k: n * pieces_in(unit[k]) for k, n in counts.items()}
        self._share("unit_sums", cut, UNIT_BYTES)
        for real in {variant.real for variant in members}:
            own = {k: counts[k] for v, of in members.items() if v.real == real for k in of}
            self._share("unit_coefs", own, real.itemsize)
        for variant, of in members.items():
            self._over(unit_sums_text(variant, WIDE), {k: cut[k] for k in of}, WIDE // LANES)
        blocks = sum(-(-n // WIDE) for n in counts.values())
        least, at = room(self._judge.device, blocks * WIDE // WARP * 8), 0
        for real in dict.fromkeys(variant.real for variant in members):
            own = {k: counts[k] for v, of in members.items() if v.real == real for k in of}
            made = self._over(unit_coefs_text(real, WIDE), own, WIDE, least.pointer + at)
            at += made * WIDE // WARP * 8
        self._launch(least_coef_text(), 1, (self._judge.numbers.pointer, least.pointer, at // 8), least)

    # ---- lines ----

    def _lines(self, variant: Variant, members: Sequence[int]) -> None:
        if not members:
            return
        judge, rows, width = self._judge, self._rows, variant.real.itemsize
        shapes = {k: self._items[k].param.shape for k in members}
        count = {k: math.prod(shape[:-2]) for k, shape in shapes.items()}
        lines = {k: shape[-2] for k, shape in shapes.items()}
        columns = {k: shape[-1] for k, shape in shapes.items()}
        bands = {k: -(-lines[k] // band_of(columns[k])) for k in members}
        for k in members:
            rows[k, COLUMN["lines"]], rows[k, COLUMN["columns"]] = lines[k], columns[k]
        of_rows = {k: count[k] * lines[k] for k in members}
        of_columns = {k: count[k] * columns[k] for k in members}
        of_bands = {k: of_columns[k] * bands[k] for k in members}
        self._share("row_sums", of_rows, 8)
        self._share("band_sums", of_bands, 8)
        self._share("row_factors", of_rows, width)
        self._share("col_factors", of_columns, width)
        # the lines are tensors of their own: first the rows of each, then the columns
        own = np.concatenate([rows[members], rows[members]])
        row_lines, col_lines = own[: len(members)], own[len(members) :]
        totals = room(judge.device, 8 * sum(of_columns.values()))
        firsts = np.cumsum([0, *of_columns.values()])
        for i, k in enumerate(members):
            of_row: dict[str, int] = {"size": of_rows[k], "width": columns[k]}
            of_row["work"] = rows[k, COLUMN["row_sums"]]
            of_col: dict[str, int] = {"size": of_columns[k], "width": lines[k], "lines": bands[k]}
            of_col |= {"work": totals.pointer + 8 * int(firsts[i]), "copy": rows[k, COLUMN["col_factors"]]}
            for line, values in ((row_lines[i], of_row), (col_lines[i], of_col)):
                for column, value in values.items():
                    line[COLUMN[column]] = value
        table = Held(judge.device, own)
        judge.keep(totals, table)
        self._over(row_sums_text(variant, WIDE), of_rows, WIDE // LANES)
        self._over(band_sums_text(variant, WIDE), of_bands, WIDE)
        col_counts = {len(members) + i: n for i, n in enumerate(of_columns.values())}
        self._over(column_sums_text(WIDE), col_counts, WIDE, tensors=table.pointer)
        row_counts = dict(enumerate(of_rows.values()))
        for name, axis in variant.lines.items():
            counts = row_counts if axis == -1 else col_counts
            self._over(line_text(variant, name, WIDE), counts, TILE, tensors=table.pointer)
        self._over(row_factors_text(variant, WIDE), count, 1)

    # ---- trust ratios and cautious updates ----

    def _trial(self, variant: Variant, members: Sequence[int]) -> None:
        judge, first = self._judge, self._judge.chunks.first
        chunks = Held(judge.device, judge.chunks.of_tensors(members))
        spans = Held(judge.device, np.array([(k, first[k], first[k + 1]) for k in members], np.int64))
        count = len(chunks.host)
        given = (judge.tensors.pointer, chunks.pointer, count, self._tried, judge.numbers.pointer)
        self._launch(trial_text(variant, WIDE), -(-count * LANES // WIDE), given, chunks)
        of_all = (judge.tensors.pointer, spans.pointer, len(members), self._tried, judge.numbers.pointer)
        self._launch(ratios_text(variant, WIDE), -(-len(members) // WIDE), of_all, spans)

    # ---- steps made orthogonal: one matrix after the other ----

    def _orthogonal(self, variant: Variant, k: int) -> None:
        judge, item, real = self._judge, self._items[k], variant.real
        orthogonal, block = variant.of.orthogonal, self._blocks[item.block]
        assert orthogonal is not None
        pool = self._pools.get(real)
        if pool is None:
            multiply = library(getattr(item.param, "owner", None))
            pool = self._pools[real] = Workspace(memory_of(item.param), real, multiply)
            judge.keep(pool)
        pool.planned = self.launches
        rows, cols = item.param.shape
        matrix = pool.matrix(rows, cols)
        self._rows[k, COLUMN["work"]] = matrix.pointer
        size, numbers = {k: judge.sizes[k]}, judge.numbers.pointer
        self._over(momentum_text(variant, WIDE), size, TILE)
        chunks = Held(judge.device, judge.chunks.of_tensors([k]))
        squares = sums_text(real.name, real.name, clamped=False, column="work", threads=WIDE)
        count = len(chunks.host)
        given = (judge.tensors.pointer, chunks.pointer, count, judge.sums.pointer, numbers)
        self._launch(squares, -(-count * LANES // WIDE), (*given, judge.scopes.pointer), chunks)
        of, scale = judge.tensors.pointer + k * TENSOR_BYTES, room(judge.device, 8)
        first, last = judge.chunks.first[k : k + 2].tolist()
        self._launch(
            scale_text(variant), 1, (of, judge.sums.pointer, first, last, scale.pointer, numbers), scale
        )
        arguments = (matrix.pointer, rows * cols, scale.pointer)
        self._launch(scaled_text(real, WIDE), blocks_for(rows * cols, WIDE), arguments)

        def polynomial(gram: Matrix, square: Matrix) -> Matrix:
            n = gram.shape[0]
            arguments = (of, gram.pointer, square.pointer, n, numbers)
            self._launch(polynomial_text(variant, WIDE), blocks_for(n * n, WIDE), arguments)
            return square

        folded = variant.of.fold(at_step(variant.of, block.values, 1), 1, variant.of.carried_at_first)
        steps = int(folded[variant.of.scalars.index(orthogonal.steps)])
        turned = orthogonal.turned(matrix, polynomial, steps)
        self._rows[k, COLUMN["turned"]] = turned.pointer
        if variant.cautious:
            self._trial(variant, [k])
        self._over(update_text(variant, WIDE), size, TILE)
