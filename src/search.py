"""`python -m src.search search=gan_cpu study=STUDY trials=30`: searches for hyper-parameters; see --help."""

import re
import sys
from inspect import signature
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig

from src.config.cli import run
from src.core.ranks import hide_slurm
from src.core.types import ObjectConfig, OutputPath, PositiveInt

trial_options: list[str] = []


def search(
    study: OutputPath,
    trials: PositiveInt,
    workers: PositiveInt,
    sampler: ObjectConfig,
    storage: str | None,
    cluster: Literal["slurm", "local"] | None,
    cluster_options: dict[str, Any] | None,
    report: bool,
    search: ObjectConfig | None = None,
) -> None:
    """Take trials of a study until there are so many, and write its report; see conf/search.yaml."""
    from pathlib import Path

    from src.tuning.report import write_report
    from src.tuning.study import open_study
    from src.tuning.workers import start_workers, submit_workers, work

    typed_sampler = sampler if any(item.startswith("sampler") for item in HydraConfig.get().overrides.task) else None
    given = {"search": search, "sampler": typed_sampler, "storage": storage, "options": trial_options or None}
    opened = open_study(Path(study).expanduser().absolute(), given, sampler)
    if cluster and not report:
        submit_workers(opened, trials, workers, cluster, cluster_options or {})
    elif workers > 1 and not report:
        start_workers(opened, trials, workers)
    elif not report:
        work(opened.folder, trials)
    write_report(opened)


if __name__ == "__main__":
    own = re.compile(rf"-|[+~]*({'|'.join(signature(search).parameters)}|hydra)([=./@]|$)")
    trial_options += [argument for argument in sys.argv[1:] if not own.match(argument)]
    sys.argv[1:] = [argument for argument in sys.argv[1:] if own.match(argument)]
    hide_slurm()  # `srun` starts workers, not ranks of one run
    run(search)
