"""The `aiobs` command: look at what the local store holds.

Other packages add commands through the entry-point group `aiobs.commands`: a callable that takes argparse's
sub-parsers action, adds a parser and sets its default `run` to a callable from the parsed arguments to an exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TextIO

from aiobs_core._errors import AiobsError
from aiobs_core._health import Health

if TYPE_CHECKING:
    from aiobs_core.store.reader import Store, StoredRun, StoredSpan

COMMANDS_GROUP: Final = "aiobs.commands"
_ENVIRON: Final = os.environ  # noqa: TID251 - handed on to where folders and colours are decided
SubParsers = argparse._SubParsersAction  # noqa: SLF001 - argparse has no public name for it
_ELSEWHERE: Final = {
    "collector": "aiobs-ops",
    "verify": "aiobs-ops",
}  # commands of packages that may not be there
_HEADINGS: Final = ("TRACE", "START", "TIME", "SPANS", "ERRORS", "TOKENS", "COST", "STATUS", "NAME")
_NAME_WIDTH: Final = 80
_NARROWEST_NAME: Final = 20
_FIRST_RUN: Final = """\
To record one, add these lines to your program and run it:

    from aiobs_langchain import AiObsCallbackHandler
    handler = AiObsCallbackHandler()
    agent.invoke(question, config={"callbacks": [handler]})  # any model, chain or graph"""


