"""Figures and the report page, with unusual names and sizes."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histocae.report import page, plots

TEMPLATES = Path(page.__file__).parent / "templates"


@pytest.mark.parametrize("name", ["S$^$3", "a $ b $ c", "<slide> & \\frac", "x" * 300])
def test_any_name_can_be_a_title(tmp_path, name):
    figure = plots.plot_sample_imgs(np.zeros((2, 4, 4, 3), np.uint8), 1, 2, title=name, labels=[name, name])
    plots.save(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 100


@pytest.mark.parametrize("template", sorted(file.name for file in TEMPLATES.glob("*.html")))
def test_templates_escape_all_that_tables_say(template):
    """Values are escaped, and stand in text or in quoted attributes: never in a script, a style or a link."""
    text = (TEMPLATES / template).read_text(encoding="utf-8").replace("heatmap-{{ loop.index }}", "heatmap-1")
    assert not re.search(r"\|\s*safe\b|\bautoescape\b|<script|\bon\w+=|<!--|javascript:", text)
    assert not re.search(r"=\s*'?\{\{", text)  # an attribute without double quotes
    assert set(re.findall(r'(\w+)="[^"]*\{\{', text)) <= {"src", "alt"}
    assert all(source.startswith("{{ ") and "embedded" in source for source in re.findall(r'src="([^"]*)"', text))
    assert not any("{{" in style for style in re.findall(r"(?s)<style>.*?</style>", text))


def test_render_escapes_markup_and_quotes():
    hostile = "\"><img src=x onerror='alert(1)'>"
    environment = page.environment()
    macro = (
        "{% macro f(x) %}<p title=\"{{ x }}\">{{ x }}</p>{% endmacro %}{{ f(x) }}{{ [x] | join(', ') }}{{ x ~ 'a' }}"
    )
    text = environment.from_string(macro).render(x=hostile)
    assert "<img" not in text and "'" not in text.replace("&#39;", "") and text.count('"') == 2


def test_an_image_too_tall_for_webp_is_made_smaller(tmp_path):
    Image.new("RGB", (40, 16_400)).save(tmp_path / "tall.png")
    assert page._embedded(tmp_path / "tall.png").startswith("data:image/webp;base64,")


def test_counts_have_no_decimals_and_numbers_have_three():
    assert [page._count(value) for value in (1.0, 1234.0, None)] == ["1", "1,234", "–"]
    assert [page._number(value) for value in (1.0, 0.12345, None)] == ["1.000", "0.123", "–"]


def test_logarithmic_axes_have_numbers_at_their_ticks(tmp_path):
    table = pd.DataFrame(
        {"model": ["a", "b"], "architecture": "pca", "latent_features": [5, 50], "test_mse": [0.004, 0.009]}
    )
    figure = plots.plot_sizes(table)
    plots.save(figure, tmp_path / "sizes.png")
    assert {"0.005", "0.007"} <= {label.get_text() for label in figure.axes[0].get_yticklabels()}
