"""How every command ends (exit codes, one clear message instead of a traceback) and shows that it goes on."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from utils.errors import ConfigError, UserError

# How torch (on CUDA and on the CPU) and OpenCV say so.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Insufficient memory")


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """0 done; 2 the user's input is wrong; 130/143 stopped by a signal; anything else is our bug (1, traceback)."""
    try:
        yield
    except UserError as error:
        # Of several processes one says it; a mistake in the config is the same for all.
        if str(error) and not (isinstance(error, ConfigError) and os.environ.get("RANK", "0") != "0"):
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except MemoryError as error:
        _too_large(error)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None and any(text in str(error) for text in OUT_OF_MEMORY):
            _too_large(error)
        if code is None:
            raise
        if str(error):
            print(error, file=sys.stderr if code else sys.stdout)
        sys.exit(code)


def counter(doing: str) -> Callable[[int, int], None]:
    """A counter (done, total) on a terminal, ten lines elsewhere."""

    def show(done: int, total: int) -> None:
        if sys.stdout.isatty():
            print(f"\r{doing} {done:,}/{total:,}", end="\n" if done == total else "", flush=True)
        elif done == total or done % max(1, total // 10) == 0:
            print(f"{doing} {done:,}/{total:,}", flush=True)

    return show


def printable(text: str) -> str:
    """Names of files that are not UTF-8 with escapes in place of what a terminal cannot show."""
    return text.encode("utf-8", "backslashreplace").decode()


def _too_large(error: BaseException) -> NoReturn:
    said = (str(error) or "no more memory").partition("\n")[0]
    print(
        f"error: this does not fit into memory ({said}): lower data_loader.batch_size or views.size; "
        "trainer.accumulate keeps the size of a step",
        file=sys.stderr,
    )
    sys.exit(2)