class _NothingStoredError(AiobsError):
    """There is no run to show yet."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Its arguments; those of the process if None.

    Returns:
        0, 1 if the command could not do its work (stderr says why), 2 if it was called wrongly.
    """
    parser, known = _parser()
    first = next(iter(sys.argv[1:] if argv is None else argv), "")
    if first in _ELSEWHERE and first not in known:
        package = _ELSEWHERE[first]
        _complain(
            f"`aiobs {first}` comes with the package {package}, which is not installed: pip install {package}"
        )
        return 2
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as exit_:  # argparse has printed help, version or what was wrong
        return exit_.code if isinstance(exit_.code, int) else 2
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        code = run(arguments)
        sys.stdout.flush()
    except _NothingStoredError as error:
        _show_how_to_begin(error)
        return 1
    except AiobsError as error:
        _complain(str(error))
        return 1
    except BrokenPipeError:  # the reader has seen enough: `aiobs export | head`
        _discard_stdout()
        return 0
    except OSError as error:
        _complain(
            f"{error.filename or 'output'}: {error.strerror or error}; check the path and its permissions."
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> tuple[argparse.ArgumentParser, Collection[str]]:
    """The parser, and the commands it knows."""
    from aiobs_core.export import doctor as of_delivery
    from aiobs_core.pricing import commands as of_prices
    from aiobs_core.privacy import commands as of_privacy
    from aiobs_core.sampling import commands as of_sampling
    from aiobs_core.top import commands as of_top

    parser = argparse.ArgumentParser(prog="aiobs", description="Look at the runs of your agents.")
    parser.add_argument("--version", action="version", version=f"aiobs-core {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    runs = commands.add_parser("runs", help="list runs, the newest first")
    runs.add_argument("--limit", type=_positive, default=20, metavar="N", help="how many (default: 20)")
    runs.add_argument("--json", action="store_true", help="as a JSON array")
    runs.set_defaults(run=_runs)

    show = commands.add_parser("show", help="show one run as a tree")
    show.add_argument("trace", metavar="TRACE", help="first digits of its trace id, or `last`")
    show.add_argument("--json", action="store_true", help="its spans as a JSON array, with all attributes")
    show.set_defaults(run=_show)

    export = commands.add_parser(
        "export", help="write spans as JSON Lines: OTLP-JSON, one run a line, or one span a line"
    )
    export.add_argument("--format", choices=("otlp-json", "jsonl"), required=True)
    export.add_argument(
        "--trace", metavar="ID", help="this run only: first digits of its trace id, or `last`"
    )
    export.add_argument("-o", "--output", metavar="FILE", default="-", help="default: standard output")
    export.set_defaults(run=_export)

    for command in (runs, show, export):
        command.add_argument(
            "--store", metavar="DIR", help="folder of the store (default: as AIOBS_STORE says)"
        )
    of_privacy.add_commands(commands)
    of_prices.add_commands(commands)
    of_sampling.add_commands(commands)
    of_top.add_commands(commands)
    of_delivery.add_commands(commands)
    _add_foreign_commands(commands)
    return parser, commands.choices


def _add_foreign_commands(commands: SubParsers[argparse.ArgumentParser]) -> None:
    for entry_point in metadata.entry_points(group=COMMANDS_GROUP):
        try:
            entry_point.load()(commands)
        except Exception as error:  # noqa: BLE001 - a broken package must not take the others' commands away
            package = entry_point.dist.name if entry_point.dist else entry_point.value
            _complain(
                f"the command {entry_point.name!r} of {package} is not available ({type(error).__name__}: {error}); "
                "reinstall or remove that package."
            )


def _version() -> str:
    try:
        return metadata.version("aiobs-core")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_positive.__name__ = "number from 1"  # argparse names the type by it: "invalid number from 1 value: '0'"


def _complain(message: str) -> None:
    print(f"aiobs: {_safe(message, sys.stderr)}", file=sys.stderr)


def _show_how_to_begin(error: _NothingStoredError) -> None:
    _complain(str(error))
    print(_FIRST_RUN, file=sys.stderr)


def _safe(text: str, stream: TextIO) -> str:
    """Text from outside as it may go to a terminal: no escape sequences, one line, any length."""
    from aiobs_core.export._text import neutralise

    encoding = stream.encoding or "utf-8"
    return "".join(
        neutralise(text[first : first + 100], encoding=encoding) for first in range(0, len(text), 100)
    )


def _discard_stdout() -> None:
    # Python flushes stdout once more at exit and would complain about the same broken pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- the store ------------------------------------------------------------------------------------------------


@contextmanager
def _store(arguments: argparse.Namespace) -> Iterator[Store]:
    from aiobs_core._settings import Settings
    from aiobs_core.store.location import store_folder
    from aiobs_core.store.reader import NoStoreError, open_store
    from aiobs_core.store.schema import StoreError

    setting = arguments.store or Settings.load().store
    folder = store_folder(setting, cwd=Path.cwd(), environ=_ENVIRON)
    if folder is None:
        raise StoreError("AIOBS_STORE is `off`; name the folder of a store with --store.")
    try:
        opened = open_store(folder, health=Health())
    except NoStoreError:
        raise _NothingStoredError(
            f"There is no aiobs store in {folder}; --store DIR or AIOBS_STORE looks elsewhere."
        ) from None
    with closing(opened) as store:
        yield store


# --- runs -----------------------------------------------------------------------------------------------------


def _runs(arguments: argparse.Namespace) -> int:
    with _store(arguments) as store:
        runs = store.runs(arguments.limit)
        if arguments.json:
            _print_json([asdict(run) for run in runs])
        elif runs:
            print("\n".join(_table(store, runs)))
        else:
            _show_how_to_begin(_nothing_in(store))
    return 0


def _nothing_in(store: Store) -> _NothingStoredError:
    return _NothingStoredError(f"{store.path} holds no run yet; --store DIR or AIOBS_STORE looks elsewhere.")


def _table(store: Store, runs: Sequence[StoredRun]) -> Iterator[str]:
    """A line of headings and one per run, each column as wide as its widest cell, the name in what is left."""
    from aiobs_core.export._text import cut, display_width

    rows = [_HEADINGS, *(_cells(store, run) for run in runs)]
    if all(run.cost_nano_usd is None for run in runs):
        at = _HEADINGS.index("COST")
        rows = [row[:at] + row[at + 1 :] for row in rows]
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)][:-1]
    taken = sum(widths) + 2 * len(widths)
    columns = shutil.get_terminal_size((taken + _NAME_WIDTH, 24)).columns
    for trace_id, start, *numbers, status, name in rows:
        cells = [trace_id.ljust(widths[0]), start.ljust(widths[1])]
        cells += [number.rjust(width) for number, width in zip(numbers, widths[2:-1], strict=True)]
        cells.append(status + " " * (widths[-1] - display_width(status)))
        cells.append(cut(name, min(max(columns - taken, _NARROWEST_NAME), _NAME_WIDTH), ellipsis="..."))
        yield "  ".join(cells)


