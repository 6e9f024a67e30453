"""What a sweep says: a line before each job, and at its end a table, sweep.csv and compare.html.

Hydra calls it, wherever its launcher runs the jobs; conf/hydra/default.yaml names it.
"""

import atexit
import json
import secrets
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.core.errors import RunFailed, UserError, printable
from src.core.files import write_atomic
from src.core.run_folder import CONFIG, JOB
from src.reports.comparison.runs import read_runs

FINISHED = "finished"
LOSSES = ("val/loss", "train/generator_loss", "train/discriminator_loss")


class SweepReport(Callback):
    """Keeps how each job of --multirun ended in its folder, lets the others run, and reports at the end.

    The exit status of a sweep is 1 if a job did not end well.
    """

    sweep = ""  # the sweep's own name, as its folder may hold jobs of an earlier one; empty for a single run

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        self.common = [option.get_key_element() for option in given if not option.is_sweep_override()]
        self.sweep = secrets.token_hex(8)
        # Hydra tells nobody of a sweep that Ctrl-C ends.
        atexit.register(self.report, Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self.report)
        if self.report(Path(config.hydra.sweep.dir)):
            raise SystemExit(1)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self.sweep:
            job = self.record(config, "interrupted, or still running")
            print(f"job {job['job']}: {job['options'] or 'no options of its own'}", flush=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if not self.sweep:
            return
        ended, error = FINISHED, job_return._return_value
        if job_return.status == JobStatus.FAILED:
            ended = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if not isinstance(error, UserError):
                traceback.print_exception(error)
            elif not isinstance(error.__cause__, RunFailed):  # whose ranks or launcher said it
                print(f"error: {error}", file=sys.stderr)
        self.record(config, ended)
        # Hydra would end the sweep with the first job that failed.
        job_return.status, job_return.return_value = JobStatus.COMPLETED, None

    def record(self, config: DictConfig, ended: str) -> dict[str, Any]:
        """Write and return what the job's folder tells of the job."""
        own = [option for option in config.hydra.overrides.task if option.partition("=")[0] not in self.common]
        job = {"sweep": self.sweep, "job": config.hydra.job.num, "options": " ".join(own), "ended": ended}
        write_atomic(Path(config.hydra.runtime.output_dir, JOB), json.dumps(job) + "\n")
        return job

    def report(self, folder: Path) -> bool:
        """Print the table and write the files; return whether a job did not end well."""
        jobs = {path.parent: json.loads(path.read_text()) for path in folder.rglob(JOB)}
        jobs = {path: job for path, job in jobs.items() if job["sweep"] == self.sweep}
        try:
            if jobs:
                show(folder, dict(sorted(jobs.items(), key=lambda item: item[1]["job"])))
        except Exception:
            traceback.print_exc()  # Hydra would make it a warning
        return any(job["ended"] != FINISHED for job in jobs.values())


def show(folder: Path, jobs: Mapping[Path, Mapping[str, Any]]) -> None:
    """Print a table of the jobs, by their folders; if they are runs, write sweep.csv and compare.html."""
    from rich.console import Console
    from rich.table import Table

    from src.reports.comparison.page import write_page
    from src.reports.comparison.table import Comparison, write_table

    folders = [path for path in jobs if (path / CONFIG).is_file()]
    comparison = Comparison(read_runs(folders))
    found = dict(zip(folders, comparison.rows, strict=True))
    rows = [
        {"job": job["job"], "options": job["options"], "ended": job["ended"]} | found.get(path, {})
        for path, job in jobs.items()
    ]
    finals = [comparison.diversity, *(name for name in comparison.metrics if name in LOSSES)]
    numbers = [f"{comparison.monitor} best", *(f"{name} final" for name in finals)]
    numbers = [name for name in numbers if any(row.get(name) is not None for row in rows)]
    table = Table(title=f"{len(rows)} jobs in {folder}", title_justify="left")
    for column in ("job", "options", "ended", *numbers, "folder"):
        table.add_column(column, overflow="fold", justify="right" if column in numbers else "left")
    for path, row in zip(jobs, rows, strict=True):
        is_best = comparison.winner is not None and path == folders[comparison.winner]
        status = row.pop("status", FINISHED)
        row["ended"] = status if row["ended"] == FINISHED else row["ended"]
        cells = ["" if row.get(name) is None else f"{row[name]:,.4g}" for name in numbers]
        job = f"{row['job']} best" if is_best else f"{row['job']}"
        texts = map(printable, (job, row["options"], row["ended"], *cells, path.relative_to(folder)))
        table.add_row(*texts, style="bold" * is_best)
    # A file or a pipe has no width.
    console = Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if folders:
        write_table(rows, folder / "sweep.csv")
        write_page(comparison, folder / "compare.html")
        console.print(*comparison.conclusions, folder / "compare.html", sep="\n", soft_wrap=True, highlight=False)
