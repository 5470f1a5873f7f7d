"""Figures and the report page, with unusual names and sizes."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histocae.report import page, plots


@pytest.mark.parametrize("name", ["S$^$3", "a $ b $ c", "<slide> & \\frac", "x" * 300])
def test_any_name_can_be_a_title(tmp_path, name):
    figure = plots.plot_sample_imgs(np.zeros((2, 4, 4, 3), np.uint8), 1, 2, title=name, labels=[name, name])
    plots.save(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 100


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
