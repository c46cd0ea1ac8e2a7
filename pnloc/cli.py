"""The command line, `python -m pnloc COMMAND`; commands.toml lists commands and arguments.

Bad input is one line on standard error and exit status 2. `data check` ends with 0 if all is well,
1 with something in quarantine, 2 with an unusable set, 3 if images only leak from test to training.
"""

import argparse
import json
import os
import sys
import tomllib
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pandas as pd

from pnloc import __version__
from pnloc.errors import PnlocError
from pnloc.files import check_path, read_text, readable, write_table

ROOT = Path(__file__).parents[1]


def _parser() -> argparse.ArgumentParser:
    table = tomllib.loads(Path(__file__).with_name("commands.toml").read_text(encoding="utf-8"))
    text = "Pneumonia localization by cross-attention on radiographs and reports. "
    parser = argparse.ArgumentParser("python -m pnloc", description=f"{text}Not a medical device.")
    parser.add_argument("--version", action="version", version=__version__)
    groups = {"": parser.add_subparsers(dest="command", required=True)}
    for name, entry in table["commands"].items():
        group, _, last = name.rpartition(" ")
        command = groups[group].add_parser(last, help=entry["help"])
        if "arguments" not in entry:
            groups[name] = command.add_subparsers(dest="action", required=True)
            continue
        arguments: dict[str, dict] = {}
        for flags, settings in entry["arguments"].items():
            arguments |= table["run"] if flags == "run" else {flags: settings}
        for flags, settings in arguments.items():
            plain = {key: settings[key] for key in settings.keys() - {"reads", "writes"}}
            for use in settings.keys() & {"reads", "writes"}:
                plain["type"] = partial(_path, kind=settings[use], written=use == "writes")
            if plain.get("type") == "int":
                plain["type"] = int
            if plain.get("nargs") == 2:
                plain["metavar"] = tuple(plain["metavar"])
            command.add_argument(*flags.split(), **plain)
        command.set_defaults(resumes=entry.get("resumes", False))
    return parser


def _path(name: str, kind: str, written: bool) -> str:
    """A path with `~` expanded; PnlocError for one that its argument cannot be (check_path)."""
    path = os.path.expanduser(name)
    check_path(path, kind, written)
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = argparse.Namespace(resumes=False)
    try:
        _parser().parse_args(arguments, args)
        return globals()[f"_{args.command}"](args) or 0
    except PnlocError as error:
        _complain(error)
        return 2
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        _complain(f"{error.filename}: {error.strerror}")
        return 2
    except KeyboardInterrupt as stop:
        further = "; the same command goes on from the last whole step" if args.resumes else ""
        _complain(str(stop) or f"stopped{further}")
        return 130


def _complain(message: object) -> None:
    print(f"pnloc: {message}", file=sys.stderr)


def _show(table: pd.DataFrame, digits: str = "") -> None:
    options = {"na_rep": "", "float_format": f"{{:{digits}}}".format} if digits else {}
    print(table.to_string(index=False, **options))


def _beside(module: str) -> ModuleType:
    """A module that lies beside the package and comes with the repository only."""
    if not ROOT.joinpath(*module.split(".")).with_suffix(".py").exists():
        raise PnlocError("this command comes with the repository: clone it, and make env there")
    sys.path.insert(0, str(ROOT))
    return import_module(module)


def _open(args: argparse.Namespace):
    from pnloc.run.run import open_run

    return open_run(args.preset, args.data or "", args.seed, args.artifacts or "")


def _data(args: argparse.Namespace) -> int:
    from pnloc.data.audit import audit

    run = _open(args)
    result = audit(run.sets.readers(), run.sets.measured, decode=not args.quick)
    quarantine, leaks = result.quarantine(), result.leaks()
    write_table(run.root / "quarantine.csv", quarantine)
    write_table(run.root / "same-content.csv", result.pairs)
    if args.json:
        print(json.dumps(result.as_dict(), indent=1, default=str))
        return result.status()
    for table in (result.rows(), result.splits()) if result.records else ():
        print(table.to_string(index=False), end="\n\n")
    for name, reason in result.unusable.items():
        print(f"UNUSABLE: {name}: {reason}")
    print(*result.remarks(), sep="\n")
    if len(leaks):
        text = "training images that are test images under the name of another patient"
        print(f"LEAK: {text}; training leaves these patients out:")
        _show(leaks.drop(columns="leak"))
    print(f"{len(quarantine)} in quarantine: {run.root / 'quarantine.csv'}")
    return result.status()


