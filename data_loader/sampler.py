"""The order of samples as a pure function of (seed, position): a resumed run starts at its next batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch.utils.data import Sampler

from data_loader.one_of import OneOf
from utils.random_state import make_rng

# Of one batch, by stream: rows of the label frame and their positions in the stream, both int64 [n].
Keys = dict[str, tuple[np.ndarray, np.ndarray]]


class Stream:
    """An endless sequence of rows. `take(start, count)` gives its positions start … start + count - 1.

    rows: int64 [n] rows of the label frame. kind `random`: one permutation after the other. one_of: the rows name its
    units, and a pass shows the member of each that it picks.
    """

    def __init__(self, rows: np.ndarray, seed: int, stream: int, one_of: OneOf | None = None):
        if len(rows) == 0:
            raise ValueError("a stream needs at least one row")
        self.rows = np.asarray(rows, dtype=np.int64)
        self.key = (seed, stream)
        self.one_of = one_of
        self._pass = -1
        self._order = self.rows

    def take(self, start: int, count: int) -> np.ndarray:
        """Rows at the given positions, int64 [count]."""
        n, taken = len(self.rows), []
        while count > 0:
            number, offset = divmod(start, n)
            if number != self._pass:
                drawn = self._draw(number)
                self._order = drawn if self.one_of is None else self.one_of.pick(drawn, *self.key, number)
                self._pass = number
            taken.append(self._order[offset : offset + count])
            start, count = start + len(taken[-1]), count - len(taken[-1])
        return np.concatenate(taken)

    def may_show(self) -> np.ndarray:
        """Every row that may come up, ascending int64."""
        return np.unique(self.rows if self.one_of is None else self.one_of.members(self.rows))

    def _draw(self, number: int) -> np.ndarray:
        return make_rng(*self.key, number).permutation(self.rows)


class WeightedStream(Stream):
    """Every position drawn with replacement, each class equally likely (torch's WeightedRandomSampler)."""

    # A data set of n rows, and within it a class of n rows, is drawn in proportion to n^power.
    power = 0.0

    def __init__(
        self,
        rows: np.ndarray,
        classes: np.ndarray,
        seed: int,
        stream: int,
        data_sets: np.ndarray | None = None,
        one_of: OneOf | None = None,
    ):
        super().__init__(rows, seed, stream, one_of)
        if data_sets is not None:
            classes = np.unique(np.stack([data_sets, classes]), axis=1, return_inverse=True)[1].reshape(-1)
        _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
        weights = counts[inverse] ** (self.power - 1.0)
        if data_sets is not None:
            _, of_set, sizes = np.unique(data_sets, return_inverse=True, return_counts=True)
            weights *= (sizes**self.power / np.bincount(of_set, weights))[of_set]
        self.weights = weights / weights.sum()

    def _draw(self, number: int) -> np.ndarray:
        return make_rng(*self.key, number).choice(self.rows, size=len(self.rows), p=self.weights)


class SquareRootStream(WeightedStream):
    """Every position drawn with replacement, classes in proportion to the square root of their rows."""

    power = 0.5


class InTurn(Stream):
    """Several streams, each once in every block of as many positions."""

    # Orders are drawn for so many blocks at a time: a generator for each would cost more than a training sample.
    chunk = 1024

    def __init__(self, streams: list[Stream], seed: int, stream: int):
        super().__init__(np.concatenate([one.rows for one in streams]), seed, stream)
        self.streams = streams

    def take(self, start: int, count: int) -> np.ndarray:
        n = len(self.streams)
        first, last = start // n, -(-(start + count) // n)
        of_each = np.stack([one.take(first, last - first) for one in self.streams], axis=1)
        blocks = np.take_along_axis(of_each, self._orders(first, last), axis=1)
        return blocks.reshape(-1)[start - first * n :][:count]

    def may_show(self) -> np.ndarray:
        return np.unique(np.concatenate([one.may_show() for one in self.streams]))

    def _orders(self, first: int, last: int) -> np.ndarray:
        """A permutation of the streams for each of the blocks first … last - 1, int64 [last - first, n]."""
        found = []
        for chunk in range(first // self.chunk, -(-last // self.chunk)):
            if chunk != self._pass:
                unshuffled = np.tile(np.arange(len(self.streams)), (self.chunk, 1))
                self._order, self._pass = make_rng(*self.key, chunk).permuted(unshuffled, axis=1), chunk
            begin = chunk * self.chunk
            found.append(self._order[max(first - begin, 0) : last - begin])
        return np.concatenate(found)


class BalancedStream(InTurn):
    """Every class once in each block of C positions; within a class, one permutation (a pass) after the other."""

    def __init__(self, rows: np.ndarray, classes: np.ndarray, seed: int, stream: int, one_of: OneOf | None = None):
        of_class = [
            Stream(rows[classes == c], seed, 1000 * (stream + 1) + i, one_of) for i, c in enumerate(np.unique(classes))
        ]
        super().__init__(of_class, seed, stream)


def make_stream(
    kind: str,
    rows: np.ndarray,
    classes: np.ndarray,
    seed: int,
    stream: int,
    data_sets: np.ndarray | None = None,
    one_of: OneOf | None = None,
) -> Stream:
    """kind: `random`, `balanced` (by class), `weighted` or `square_root` (both with replacement).

    classes: int64 [n] of the rows; data_sets: int64 [n]. All kinds but `random` first balance the data sets, by the
    same rule as classes, then the classes within each.
    """
    if kind == "random":
        return Stream(rows, seed, stream, one_of)
    numbers = np.unique(data_sets) if data_sets is not None else np.zeros(1)
    if kind == "balanced" and len(numbers) > 1:
        parts = [data_sets == number for number in numbers]
        first = 100 * (stream + 1)
        of_sets: list[Stream] = [
            BalancedStream(rows[part], classes[part], seed, first + i, one_of) for i, part in enumerate(parts)
        ]
        return InTurn(of_sets, seed, stream)
    if kind == "balanced":
        return BalancedStream(rows, classes, seed, stream, one_of)
    weighted = {"weighted": WeightedStream, "square_root": SquareRootStream}[kind]
    return weighted(rows, classes, seed, stream, data_sets if len(numbers) > 1 else None, one_of)


class StepSampler(Sampler[Keys]):
    """The keys of one batch after the other, for batches start … stop - 1 of the run.

    streams: name -> (stream, rows a batch over all processes); a process takes every `world_size`-th of them.
    first: name -> the batch from which on that stream is drawn.
    """

    def __init__(
        self,
        streams: Mapping[str, tuple[Stream, int]],
        start: int,
        stop: int,
        first: Mapping[str, int],
        rank: int = 0,
        world_size: int = 1,
    ):
        self.streams, self.start, self.stop, self.first = streams, start, stop, first
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Keys]:
        for batch in range(self.start, self.stop):
            keys: Keys = {}
            for name, (stream, size) in self.streams.items():
                if batch >= self.first.get(name, 0):
                    rows, positions = stream.take(batch * size, size), np.arange(batch * size, (batch + 1) * size)
                    keys[name] = rows[self.rank :: self.world_size], positions[self.rank :: self.world_size]
            yield keys


class EvaluationSampler(Sampler[Keys]):
    """Rows in order, in batches; a process takes every `world_size`-th row."""

    def __init__(self, rows: np.ndarray, batch_size: int, rank: int = 0, world_size: int = 1):
        rows = np.asarray(rows, dtype=np.int64)
        self.rows, self.positions = (a[rank::world_size] for a in (rows, np.arange(len(rows))))
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[Keys]:
        for start in range(0, len(self.rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            yield {"eval": (self.rows[part], self.positions[part])}
