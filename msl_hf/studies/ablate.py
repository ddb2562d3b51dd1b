r"""Ablations: train every row of a grid with several seeds, and make tables and figures of the outcome.

    msl-hf ablate --grid table_3 --output_dir outputs/ablations --jobs 2
    msl-hf ablate --grid table_3 --list true > runs.txt     # a command a line, for the arrays of a cluster

Finished runs are not repeated, interrupted ones go on; results.jsonl gets a line after each run. A grid is a YAML file
with `title`, `config` (settings of all rows), `rows` (name: settings that differ) and `seeds`, or the name of one that
comes with the package.
"""

import hashlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from ..console.checkpoints import incompleteness
from ..console.configs import find_yaml, read_yaml, shipped, with_file_beside
from ..console.errors import RunError
from ..console.files import check_folder, draw, read_json
from ..console.flags import parse_flags
from ..cores import usable_cores
from ..evaluation.figures import plot_frontier, plot_robustness

STOPPED = "stopped"  # a run whose time was up
# Settings that leave the features of a frozen backbone as they are: rows that differ in these alone share a cache.
OF_THE_HEAD = {
    "head", "num_heads", "csra_lambda", "classification_loss", "asl_gamma_neg", "asl_gamma_pos", "asl_clip",
    "pos_weight", "loss_weights", "masked_share", "learning_rate", "head_lr_multiplier", "weight_decay",
    "decay_norm_and_bias", "optim", "optim_args", "lr_scheduler_type", "lr_step_epochs", "lr_warmup_epochs",
    "warmup_steps", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
    "max_grad_norm", "ema_decay",
}  # fmt: skip
PROGRAM = (sys.executable, "-m", "msl_hf")
KEYS = {"title", "recipe", "config", "seeds", "rows", "hole_ratio"}
SHOWN = (("clean", "mAP"), ("clean", "CF1"), ("clean", "OF1"), ("masked", "mAP"), ("masked", "CF1"), ("masked", "OF1"))


@dataclass
class AblateArguments:
    """Which grids to run, and where."""

    grid: list[str] = field(default_factory=list, metadata={"help": "YAML files, or names of grids of the package."})
    output_dir: str = field(default="outputs/ablations", metadata={"help": "Where runs and results go."})
    seeds: list[int] | None = field(default=None, metadata={"help": "Seeds; default: those of each grid."})
    rows: list[str] | None = field(default=None, metadata={"help": "Only these rows of the grids."})
    jobs: int = field(default=1, metadata={"help": "Runs at a time, which share the cores."})
    train: bool = field(default=True, metadata={"help": "false: tables and figures of the finished runs alone."})
    list: bool = field(default=False, metadata={"help": "Print a command for each run that is to do, and do none."})
    minutes: float | None = field(default=None, metadata={"help": "Stop after this time; the same command goes on."})


@dataclass
class Grid:
    """A grid file.

    Args:
        name: Of the file, without its ending.
        title: Of the table.
        recipe: The training recipe, a file name.
        config: The YAML file that all rows start from.
        seeds: Seeds of each row.
        rows: Row name -> settings that differ from `config`.
        hole_ratio: Intervals, two numbers for each, at which every run is also measured; empty for none.
        folder: Where the file lies.
    """

    name: str
    title: str
    recipe: str
    config: Path
    seeds: list[int]
    rows: dict[str, dict]
    hole_ratio: list[float]
    folder: Path

    @classmethod
    def read(cls, file: str | os.PathLike) -> "Grid":
        """Read and check a grid file.

        Raises:
            RunError: naming the file and the key at fault.
        """
        file = find_yaml(file, "ablations")
        content = read_yaml(file)
        unknown, lacking = sorted(set(content) - KEYS), sorted({"title", "config", "rows"} - set(content))
        if unknown or lacking:
            fault = f"unknown key {unknown[0]}" if unknown else f"has no {lacking[0]}"
            raise RunError(f"{file}: {fault}; a grid holds {', '.join(sorted(KEYS))}")
        rows = content["rows"]
        if not isinstance(rows, dict) or not rows or not all(isinstance(row, dict) for row in rows.values()):
            raise RunError(f"{file}: rows must be 'name: {{setting: value}}' lines")
        for row, settings in rows.items():
            if "seed" in settings or "output_dir" in settings:
                raise RunError(f"{file}: row {row!r} sets seed or output_dir, which the grid does")
            empty = [name for name, value in settings.items() if value is None]
            if empty:  # a row becomes flags, which cannot take a setting of `config` back
                raise RunError(f"{file}: row {row!r} sets {empty[0]} to nothing; give it a value, or take it out of "
                               f"{content['config']}")  # fmt: skip
        return cls(
            file.stem,
            str(content["title"]),
            content.get("recipe", "train_voc.py"),
            file.parent / content["config"],
            list(content.get("seeds", [1])),
            {str(row): settings for row, settings in rows.items()},
            list(content.get("hole_ratio", [])),
            file.parent,
        )

    @property
    def command(self) -> str:
        """What trains its rows, as the recipe does: `train-voc`, or `train` for train_folder.py."""
        return Path(self.recipe).stem.replace("_folder", "").replace("_", "-")