def _cells(store: Store, run: StoredRun) -> tuple[str, ...]:
    from aiobs_core.export._text import duration_text, money_text, short_trace_id

    start = datetime.fromtimestamp(run.start_ns / 1e9).astimezone()
    name, error_count, status = _headline(store, run)
    return (
        short_trace_id(run.trace_id),
        start.strftime("%Y-%m-%d %H:%M:%S"),
        "pending" if run.is_pending else duration_text(run.end_ns - run.start_ns),
        str(run.span_count),
        str(error_count or "-"),
        _tokens(run),
        "-" if run.cost_nano_usd is None else money_text(run.cost_nano_usd / 1e9),
        status,
        name,
    )


def _headline(store: Store, run: StoredRun) -> tuple[str, int, str]:
    """Name, count of errors and status as the tree of the run says them; what the store's sums say if it cannot be read."""
    from aiobs_core.export.tree import headline
    from aiobs_core.store.schema import StoreError

    name = "-" if run.name is None else _safe(run.name, sys.stdout)
    try:
        spans = [span.to_readable() for span in store.trace(run.trace_id)]
    except StoreError:
        return name, run.error_count, "-"
    found = headline(spans, encoding=sys.stdout.encoding or "utf-8")
    if found is None:
        return name, run.error_count, "-"
    if run.is_pending:
        return name, found.failure_count, "-"
    return found.name, found.failure_count, found.ending


def _tokens(run: StoredRun) -> str:
    from aiobs_core.export._text import count_text

    if run.input_tokens is None and run.output_tokens is None:
        return "-"
    parts = (run.input_tokens, run.output_tokens)
    return " in / ".join("?" if part is None else count_text(part) for part in parts) + " out"


# --- show -----------------------------------------------------------------------------------------------------


def _show(arguments: argparse.Namespace) -> int:
    with _store(arguments) as store:
        if not store.runs(1):
            raise _nothing_in(store)
        spans = store.trace(arguments.trace)
    if arguments.json:
        from aiobs_core.privacy.reads import noted_reads
        from aiobs_core.store.flat import flat

        with noted_reads("show --json", arguments.store) as reads:
            reads.see(spans)
            _print_json([flat(span) for span in spans])
        return 0
    from aiobs_core.export._layout import Glyphs, shows_colours
    from aiobs_core.export.tree import render_tree

    out = sys.stdout
    encoding = out.encoding or "utf-8"
    tree = render_tree(
        [span.to_readable() for span in spans],
        width=shutil.get_terminal_size((110, 24)).columns,
        color=shows_colours(out, _ENVIRON),
        ascii_only=not Glyphs.can_be_written(encoding),
        encoding=encoding,
    )
    print(tree)
    return 0


def _print_json(value: object) -> None:
    # ASCII: control characters of any block are escaped, whatever the terminal makes of them.
    print(json.dumps(value, indent=2, allow_nan=False))


# --- export ---------------------------------------------------------------------------------------------------


def _export(arguments: argparse.Namespace) -> int:
    from aiobs_core.privacy.reads import noted_reads

    encode = _otlp_line if arguments.format == "otlp-json" else _json_lines
    with _store(arguments) as store, noted_reads("export", arguments.store) as reads:
        traces = iter([store.trace(arguments.trace)]) if arguments.trace else store.iter_traces()
        if arguments.output == "-":
            escaped = sys.stdout.isatty()
            for spans in traces:
                reads.see(spans)
                line = encode(spans)
                sys.stdout.buffer.write(_ascii(line) if escaped else line)
            sys.stdout.buffer.flush()
        else:
            with _private_file(arguments.output) as file:
                for spans in traces:
                    reads.see(spans)
                    file.write(encode(spans))
    return 0


def _otlp_line(spans: Sequence[StoredSpan]) -> bytes:
    from aiobs_core.store.otlp_json import encode_line

    return encode_line(span.to_readable() for span in spans)


def _json_lines(spans: Sequence[StoredSpan]) -> bytes:
    from aiobs_core.store.flat import flat

    return b"".join(json.dumps(flat(span), allow_nan=False).encode() + b"\n" for span in spans)


def _ascii(lines: bytes) -> bytes:
    """The same JSON with all but ASCII escaped: nothing in it can steer a terminal."""
    return b"".join(json.dumps(json.loads(line)).encode() + b"\n" for line in lines.splitlines())


def _private_file(path: str) -> IO[bytes]:
    """A file for its owner only, since it may hold prompts; one that exists keeps its mode."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o600), "wb")


if __name__ == "__main__":
    sys.exit(main())
