"""How every command ends: exit codes, and one clear message instead of a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from utils.errors import UserError


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """0 done; 2 the user's input is wrong; 130/143 stopped by a signal; anything else is our bug (1, traceback)."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        if str(error):
            print(error, file=sys.stderr)
        sys.exit(code)