@dataclass
class Run:
    """A row of a grid with a seed. Equal settings of different grids share one folder, and one training run."""

    grid: Grid
    row: str
    seed: int
    folder: Path
    features: Path | None = None

    @classmethod
    def make(cls, grid: Grid, row: str, seed: int, output_dir: Path) -> "Run":
        settings = {"recipe": grid.recipe, **read_yaml(grid.config), **grid.rows[row]}
        if str(settings.get("backbone")).endswith(".json"):
            settings["backbone"] = Path(settings["backbone"]).name  # the same wherever the package lies
        folder, features = output_dir / "runs" / f"{_digest(settings)}-{seed}", None
        if settings.get("cache_features"):
            lasting = {name: value for name, value in settings.items() if name not in OF_THE_HEAD}
            features = output_dir / "features" / f"{_digest(lasting)}-{seed}"
        return cls(grid, row, seed, folder, features)

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").is_file() and (not self.grid.hole_ratio or self.evaluation.is_file())

    @property
    def evaluation(self) -> Path:
        return self.folder / f"evaluation_{self.grid.name}" / "metrics.json"

    def result(self) -> dict:
        """The line of results.jsonl."""
        report, settings = read_json(self.folder / "metrics.json"), self.grid.rows[self.row]
        result = {
            "grid": self.grid.name,
            "row": self.row,
            "seed": self.seed,
            "run": self.folder.name,
            "settings": settings,
            "image_passes": image_passes(read_json(self.folder / "run.json")),
            "clean": report["last"]["clean"],
            "masked": report["last"]["masked"],
            **{key: report[key] for key in ("num_train_images", "num_test_images", "train_seconds", "hardware")},
        }
        if self.grid.hole_ratio:
            (model,) = read_json(self.evaluation)["models"].values()
            result["robustness"] = [
                {key: row[key] for key in ("hole_ratio", "mean_hole_ratio", "mAP", "CR", "CF1")}
                for row in model["robustness"]
            ]
        return result


