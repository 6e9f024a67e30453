"""A study's page (Optuna's figures, one file), its best trial as an experiment, and the table of its trials."""

import re
from pathlib import Path
from typing import Any

import optuna
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from markupsafe import Markup
from optuna import visualization
from optuna.trial import FrozenTrial, TrialState

from src.config.cli import CONF
from src.core.files import write_atomic
from src.reports.html import data_uri, template
from src.tuning.study import FAILURE, Study, suggest
from src.tuning.workers import progress

BEST = 3
FIGURES = {
    "Optimization history": visualization.plot_optimization_history,
    "Importance of the options": visualization.plot_param_importances,
    "Parallel coordinates": visualization.plot_parallel_coordinate,
    "Slices": visualization.plot_slice,
    "Intermediate values": visualization.plot_intermediate_values,
}


def write_report(study: Study) -> None:
    """Write study.html, trials.csv and, once a trial is complete, best.yaml to the study's folder."""
    trials = study.trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda trial: trial.values[0])[:BEST]
    table = study.optuna.trials_dataframe(("number", "state", "value", "duration", "params", "user_attrs"))
    table.columns = [re.sub("^(params|user_attrs)_", "", column) for column in table.columns]
    write_atomic(study.folder / "trials.csv", table.to_csv(index=False))
    if best:
        options = [*study.options, *options_of(study, best[0])]
        comment = f"# @package _global_\n# Trial {best[0].number} of {study.settings['name']}: {best[0].values}\n"
        write_atomic(study.folder / "best.yaml", comment + yaml.safe_dump(as_experiment(options), sort_keys=False))
    page = template(__file__).render(
        name=study.folder.name,
        progress=progress(study, len(trials)),
        monitor=study.search.monitor,
        best=[(trial, " ".join(options_of(study, trial)), grid_of(study, trial)) for trial in best],
        figures=figures(study, len(complete)),
        failures=[(trial, trial.user_attrs[FAILURE]) for trial in trials if FAILURE in trial.user_attrs],
        table=Markup(table.to_html(index=False, na_rep="", float_format="%.4g", border=0)),
    )
    write_atomic(study.folder / "study.html", page)
    print(f"the page: {study.folder / 'study.html'}" + (f", the recipe: {study.folder / 'best.yaml'}" if best else ""))


def figures(study: Study, complete: int) -> list[tuple[str, Markup]]:
    """Return titles and Optuna's figures of a study; plotly's program is in the first."""
    if complete < 2:
        return []
    several: dict[str, Any] = dict(FIGURES)
    options: dict[str, Any] = {}
    if study.search.second_objective:
        options = {"target": lambda trial: trial.values[0], "target_name": study.search.monitor}
        several = {"Pareto front": visualization.plot_pareto_front} | several
        del several["Intermediate values"]
    shown = []
    for title, plot in several.items():
        names = {"target_names": [study.search.monitor, study.search.second_objective]}
        given = names if title == "Pareto front" else {} if title == "Intermediate values" else options
        try:
            figure = plot(study.optuna, **given)
        except (ValueError, RuntimeError) as error:  # no importances if all trials are equal
            shown.append((title, Markup("<p>{}</p>").format(str(error))))
            continue
        has_program = any("plotly" in text for _, text in shown)
        shown.append((title, Markup(figure.to_html(full_html=False, include_plotlyjs=not has_program))))
    return shown


def options_of(study: Study, trial: FrozenTrial) -> list[str]:
    """Return the options of a trial that is over."""
    return suggest(optuna.trial.FixedTrial(trial.params), study.search.space)


def grid_of(study: Study, trial: FrozenTrial) -> Markup | str:
    """Return a trial's last grid of samples."""
    files = sorted(study.run_dir(trial.number, study.search.seeds[0]).glob("images/samples_0*.png"))
    return data_uri("image/png", files[-1].read_bytes()) if files else ""


def as_experiment(options: list[str]) -> dict[str, Any]:
    """Return options of the command line in the form of a file of conf/experiment."""
    experiments: list[Any] = []
    groups: list[Any] = []
    values: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(options):
        key, value = override.key_or_group, override.value()
        if key in ("experiment", "debug"):
            experiments.append(f"/{key}/{value}")
        elif (CONF / key).is_dir():
            groups.append({f"override /{key}": value})
        else:
            *parents, name = key.split(".")
            node = values
            for parent in parents:
                node = node.setdefault(parent, {})
            node[name] = value
    return {"defaults": [*experiments, *groups, "_self_"], **values}