def _train(args: argparse.Namespace) -> None:
    from pnloc import parallel
    from pnloc.run import methods
    from pnloc.run.results import tables

    run = _open(args)
    run.train()
    methods.train(run)
    if parallel.leave():  # the main process goes on by itself
        _show(tables(run).query("metric == 'miou'"))
        print(f"checkpoint: {run.root / 'checkpoint'}; tables: {run.root / 'tables'}")


def _localize(args: argparse.Namespace) -> int:
    from pnloc.view.batch import localize

    report = None
    if args.report:
        from pnloc.reports.phrases import phrases  # half a second, which images alone do not need

        if len(args.images) != 1:
            raise PnlocError(f"--report goes with one image, not with {len(args.images)}")
        report = phrases(read_text(args.report))
    outcome = localize(args.checkpoint, args.images, args.out, _complain, report)
    whole = f"{outcome.images - outcome.failed} of {outcome.images} images"
    before = f" ({outcome.before} of them were done before)" if outcome.before else ""
    files = ", ".join(str(Path(args.out, f"{name}.csv")) for name in ("boxes", "attributes"))
    print(f"{whole}{before}: {files}. Research only, not a medical device.")
    return 2 if outcome.failed else 0


def _evaluate(args: argparse.Namespace) -> None:
    from pnloc.evaluation.files import evaluate

    if args.resamples < 1 or args.seed < 0:
        raise PnlocError("--resamples is a whole number from 1 on, and --seed one from 0 on")
    files = (args.predictions, args.truth, args.patients)
    table, remarks = evaluate(*files, args.resamples, args.seed)
    for remark in remarks:
        _complain(remark)
    _show(table, ".4g")
    if args.out:
        write_table(args.out, table)


def _gather(args: argparse.Namespace) -> None:
    sweep = _beside("experiments.sweep")
    table = sweep.gather(args.runs, args.table)
    if args.out:
        write_table(args.out, table)
    _show(sweep.summary(table, args.metric), ".4f")


def _keep(args: argparse.Namespace) -> None:
    print(f"tables: {_beside('experiments.sweep').keep(args.run_folder, args.out)}")


def _reports(args: argparse.Namespace) -> int:
    from pnloc.reports.findings import describe

    failed = 0
    for name in args.files:
        shown = "standard input" if name == "-" else name
        try:
            if name != "-":
                check_path(name, "file")
            with readable(shown, "text"):
                content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
                text = content.decode("utf-8-sig")
            print(describe(shown, text))
        except PnlocError as error:
            failed = 2
            _complain(error)
    return failed


def _reproduce(args: argparse.Namespace) -> None:
    book, publishing = _beside("book._ext.run"), _beside("book._ext.publish")
    run = _open(args)  # a wrong preset or folder ends here, before a kernel starts
    parameters = {"PRESET": args.preset, "DATA": str(run.data or ""), "SEED": args.seed}
    parameters |= {"ARTIFACTS": args.artifacts or "", **dict(args.parameter)}
    book.execute(ROOT / "notebooks", run.root / "pages", parameters)
    publishing.publish(run.root / "pages", ROOT / "book" / "pages")


def _experiment(args: argparse.Namespace) -> None:
    plan = _beside("experiments.plan").plan_of(args.preset)
    args.preset += plan.settings
    out = Path(args.out) if args.out else None
    table = _beside("experiments.tables").run(_open(args), plan, out)
    _show(table.query("metric in ['union IoU', 'AUC', 'pearson']"), ".3f")
