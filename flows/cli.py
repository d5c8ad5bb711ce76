"""The `cuepack` command."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from extractors.errors import ConfigError, CuepackError, SourceError
from extractors.printable import printable
from flows.commands.bench import bench
from flows.commands.calibrate import calibrate
from flows.commands.export import export
from flows.commands.extract import extract, rerun
from flows.commands.models import models
from flows.commands.operate import deploy, doctor, manifest, serve
from flows.commands.options import FAILED, FINISHED, INTERRUPTED, USAGE
from flows.commands.packets import inspect, validate
from flows.commands.plan import plan
from flows.commands.select import select
from flows.commands.sources import sample, score
from flows.commands.stats import stats
from flows.commands.study import study
from flows.commands.verify import verify
from flows.commands.view import view
from flows.remote.files import cache_folder

_KEPT = "what is finished is kept, run again to go on"


class CuepackGroup(click.Group):
    """Turns every error that cuepack raises on purpose into one line and the right exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **named: Any) -> Any:
        """Runs the command line and exits."""
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            with _ended_as_by_ctrl_c():
                sys.exit(super().main(arguments, *rest, **named | {"standalone_mode": False}) or FINISHED)
        except click.ClickException as error:
            error.show()
            _print_error(error.format_message(), error.exit_code, arguments)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            kept = "nothing half written is left; run again" if arguments[:1] == ["export"] else _KEPT
            print(f"cuepack: interrupted; {kept}", file=sys.stderr)
            _print_error("interrupted", INTERRUPTED, arguments)
            sys.exit(INTERRUPTED)
        except (ConfigError, SourceError) as error:
            _stop(error, USAGE, arguments)
        except CuepackError as error:
            _stop(error, FAILED, arguments)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                _stop(_as_fault(error, arguments), FAILED, arguments)
            # Here and not where a name is looked for: every command does, in several places.
            _stop(ConfigError(f"no file can be named {str(error.filename)[:80]}...: too long"), USAGE, arguments)
        except Exception as error:
            # It was not foreseen, and a traceback alone tells no user what to do.
            _stop(_as_fault(error, arguments), FAILED, arguments)


def _as_fault(error: Exception, arguments: Sequence[str]) -> CuepackError:
    """An error that cuepack does not raise on purpose, in words; its traceback goes to a file in the cache folder."""
    text = "".join(traceback.format_exception(error))
    command = shlex.join(["cuepack", *arguments])
    try:
        folder = cache_folder() / "faults"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{os.getpid()}.txt"
        path.write_text(f"{command}\n\n{text}", encoding="utf-8", errors="backslashreplace")
        more = f"report it with {path}"
    except OSError:
        more = f"report it with these lines:\n{text}"
    return CuepackError(f"this is a fault in cuepack: {type(error).__name__}: {error}, in `{command}`; {_KEPT}; {more}")


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP (a closed terminal) end a command as Ctrl-C does, which takes what is half written with it."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    # Python lets the main thread alone set handlers; `nohup` has a closed terminal ignored, and that stays so.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for number in heard:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


def _stop(error: Exception, code: int, arguments: Sequence[str]) -> NoReturn:
    print(f"cuepack: {printable(error, lines=True)}", file=sys.stderr)
    _print_error(str(error), code, arguments)
    raise SystemExit(code)


def _print_error(text: str, code: int, arguments: Sequence[str]) -> None:
    """The JSON object of a command that could not run."""
    if "--json" in arguments:
        command = next((word for word in arguments if not word.startswith("-")), "")
        print(json.dumps({"command": command, "exit_code": code, "counts": {}, "error": text}, sort_keys=True))


@click.group(cls=CuepackGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cuepack")
def main() -> None:
    """Robot-manipulation episodes in, packets of visual cues out."""


for command in (
    extract,
    rerun,
    plan,
    calibrate,
    score,
    select,
    inspect,
    stats,
    validate,
    verify,
    sample,
    models,
    manifest,
    deploy,
    serve,
    doctor,
    bench,
    view,
    export,
    study,
):
    main.add_command(command)


if __name__ == "__main__":
    main()
