"""Outside features in what is said about registered models: cards and caveats."""

from types import SimpleNamespace

from histocae.tracking import cards, contracts

METRICS = {"latent_auroc_slide": 0.9, "latent_dead": 2.0, "pixel_auroc_slide": 0.7, "pixel_components_90": 5.0}


def test_a_card_has_a_column_of_outside_features_only_where_they_were_studied():
    text = cards._latents(SimpleNamespace(latent={"metrics": METRICS}))
    assert text.startswith("The latents, and the same number of principal components of the pixels:\n")
    assert "| auroc_slide | &emsp;0.9 | &emsp;0.7 |" in text and "outside" not in text
    text = cards._latents(SimpleNamespace(latent={"metrics": METRICS | {"outside_auroc_slide": 0.95}}))
    assert "and features of another encoder:\n" in text.splitlines()[0] + "\n"
    assert "| test patches | &emsp;latents | &emsp;pixels | &emsp;outside |" in text
    assert "| auroc_slide | &emsp;0.9 | &emsp;0.7 | &emsp;0.95 |" in text
    assert "| dead | &emsp;2 | &emsp; | &emsp; |" in text
    assert cards._latents(SimpleNamespace(latent=None)) == ""


def baseline(about, area, less, low, high):
    return {
        "about": about,
        "auroc_slide": {"value": area},
        "difference_slide": {"value": less, "low": low, "high": high},
    }


def test_a_caveat_names_outside_features_as_another_way_on_the_patches_that_have_them():
    tissue = {
        "auroc_slide": {"value": 0.8},
        "baselines": {
            "texture": baseline("texture", 0.85, -0.05, -0.2, 0.1),
            "outside": baseline("outside features (3 of 9 test patches lack them)", 0.95, -0.2, -0.3, -0.1),
        },
    }
    assert contracts._simpler(tissue) == [
        "Another way does better: outside features (3 of 9 test patches lack them) has an AUROC per slide of 0.95 on "
        "the test slides, the pair 0.75."
    ]
    del tissue["baselines"]["outside"]
    assert contracts._simpler(tissue) == [
        "A simpler way is not shown to do worse: texture has an AUROC per slide of 0.85 on the test slides, the pair "
        "0.80."
    ]