def _digest(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def image_passes(settings: dict) -> float:
    """How often the network sees each training image, whole or masked: epochs times branches. The cost of a run.

    With cached features it is how often the backbone does: views times branches.
    """
    w1, w2, w3 = settings["loss_weights"]
    is_plain, epochs = w2 == w3 == 0, settings["num_train_epochs"]
    if settings.get("cache_features"):
        return settings["cached_views"] * (1 if is_plain else 2)
    if is_plain:
        return epochs
    forwards = 2 if settings["masked_forward"] == "sequential" else 1
    return epochs * (1 + forwards * settings.get("masked_share", 1.0))


def run(argv: list[str]) -> None:
    """`msl-hf ablate` with these flags."""
    ablate(*parse_flags(argv, __doc__, AblateArguments))


def ablate(arguments: AblateArguments) -> list[dict]:
    """Run what is not there yet; after every run write its line, and in the end tables and figures.

    An interruption loses what a run did since its last epoch: the same command goes on.

    Args:
        arguments: Which grids.

    Returns:
        The lines of all finished runs.

    Raises:
        RunError: naming the runs that failed, after the others have ended.
    """
    if not arguments.grid:
        known = (name for name in shipped("ablations") if not name.startswith("bench"))
        raise RunError(f"say which grids to run: --grid FILE.yaml, or some of {', '.join(known)}")
    if arguments.jobs < 1:
        raise RunError(f"--jobs must be at least 1, got {arguments.jobs}")
    output_dir, grids = Path(arguments.output_dir), [Grid.read(file) for file in arguments.grid]
    unknown = set(arguments.rows or ()) - {row for grid in grids for row in grid.rows}
    if unknown:
        raise RunError(f"no grid has a row {min(unknown)!r}")
    check_folder(output_dir / "runs")
    (output_dir / "runs").mkdir(parents=True, exist_ok=True)
    runs = [
        Run.make(grid, row, seed, output_dir)
        for number in range(max(len(arguments.seeds or grid.seeds) for grid in grids))
        for grid in grids
        for row in grid.rows
        for seed in (arguments.seeds or grid.seeds)[number : number + 1]  # a first seed of everything comes first
        if not arguments.rows or row in arguments.rows
    ]
    results = _Results(output_dir)
    todo: dict[Path, list[Run]] = {}
    for run in runs:
        if not results.has(run):
            todo.setdefault(run.folder, []).append(run)
    if arguments.list:
        files = dict(zip((grid.name for grid in grids), arguments.grid, strict=True))
        for shared in todo.values():
            print(" && ".join(_command_line(run, files[run.grid.name], arguments.output_dir) for run in shared))
        return []
    failed: list[str] = []
    if arguments.train:
        print(f"{len(runs)} rows and seeds in {len(grids)} grids, {len(todo)} to run", flush=True)
        until = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
        with ThreadPoolExecutor(arguments.jobs) as pool:
            jobs = [pool.submit(_execute, shared, arguments.jobs, until) for shared in todo.values()]
            for job in as_completed(jobs):
                if job.result() is not None and job.result() != STOPPED:
                    failed.append(job.result())
                    print(failed[-1], flush=True)
                results.write(runs)
        stopped = sum(job.result() == STOPPED for job in jobs)
        if stopped:
            print(f"The time is up: {stopped} runs are not finished, and the same command goes on with them")
    lines = results.write(runs)
    for grid in grids:
        _write_tables(grid, [line for line in lines if line["grid"] == grid.name], output_dir)
    if failed:
        raise RunError(f"{len(failed)} runs failed:\n  " + "\n  ".join(failed))
    return lines


def _command_line(run: Run, grid: str, output_dir: str) -> str:
    """The command that does this run alone."""
    flags = ["--grid", grid, "--rows", run.row, "--seeds", str(run.seed), "--output_dir", output_dir]
    return shlex.join(["msl-hf", "ablate", *flags])


class _Results:
    """results.jsonl: a line for each finished run, appended as it finishes, by several commands at once, too.

    A line stands for its run where the run's folder is gone, or never was on this machine.
    """

    def __init__(self, output_dir: Path):
        self.file = output_dir / "results.jsonl"
        self._read()

    def _read(self) -> None:
        lines = self.file.read_text().splitlines() if self.file.is_file() else []
        self.lines = {(line["grid"], line["row"], line["run"]): line for line in map(json.loads, lines)}
        self.of_run = {line["run"]: line for line in self.lines.values()}

    def has(self, run: Run) -> bool:
        """Whether there is nothing left to do: another grid's line is enough for all but a curve under masks."""
        shared = run.folder.name in self.of_run and not run.grid.hole_ratio
        return (run.grid.name, run.row, run.folder.name) in self.lines or run.finished or shared

    def write(self, runs: Sequence[Run]) -> list[dict]:
        """Append what is finished and not there yet; the lines of all finished runs."""
        with FileLock(self.file.with_name("runs") / ".results.lock"):
            self._read()
            return self._append(runs)

    def _append(self, runs: Sequence[Run]) -> list[dict]:
        finished = []
        for run in runs:
            key = run.grid.name, run.row, run.folder.name
            if key not in self.lines and self.has(run):
                line = run.result() if run.finished else self._shared(run)
                self.lines[key] = self.of_run[run.folder.name] = line
                with self.file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                figures = (f"{images} {100 * line[images]['mAP']:.1f}" for images in ("clean", "masked"))
                print(f"{run.grid.name}, {run.row}, seed {run.seed}: mAP {', '.join(figures)}", flush=True)
            if key in self.lines:
                finished.append(self.lines[key])
        return finished

    def _shared(self, run: Run) -> dict:
        """The line of a run that another grid has measured."""
        line = {**self.of_run[run.folder.name], "grid": run.grid.name, "row": run.row}
        line["settings"] = run.grid.rows[run.row]
        line.pop("robustness", None)
        return line


def _execute(runs: Sequence[Run], jobs: int, until: float | None) -> str | None:
    """Train what all of these rows share, and measure under masks where their grids want it; what went wrong."""
    threads = max(1, usable_cores() // jobs)
    run, problem = runs[0], None
    if not (run.folder / "metrics.json").is_file():
        complete = any(incompleteness(folder) is None for folder in run.folder.glob("checkpoint-*"))
        settings = with_file_beside(run.grid.rows[run.row], run.grid.folder)
        command = [run.grid.command, "--config", str(run.grid.config), "--seed", str(run.seed),
                   "--output_dir", str(run.folder), "--cpu_threads", str(threads),
                   "--resume_from_checkpoint", str(complete).lower(), *_flags(settings),
                   *(["--feature_dir", str(run.features)] if run.features else [])]  # fmt: skip
        problem = _call(command, run, until)
        if problem is None:
            for checkpoint in run.folder.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
    for run in runs:
        if problem is None and run.grid.hole_ratio and not run.evaluation.is_file():
            settings = read_json(run.folder / "run.json")
            command = ["evaluate", "--model", str(run.folder / "last"), "--cpu_threads",
                       str(threads), "--output_dir", str(run.evaluation.parent), "--disable_tqdm", "true",
                       "--data_dir", str(settings["data_dir"]), "--masks", settings["eval_masks"] or settings["masks"],
                       "--mask_hole", settings["mask_hole"],
                       "--hole_ratio", *map(str, run.grid.hole_ratio)]  # fmt: skip
            problem = _call(command, run, until)
    return problem


def _flags(settings: dict) -> Iterable[str]:
    for name, value in settings.items():
        yield f"--{name}"
        yield from (str(item) for item in (value if isinstance(value, list) else [value]))


def _call(command: list[str], run: Run, until: float | None) -> str | None:
    if until is not None and time.monotonic() >= until:
        return STOPPED
    log = run.folder.with_suffix(".log")
    with log.open("a") as file, subprocess.Popen([*PROGRAM, *command], stdout=file, stderr=subprocess.STDOUT) as done:
        try:
            done.wait(None if until is None else max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            done.terminate()  # training finishes its step, and saves it
            done.wait()
            return STOPPED
    last = log.read_text().strip().splitlines()[-1:]
    if done.returncode == 0:
        return None
    return f"{run.grid.name}, {run.row}, seed {run.seed}: {''.join(last)} ({log})"


def _write_tables(grid: Grid, lines: list[dict], output_dir: Path) -> None:
    """`<grid>.md`, `<grid>.png`, and the curves where the grid measures under masks."""
    rows = {row: [line for line in lines if line["row"] == row] for row in grid.rows}
    rows = {row: found for row, found in rows.items() if found}
    if not rows:
        return
    columns = " | ".join(f"{images} {metric}" for images, metric in SHOWN)
    text = [f"## {grid.title}", "", _setting(lines), "", f"| training | image passes | seeds | {columns} |",
            "|---" * (3 + len(SHOWN)) + "|"]  # fmt: skip
    for row, found in rows.items():
        cells = [summary([line[images][metric] for line in found]) for images, metric in SHOWN]
        text.append(f"| {row} | {found[0]['image_passes']:g} | {len(found)} | " + " | ".join(cells) + " |")
    (output_dir / f"{grid.name}.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print(f"\n{chr(10).join(text)}\n", flush=True)
    points = {row: [(line["clean"]["mAP"], line["masked"]["mAP"]) for line in found] for row, found in rows.items()}
    draw(plot_frontier, points, output_dir / f"{grid.name}.png")
    if grid.hole_ratio:
        curves = {row: _mean_robustness(found) for row, found in rows.items()}
        draw(plot_robustness, curves, output_dir / f"{grid.name}_curves.png")


def _setting(lines: list[dict]) -> str:
    first = lines[0]
    return (f"{first['num_train_images']} training and {first['num_test_images']} test images, last epoch, percent, "
            f"mean ± standard deviation over the seeds; {first['hardware']}.")  # fmt: skip


def summary(values: list[float]) -> str:
    """Percent: the mean, with the standard deviation where there are several."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _mean_robustness(lines: list[dict]) -> dict:
    def mean(rows: list[dict]) -> dict:
        return {key: statistics.mean(row[key] for row in rows) for key in rows[0] if key != "hole_ratio"}

    clean = [{key: line["clean"][key] for key in ("mAP", "CR", "CF1")} for line in lines]
    return {
        "clean": mean(clean),
        "robustness": [mean(list(rows)) for rows in zip(*(line["robustness"] for line in lines), strict=True)],
    }
