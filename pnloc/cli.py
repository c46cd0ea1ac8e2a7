"""The command line: `python -m pnloc {data check, train, localize, evaluate, reports, gather, keep, reproduce, experiment}`.

Every error of input is one line on standard error and exit status 2. `data check` ends with 0 where all is well, 1 where
something lies in quarantine, 2 where a set is unusable, 3 where only an image leaks from a test set into training.
"""

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

import pandas as pd

from pnloc import __version__
from pnloc.errors import PnlocError

PRESETS = "smoke, demo, public or mimic"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pnloc",
        description="Pneumonia localization by cross-attention on radiographs and reports. Not a medical device.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="look at the data sets").add_subparsers(
        dest="action", required=True
    )
    check = data.add_parser(
        "check", help="read every set, decode every image, count, quarantine, look for leaks"
    )
    check.add_argument(
        "--json", action="store_true", help="print one JSON object instead of tables"
    )
    check.add_argument(
        "--quick", action="store_true", help="read tables and headers only, decode no image"
    )
    train = commands.add_parser(
        "train", help="train detector and localizer, write the checkpoint and all tables"
    )
    reproduce = commands.add_parser(
        "reproduce", help="run all notebooks with papermill and hand their pages to the book"
    )
    for command in (check, train, reproduce):
        command.add_argument(
            "--preset",
            default="demo",
            help=f"{PRESETS}, or with a number changed: demo+model.epochs=40",
        )
        command.add_argument("--data", default="", help="folder that holds the real data sets")
        command.add_argument(
            "--seed", type=int, default=0, help="whole number from 0 on (default: 0)"
        )
        command.add_argument(
            "--artifacts",
            default="",
            help="where results go (default: artifacts/ of the repository)",
        )
    reproduce.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a further notebook parameter",
    )
    locate = commands.add_parser(
        "localize", help="boxes and attributes of images, from the images alone"
    )
    locate.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG or DICOM files")
    locate.add_argument(
        "--checkpoint",
        required=True,
        metavar="RUN_DIR",
        help="folder of a run or of its checkpoint",
    )
    locate.add_argument(
        "--out",
        required=True,
        metavar="OUT_DIR",
        help="folder for boxes.csv, attributes.csv, overlays",
    )
    locate.add_argument(
        "--report",
        metavar="FILE",
        help="the report of the one image given: its phrases go to phrases.csv, with boxes",
    )
    measure = commands.add_parser(
        "evaluate", help="the table of localization metrics, from files of boxes alone"
    )
    measure.add_argument(
        "predictions", metavar="PREDICTIONS", help="CSV: image, x1, y1, x2, y2, score"
    )
    measure.add_argument(
        "truth",
        metavar="TRUTH",
        help="CSV: image, x1, y1, x2, y2, and optionally patient; no corners: no pneumonia",
    )
    measure.add_argument("--patients", metavar="FILE", help="CSV: image, patient")
    measure.add_argument("--out", metavar="FILE", help="write the table there, as CSV")
    measure.add_argument(
        "--resamples", type=int, default=2000, help="of the bootstrap (default: 2000)"
    )
    measure.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    several = commands.add_parser(
        "gather", help="the tables of several runs as one, and means over their seeds"
    )
    several.add_argument("runs", nargs="+", metavar="RUN_DIR", help="folders of finished runs")
    several.add_argument(
        "--table",
        default="localization",
        help="localization or differences (default: localization)",
    )
    several.add_argument("--metric", default="miou", help="what to print means of (default: miou)")
    several.add_argument("--out", metavar="FILE", help="write every row of every run there, as CSV")
    kept = commands.add_parser(
        "keep", help="copy a finished run's tables over patients, those of no single image"
    )
    kept.add_argument("run", metavar="RUN_DIR", help="the run's folder, such as artifacts/public")
    kept.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="where they go; the book's are in book/results/public",
    )
    texts = commands.add_parser(
        "reports", help="what reports assert: findings, assertions, attributes"
    )
    texts.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="text files of one report each; - reads standard input",
    )
    trial = commands.add_parser(
        "experiment",
        help="what text adds, over data sets, detectors and seeds: an hour or so, resumable",
    )
    trial.add_argument("--plan", default="full", help="full or smoke (default: full)")
    trial.add_argument(
        "--artifacts",
        default="",
        help="where stages are kept (default: artifacts/ of the repository)",
    )
    trial.add_argument(
        "--out",
        default="",
        metavar="DIR",
        help="where tables go as well; the book's are in book/results",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = _parser().parse_args(arguments)
    try:
        run = {
            "data": _check,
            "train": _train,
            "localize": _localize,
            "evaluate": _evaluate,
            "reports": _reports,
        }
        return (
            run
            | {"gather": _gather, "keep": _keep, "reproduce": _reproduce, "experiment": _experiment}
        )[given.command](given)
    except PnlocError as error:
        print(f"pnloc: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("pnloc: stopped; the same command goes on from the last whole step", file=sys.stderr)
        return 130


def _beside(module: str):
    """A module that lies beside the package and comes with the repository only."""
    root = Path(__file__).parents[1]
    if not root.joinpath(*module.split(".")).with_suffix(".py").exists():
        raise PnlocError("this command comes with the repository: clone it, and make env there")
    sys.path.insert(0, str(root))
    return import_module(module)


def _open(given: argparse.Namespace):
    from pnloc.run.run import open_run

    return open_run(given.preset, given.data, given.seed, given.artifacts)


def _check(given: argparse.Namespace) -> int:
    import json

    from pnloc.data.audit import audit
    from pnloc.files import write_table

    run = _open(given)
    found = audit(run.sets.readers(), run.sets.measured, decode=not given.quick)
    quarantine, pairs = found.quarantine(), found.pairs
    write_table(run.root / "quarantine.csv", quarantine)
    write_table(run.root / "same-content.csv", pairs)
    if given.json:
        print(json.dumps(found.as_dict(), indent=1, default=str))
        return found.status()
    if found.records:
        print(
            found.rows().to_string(index=False),
            found.splits().to_string(index=False),
            sep="\n\n",
            end="\n\n",
        )
    for name, why in found.unusable.items():
        print(f"{name}: UNUSABLE: {why}")
    print(*found.remarks(), sep="\n")
    if len(found.leaks()):
        print(
            "LEAK: training images that are test images under the name of another patient; training leaves these patients out:"
        )
        print(found.leaks().drop(columns="leak").to_string(index=False))
    print(f"{len(quarantine)} in quarantine: {run.root / 'quarantine.csv'}")
    return found.status()


def _train(given: argparse.Namespace) -> int:
    from pnloc import parallel
    from pnloc.run.results import tables

    run = _open(given)
    run.train()
    if not parallel.leave():
        return 0  # the main process goes on alone
    made = tables(run)
    print(made["localization"].query("metric == 'miou'").to_string(index=False))
    print(f"checkpoint: {run.root / 'checkpoint'}; tables: {run.root / 'tables'}")
    return 0


def _localize(given: argparse.Namespace) -> int:
    from pnloc.files import read_text, write_table
    from pnloc.images import read_gray
    from pnloc.localizer import Localizer
    from pnloc.reports.phrases import phrases
    from pnloc.view.figures import overlay

    if given.report and len(given.images) != 1:
        raise PnlocError(f"--report goes with one image, not with {len(given.images)}")
    report = read_text(given.report) if given.report else ""
    localizer = Localizer.load(given.checkpoint)
    out, boxes, attributes, failed = Path(given.out), [], [], 0
    paths = [Path(p) for p in given.images]
    stems = [p.stem for p in paths]
    for path in paths:
        try:
            seen = localizer.propose(path)
            found, probabilities = localizer(seen)
            name = path.stem if stems.count(path.stem) == 1 else path.name.replace(".", "-")
            overlay(read_gray(path), found, out / f"{name}.overlay.png")
            if given.report:
                write_table(out / "phrases.csv", localizer.ground(seen, phrases(report)))
        except PnlocError as error:
            print(f"pnloc: {error}", file=sys.stderr)
            failed += 1
            continue
        boxes.append(found.assign(image=str(path), label="pneumonia"))
        attributes.append(
            pd.DataFrame(
                {
                    "image": str(path),
                    "attribute": probabilities.index,
                    "probability": probabilities.values,
                }
            )
        )
    columns = {
        "boxes": ["image", "x1", "y1", "x2", "y2", "score", "label"],
        "attributes": ["image", "attribute", "probability"],
    }
    for name, parts in (("boxes", boxes), ("attributes", attributes)):
        table = (
            pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns[name])
        )
        write_table(out / f"{name}.csv", table[columns[name]])
    print(
        f"{len(boxes)} of {len(paths)} images: {out / 'boxes.csv'}, {out / 'attributes.csv'}. Research only, not a medical device."
    )
    return 2 if failed else 0


def _evaluate(given: argparse.Namespace) -> int:
    from pnloc.evaluation.files import evaluate
    from pnloc.files import write_table

    if given.resamples < 1 or given.seed < 0:
        raise PnlocError("--resamples is a whole number from 1 on, and --seed one from 0 on")
    table, remarks = evaluate(
        given.predictions, given.truth, given.patients, given.resamples, given.seed
    )
    for remark in remarks:
        print(f"pnloc: {remark}", file=sys.stderr)
    print(table.to_string(index=False, na_rep="", float_format=lambda v: f"{v:.4g}"))
    if given.out:
        write_table(given.out, table)
    return 0


def _gather(given: argparse.Namespace) -> int:
    from pnloc.files import write_table
    from pnloc.run.sweep import gather, summary

    table = gather(given.runs, given.table)
    if given.out:
        write_table(given.out, table)
    print(
        summary(table, given.metric).to_string(
            index=False, na_rep="", float_format=lambda v: f"{v:.4f}"
        )
    )
    return 0


def _keep(given: argparse.Namespace) -> int:
    from pnloc.run.sweep import keep

    print(f"tables: {keep(given.run, given.out)}")
    return 0


def _reports(given: argparse.Namespace) -> int:
    from pnloc.reports.findings import describe

    failed = 0
    for name in given.files:
        try:
            content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
            text = content.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = (
                error.strerror
                if isinstance(error, OSError)
                else f"not UTF-8 text (byte {error.start})"
            )
            print(f"pnloc: {name}: {reason}", file=sys.stderr)
            failed += 1
            continue
        print(describe("standard input" if name == "-" else name, text))
    return 2 if failed else 0


def _reproduce(given: argparse.Namespace) -> int:
    book, publishing = _beside("book._ext.run"), _beside("book._ext.publish")

    run = _open(given)  # wrong presets and folders end here, before a kernel starts
    parameters = {
        "PRESET": given.preset,
        "DATA": str(run.data or ""),
        "SEED": given.seed,
        "ARTIFACTS": given.artifacts,
    }
    parameters |= dict(given.parameter)
    root = Path(__file__).parents[1]
    book.execute(root / "notebooks", run.root / "pages", parameters)
    publishing.publish(run.root / "pages", root / "book" / "pages")
    return 0


def _experiment(given: argparse.Namespace) -> int:
    experiment = _beside("experiments.text_gain")

    if given.plan not in experiment.PLANS:
        raise PnlocError(f"unknown plan '{given.plan}'; use one of {', '.join(experiment.PLANS)}")
    artifacts = (
        Path(given.artifacts).expanduser()
        if given.artifacts
        else Path(__file__).parents[1] / "artifacts"
    )
    root = artifacts / f"experiment-{given.plan}"
    made = experiment.run(
        experiment.PLANS[given.plan], root, Path(given.out).expanduser() if given.out else None
    )
    print(made["differences"].query("metric == 'miou'").to_string(index=False))
    print(f"tables: {given.out or root / 'tables'}")
    return 0
