"""`python -m src.compare RUN RUN ...`: puts runs side by side on one page: options, metrics, curves and images."""

from src.config.cli import run
from src.core.errors import UserError
from src.core.types import PositiveInt


def compare(runs: list[str], output: str, csv: bool, steps: PositiveInt) -> None:
    """Write the page, and with csv the table beside it; print who is the best."""
    from pathlib import Path

    path = Path(output).expanduser()
    if path.suffix != ".html" or path.is_dir():
        raise UserError(f"output={output}: give the name of a file that ends in .html")

    from src.reports.comparison.page import write_page
    from src.reports.comparison.runs import find_runs, read_runs
    from src.reports.comparison.table import Comparison, write_table

    comparison = Comparison(read_runs(find_runs(runs)))
    write_page(comparison, path, steps)
    if csv:
        write_table(comparison.rows, path.with_suffix(".csv"))
    print(*comparison.conclusions, sep="\n")
    print(f"{len(comparison.runs)} runs on {path}: {path.stat().st_size / 1e6:.1f} MB, all in one file")


if __name__ == "__main__":
    run(compare)
