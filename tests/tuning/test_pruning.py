"""What successive halving saves, on recorded curves: curves.csv is a search without pruning (docs/search.md)."""

import csv
from collections import defaultdict
from pathlib import Path

import optuna
from optuna.trial import TrialState

CURVES = Path(__file__).parent / "curves.csv"


def recorded() -> list[dict[int, float]]:
    """Return the monitored metric of each trial by the images seen."""
    curves: dict[int, dict[int, float]] = defaultdict(dict)
    for row in csv.DictReader(CURVES.open()):
        curves[int(row["trial"])][int(row["images_seen"])] = float(row["value"])
    return [curves[number] for number in sorted(curves)]


def replayed(curves: list[dict[int, float]], pruner: optuna.pruners.BasePruner) -> tuple[float, int]:
    """Return the best value and the images trained on, had the trials been pruned."""
    study, images = optuna.create_study(pruner=pruner), 0
    for curve in curves:
        trial, last = study.ask(), max(curve)
        for images_seen, value in curve.items():
            trial.report(value, images_seen)
            if images_seen < last and trial.should_prune():
                break
        images += images_seen
        study.tell(trial, *([value] if images_seen == last else [None, TrialState.PRUNED]))
    return study.best_value, images


def test_halving_finds_the_same_best_trial_with_half_of_the_images() -> None:
    curves = recorded()
    best, images = replayed(curves, optuna.pruners.NopPruner())
    assert best == min(curve[max(curve)] for curve in curves)
    assert images == sum(max(curve) for curve in curves)
    halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=min(curves[0]), reduction_factor=2)
    best_pruned, images_pruned = replayed(curves, halving)
    print(f"{len(curves)} trials, {images:,} images, pruned {images_pruned:,} ({images_pruned / images:.0%})")
    assert best_pruned == best
    assert images_pruned < 0.5 * images
