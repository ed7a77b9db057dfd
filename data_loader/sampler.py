"""The order of samples as a pure function of (seed, position): a resumed run starts at its next batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch.utils.data import Sampler

from utils.random_state import make_rng

# Of one batch, by stream: rows of the label frame and their positions in the stream, both int64 [n].
Keys = dict[str, tuple[np.ndarray, np.ndarray]]


class Stream:
    """An endless sequence of rows. `take(start, count)` gives its positions start … start + count - 1.

    rows: int64 [n] rows of the label frame. kind `random`: one permutation after the other.
    """

    def __init__(self, rows: np.ndarray, seed: int, stream: int):
        if len(rows) == 0:
            raise ValueError("a stream needs at least one row")
        self.rows = np.asarray(rows, dtype=np.int64)
        self.key = (seed, stream)
        self._pass = -1
        self._order = self.rows

    def take(self, start: int, count: int) -> np.ndarray:
        """Rows at the given positions, int64 [count]."""
        n, taken = len(self.rows), []
        while count > 0:
            number, offset = divmod(start, n)
            if number != self._pass:
                self._order, self._pass = self._draw(number), number
            taken.append(self._order[offset : offset + count])
            start, count = start + len(taken[-1]), count - len(taken[-1])
        return np.concatenate(taken)

    def _draw(self, number: int) -> np.ndarray:
        return make_rng(*self.key, number).permutation(self.rows)


class WeightedStream(Stream):
    """Every position drawn with replacement, each class equally likely (torch's WeightedRandomSampler)."""

    # A class of n rows is drawn in proportion to n^power.
    power = 0.0

    def __init__(self, rows: np.ndarray, classes: np.ndarray, seed: int, stream: int):
        super().__init__(rows, seed, stream)
        _, inverse, counts = np.unique(classes, return_inverse=True, return_counts=True)
        weights = counts[inverse] ** (self.power - 1.0)
        self.weights = weights / weights.sum()

    def _draw(self, number: int) -> np.ndarray:
        return make_rng(*self.key, number).choice(self.rows, size=len(self.rows), p=self.weights)


class SquareRootStream(WeightedStream):
    """Every position drawn with replacement, classes in proportion to the square root of their rows."""

    power = 0.5


class BalancedStream(Stream):
    """Every class once in each block of C positions; within a class, one permutation after the other."""

    # Orders are drawn for so many blocks at a time: a generator for each would cost more than a training sample.
    chunk = 1024

    def __init__(self, rows: np.ndarray, classes: np.ndarray, seed: int, stream: int):
        super().__init__(rows, seed, stream)
        self.classes = [
            Stream(rows[classes == c], seed, 1000 * (stream + 1) + i) for i, c in enumerate(np.unique(classes))
        ]

    def take(self, start: int, count: int) -> np.ndarray:
        c = len(self.classes)
        first, last = start // c, -(-(start + count) // c)
        per_class = np.stack([stream.take(first, last - first) for stream in self.classes], axis=1)
        blocks = np.take_along_axis(per_class, self._orders(first, last), axis=1)
        return blocks.reshape(-1)[start - first * c :][:count]

    def _orders(self, first: int, last: int) -> np.ndarray:
        """A permutation of the classes for each of the blocks first … last - 1, int64 [last - first, C]."""
        found = []
        for chunk in range(first // self.chunk, -(-last // self.chunk)):
            if chunk != self._pass:
                unshuffled = np.tile(np.arange(len(self.classes)), (self.chunk, 1))
                self._order, self._pass = make_rng(*self.key, chunk).permuted(unshuffled, axis=1), chunk
            begin = chunk * self.chunk
            found.append(self._order[max(first - begin, 0) : last - begin])
        return np.concatenate(found)


def make_stream(kind: str, rows: np.ndarray, classes: np.ndarray, seed: int, stream: int) -> Stream:
    """kind: `random`, `balanced` (by class), `weighted` or `square_root` (both with replacement).

    classes: int64 [n] of the rows.
    """
    if kind == "random":
        return Stream(rows, seed, stream)
    kinds = {"balanced": BalancedStream, "weighted": WeightedStream, "square_root": SquareRootStream}
    return kinds[kind](rows, classes, seed, stream)


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
