"""Text of files is shown, not obeyed, wherever it goes."""

from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

from src.core import progress
from src.core.errors import UserError, printable
from src.reports.comparison.sweep import show
from src.reports.html import template
from src.training.summary import print_summary

HOSTILE = "\x1b[2J[red]a\nb[/red]\u202e:cat:\udce9"
SHOWN = r"\x1b[2J[red]a\nb[/red]\u202e:cat:\udce9"


def test_what_can_not_be_printed_is_written_out() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("Möhre, 猫.png") == "Möhre, 猫.png"
    assert str(UserError(f"can't read {HOSTILE}")) == f"can't read {SHOWN}"


def test_tables_show_markup(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job = {"job": 0, "options": "seed=1", "ended": HOSTILE}
    show(tmp_path, {tmp_path / "0": job, tmp_path / "1": job | {"ended": "finished"}})
    printed = "".join(capsys.readouterr().out.replace("│", "").split())
    assert r"\x1b[2J[red]a\n" in printed
    summary: dict[str, Any] = {"images_seen": 1, "wall_time_seconds": 1.0, "best": {}, "final": {HOSTILE: 1.0}}
    print_summary(summary, tmp_path)
    assert SHOWN in capsys.readouterr().out


def test_progress_shows_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DELAY_S", 0.0)
    monkeypatch.setattr(progress.CONSOLE, "width", 200)
    list(progress.track([[1], [2], [3]], 30, HOSTILE))
    assert SHOWN in capsys.readouterr().err


def test_pages_show_it(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p title='{{ name }}'>{{ name }}</p>{{ page }}")
    page = Environment(autoescape=True).from_string("<b>{{ 'x' }}\n</b>").render()
    module = str(tmp_path / "page.py")
    from markupsafe import Markup

    text = template(module).render(name=f"<script>{HOSTILE}", page=Markup(page))
    assert text == f"<p title='&lt;script&gt;{SHOWN}'>&lt;script&gt;{SHOWN}</p><b>x\n</b>"
