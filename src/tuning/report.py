"""A study's page (Optuna's figures, in one file), its best trial as an experiment, and the table of its trials."""

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from omegaconf import OmegaConf
from optuna import visualization
from optuna.trial import FixedTrial

from src.config.cli import CONF
from src.core.files import write_atomic
from src.reports.html import data_uri, template
from src.tuning.study import FAILURE, Study, suggest
from src.tuning.workers import best_trials, progress

SHOWN = 3  # trials with their options and samples
FIGURES: dict[str, Callable[..., Any]] = {
    "Optimization history": visualization.plot_optimization_history,
    "Importance of the options": visualization.plot_param_importances,
    "Parallel coordinates": visualization.plot_parallel_coordinate,
    "Slices": visualization.plot_slice,
}


def write_report(study: Study) -> None:
    """Write study.html, trials.csv and, once a trial is complete, best.yaml to the study's folder."""
    best, name = best_trials(study), study.settings["name"]
    options = [suggest(FixedTrial(trial.params), study.search.space) for trial in best[:SHOWN]]
    if best:
        head = f"# @package _global_\n# Trial {best[0].number} of {name}: {study.search.monitor} {best[0].values[0]}\n"
        recipe = yaml.safe_dump(as_experiment([*study.options, *options[0]]), sort_keys=False)
        write_atomic(study.folder / "best.yaml", head + recipe)
    value = "values" if study.search.second_objective else "value"
    table = study.optuna.trials_dataframe(("number", "state", value, "duration", "params", "user_attrs"))
    table.columns = [re.sub("^(params|user_attrs)_", "", column) for column in table.columns]
    write_atomic(study.folder / "trials.csv", table.to_csv(index=False))
    grids = [sorted(study.run_dir(trial.number, study.search.seeds[0]).glob("images/samples_0*.png")) for trial in best]
    uris = [data_uri("image/png", files[-1].read_bytes()) if files else "" for files in grids[:SHOWN]]
    page = template(__file__).render(
        name=name,
        progress=progress(study, len(study.trials)),
        monitor=study.search.monitor,
        best=[*zip(best[:SHOWN], map(" ".join, options), uris, strict=True)],
        figures=figures(study) if len(best) > 1 else [],
        failures=[(trial, trial.user_attrs[FAILURE]) for trial in study.trials if FAILURE in trial.user_attrs],
        table=Markup(table.to_html(index=False, na_rep="", float_format="%.4g", border=0)),
    )
    write_atomic(study.folder / "study.html", page)
    print(f"{study.folder / 'study.html'}" + (f", and the best recipe: {study.folder / 'best.yaml'}" if best else ""))


def figures(study: Study) -> list[tuple[str, Markup]]:
    """Return titles and Optuna's figures of a study, those that it can make; plotly's program is in the first."""
    found: list[tuple[str, Markup]] = []
    monitor, second = study.search.monitor, study.search.second_objective
    target = (lambda trial: trial.values[0]) if second else None
    plots = [(title, partial(plot, target=target, target_name=monitor)) for title, plot in FIGURES.items()]
    if second:
        plots.insert(0, ("Pareto front", partial(visualization.plot_pareto_front, target_names=[monitor, second])))
    else:
        plots.append(("Intermediate values", partial(visualization.plot_intermediate_values)))
    for title, plot in plots:
        with suppress(ValueError, RuntimeError):  # equal values have no importances
            figure = plot(study.optuna).to_html(full_html=False, include_plotlyjs=not found)
            found.append((title, Markup(figure)))
    return found


def as_experiment(options: list[str]) -> dict[str, Any]:
    """Return options of the command line in the form of a file of conf/experiment."""
    pairs = [option.lstrip("+").split("=", 1) for option in options]
    whole = [f"/{key}/{value}" for key, value in pairs if key in ("experiment", "debug")]
    groups = {key: value for key, value in pairs if Path(CONF, key).is_dir() and key not in ("experiment", "debug")}
    values = OmegaConf.from_dotlist([f"{key}={value}" for key, value in pairs if not Path(CONF, key).is_dir()])
    # A group takes one choice, or several in brackets.
    overrides = [{f"override /{key}": yaml.safe_load(value)} for key, value in groups.items()]
    return {"defaults": [*whole, *overrides, "_self_"], **OmegaConf.to_container(values)}  # type: ignore[dict-item]
