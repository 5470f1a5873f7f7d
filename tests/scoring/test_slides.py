"""A new slide gives the model the same patches as the pipeline would, whatever its color and kind."""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from histocae import params_file
from histocae.contrast.contract import Contract
from histocae.errors import SlideError
from histocae.params import Params
from histocae.patches import quality
from histocae.patches.quality import FAULTS, THRESHOLDS
from histocae.patches.store import MEASURES, PatchStore
from histocae.pipeline import lineage
from histocae.scoring import heatmaps, results, slides
from histocae.scoring.batches import batches
from histocae.scoring.given import Given
from histocae.scoring.remarks import remarks
from histocae.scoring.scored import BOUNDS, Scored, Settings
from histocae.scoring.wording import in_words
from support import make_data
from support.workspace import ALL_STAGES, ROOT

CONTRACT = {
    "version": 1,
    "kind": "single",
    "models": ["all"],
    "latent_features": [8],
    "weights": ["0" * 64],
    "source": "slides",
    "patches": {
        "pixels": 32,
        "mpp": 0.5,
        "tissue_rule": "chroma-1",
        "tissue_share": 0.5,
        "tiles": "reduce",
        "color": "rgb",
        "quality": {"rule": quality.RULE, "thresholds": THRESHOLDS, "left_out": ["pen"]},
    },
    "score": None,
    "score_text": None,
    "classes": None,
    "levels": None,
    "training": {
        "patches": 100,
        "levels": [0.0, 0.99, 1.0],
        "quantiles": {"error": [0.0, 0.02, 0.03], "color": [0.0, 3.0, 4.0]},
        "color": {"mean": [200.0, 150.0, 190.0], "inverse": np.eye(3).tolist()},
    },
    "findings": [],
    "caveats": ["Not for diagnosis."],
}


def contract(**patches: object) -> Contract:
    source = patches.pop("source", "slides")
    values = CONTRACT | {"source": source, "patches": CONTRACT["patches"] | patches}
    return Contract.from_json(values, "a test", "repair it")


class Recorder:
    """Takes the place of a model, and keeps the patches that it is given; their latents are their numbers."""

    def __init__(self, contract: Contract, error: float = 0.01, color: float = 1.0):
        self.contract, self.given, self._values = contract, [], {"color_distance": color, "error": error}

    def measure(self, batches):
        for columns, patches in batches:
            numbers = sum(map(len, self.given)) + np.arange(len(patches), dtype=np.float32)
            self.given.append(patches.copy())
            values = {name: np.full(len(patches), value) for name, value in self._values.items()}
            yield columns | values, numbers[:, None]

    @property
    def patches(self) -> np.ndarray:
        return np.concatenate(self.given)


def scored_patches(model: Recorder, scored: Scored) -> np.ndarray:
    """Return the patches that are not left out."""
    return model.patches[scored.latents[:, 0].astype(int)]


def index_of(project, slide_id: str) -> tuple[pd.DataFrame, np.ndarray]:
    rows = project.index
    rows = rows[rows["slide_id"] == slide_id].reset_index(drop=True).fillna({"flags": ""})
    rows = rows.astype(dict.fromkeys(MEASURES, np.float32))
    return rows, PatchStore(project.folder / "data/patches").select(rows).take(np.arange(len(rows)))


@pytest.mark.parametrize("color", ["rgb", "grey", "macenko"])
@pytest.mark.parametrize("mpp", [0.5, 0.2])  # read as they are, and reduced
def test_the_patches_of_a_slide_are_those_of_the_pipeline(project, color, mpp):
    for number, name in enumerate(("a", "b")):
        image = make_data.tissue(number, 700, 900, glass=200)
        if name == "b":
            image = make_data.inked(image, slice(600, 800))
        make_data.write_slide(project.own / f"{name}.tif", image, mpp=mpp, pyramid=True)
    project.table(
        [{"slide_id": n, "case_id": n, "sample_type": make_data.TUMOR, "file_name": f"{n}.tif"} for n in "ab"]
    )
    project.params(patches__color=color, quality__pen=True)
    project.make(*ALL_STAGES[:-1])
    for slide_id in "ab":
        rows, patches = index_of(project, slide_id)
        model = Recorder(contract(color=color))
        given = Given(slide_id=slide_id, folder=project.own, files=(f"{slide_id}.tif",))
        scored = slides.score(given, model, Settings(threads=2))
        np.testing.assert_array_equal(scored_patches(model, scored), patches)
        assert (len(model.patches) > len(patches)) == (slide_id == "b")
        assert sum(scored.patches_left_out.values()) == len(model.patches) - len(patches)
        assert set(scored.patches["flags"]) > {""}
        pd.testing.assert_frame_equal(scored.patches[[*MEASURES]], rows[[*MEASURES]], check_exact=True)
        columns = ["slide_id", "row", "column", "x", "y", "mpp", "tissue_share", "flags"]
        pd.testing.assert_frame_equal(scored.patches[columns], rows[columns], check_dtype=False)
        assert scored.patches["width"].unique() == pytest.approx([32 * 0.5 / mpp])
        assert scored.size == (900, 700) and scored.mask.any() and not scored.mask.all()
        # a cell of the mask is a patch
        assert scored.mask.shape[1] * scored.mask_pixel == pytest.approx(900 // (16 / mpp) * (16 / mpp))


@pytest.mark.parametrize("color", ["rgb", "macenko"])
@pytest.mark.parametrize("tiles", ["reduce", "cut"])
def test_the_patches_of_tiles_are_those_of_the_pipeline(project, color, tiles):
    rows = []
    for number in range(4):
        image = make_data.tissue(number, 80 + 7 * number, 96)
        image = make_data.inked(image, slice(None)) if number == 3 else image
        make_data.write_tile(project.own / f"{number}.png", image)
        rows.append({"path": f"{number}.png", "slide_id": "a", "case_id": "a", "sample_type": make_data.TUMOR})
    project.table(rows)
    project.params(data__source="tiles", patches__color=color, patches__tiles=tiles, quality__pen=True)
    project.make(*ALL_STAGES[:-1])
    index, patches = index_of(project, "a")
    model = Recorder(contract(color=color, tiles=tiles, mpp=None, source="tiles"))
    given = Given(slide_id="a", folder=project.own, files=tuple(f"{n}.png" for n in range(4)), tiles=True)
    scored = slides.score(given, model, Settings())
    np.testing.assert_array_equal(scored_patches(model, scored), patches)
    columns = ["file", "row", "column", *MEASURES, "flags"]
    pd.testing.assert_frame_equal(scored.patches[columns], index[columns], check_dtype=False)
    number = len(model.patches) - len(patches)
    assert number == 1 if tiles == "reduce" else 6 <= number <= 9
    found = remarks(scored, model.contract)
    assert found[0] == f"patches left out: {number} under ink"
    assert (found[-1] == "few patches: 3") == (tiles == "reduce")
    assert scored.tiles_left_out == ()


def test_folds_are_flagged_by_the_median_of_the_whole_slide(tmp_path):
    """The folded patches are read first, in blocks of their own."""
    image = 255 * (make_data.tissue(0, 512, 512) / 255.0) ** 0.8
    image[:96] = 255 * (image[:96] / 255.0) ** 2  # doubled
    make_data.write_slide(tmp_path / "a.tif", image.astype(np.uint8), mpp=0.5, lossless=True)
    given = Given(slide_id="a", folder=tmp_path, files=("a.tif",))
    scored = slides.score(given, Recorder(contract()), Settings())
    folded = scored.patches["row"] < 3
    assert (scored.patches["flags"] == "fold")[folded].mean() > 0.9
    assert (scored.patches["flags"] == "")[~folded].mean() > 0.9
    share = (scored.patches["flags"] != "").mean()
    assert remarks(scored, contract()) == [f"{share:.0%} of the patches are flagged: fold {share:.0%}"]


def ink_and_folds(tmp_path) -> Given:
    """Write a slide whose left half is under ink, with folds in the rest."""
    image = make_data.tissue(0, 512, 512)
    image[:64, 256:] = 255 * (image[:64, 256:] / 255.0) ** 2
    make_data.write_slide(tmp_path / "a.tif", make_data.inked(image, slice(256)), mpp=0.5, lossless=True)
    return Given(slide_id="a", folder=tmp_path, files=("a.tif",))


def flagging(rule: str = quality.RULE, left_out: Sequence[str] = ("pen",), **thresholds: float) -> dict:
    return {"rule": rule, "thresholds": THRESHOLDS | thresholds, "left_out": list(left_out)}


def test_the_contract_says_which_faults_leave_patches_out(tmp_path):
    given, found = ink_and_folds(tmp_path), {}
    for name, rule in {
        "all": flagging(left_out=()),
        "pen": flagging(),
        "both": flagging(left_out=["fold", "pen"]),
    }.items():
        model = Recorder(contract(quality=rule))
        found[name] = slides.score(given, model, Settings())
        assert len(found[name].latents) == len(found[name].patches)
        assert list(found[name].patches.index) == list(range(len(found[name].patches)))
    flags = found["all"].patches["flags"]
    counts = {fault: int(flags.str.contains(fault).sum()) for fault in ("pen", "fold")}
    assert min(counts.values()) > 10 and found["all"].patches_left_out == {}
    assert found["pen"].patches_left_out == {"pen": counts["pen"]}
    assert found["both"].patches_left_out == counts
    for name, faults in {"pen": ["pen"], "both": ["pen", "fold"]}.items():
        kept = ~flags.str.contains("|".join(faults))
        expected = found["all"].patches[kept].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[name].patches, expected)
        np.testing.assert_array_equal(found[name].latents[:, 0], np.nonzero(kept)[0])
    assert remarks(found["both"], contract(quality=flagging(left_out=["fold", "pen"]))) == [
        f"patches left out: {counts['pen']} under ink, {counts['fold']} in folds"
    ]


def test_the_thresholds_are_those_of_the_contract(tmp_path):
    given = ink_and_folds(tmp_path)
    scored = slides.score(given, Recorder(contract(quality=flagging(blur=1e9, fold=9.0))), Settings())
    assert (
        scored.patches["flags"].str.contains("blur").all() and not scored.patches["flags"].str.contains("fold").any()
    )


def test_a_contract_without_quality_flags_by_default_and_leaves_nothing_out(tmp_path):
    given, former = ink_and_folds(tmp_path), contract(quality=None)
    scored = slides.score(given, Recorder(former), Settings())
    same = slides.score(given, Recorder(contract(quality=flagging(left_out=()))), Settings())
    pd.testing.assert_frame_equal(scored.patches, same.patches)
    _, last = remarks(scored, former)
    assert last == "no patch is left out: the model was trained before faults were measured"
    scored.patches["flags"] = ""
    assert remarks(scored, former) == []


def test_another_rule_of_the_training_is_said(tmp_path):
    other = contract(quality=flagging("quality-0"))
    scored = slides.score(slide_given(tmp_path, 0.5), Recorder(other), Settings())
    assert remarks(scored, other) == ["faults are measured differently: quality-2 here, quality-0 in training"]


def test_a_slide_under_ink_alone_is_set_aside(tmp_path):
    image = make_data.inked(make_data.tissue(0, 128, 128), slice(None))
    make_data.write_slide(tmp_path / "a.tif", image, mpp=0.5, lossless=True)
    given = Given(slide_id="a", folder=tmp_path, files=("a.tif",))
    rule = flagging(left_out=FAULTS, pen=0.2)
    with pytest.raises(SlideError, match=r"^all of its patches are left out: \d+ pen"):
        slides.score(given, Recorder(contract(quality=rule)), Settings())


def test_results_depend_on_the_code_that_measures_faults():
    assert "patches/quality.py" in lineage.reach({"scoring/results.py", "scoring/slides.py"}, results.EXEMPT)


def test_batches_of_any_blocks_have_all_patches_in_order():
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = rng.integers(0, 9, rng.integers(0, 6))
        patches = [rng.integers(0, 255, (n, 2, 2, 3), np.uint8) for n in lengths]
        blocks = iter([({"x": np.arange(n), "mpp": 0.5}, each) for n, each in zip(lengths, patches, strict=True)])
        found = [(columns, each.copy()) for columns, each in batches(blocks, 4)]
        assert all(len(each) == 4 for _, each in found[:-1])
        if lengths.sum():
            np.testing.assert_array_equal(np.concatenate([each for _, each in found]), np.concatenate(patches))
            joined = np.concatenate([columns["x"] for columns, _ in found])
            np.testing.assert_array_equal(joined, np.concatenate([np.arange(n) for n in lengths]))
        else:
            assert not found


def slide_given(tmp_path, mpp: float | None, side: int = 256, **columns: object) -> Given:
    make_data.write_slide(tmp_path / "a.tif", make_data.tissue(3, side, side), mpp=mpp)
    return Given(slide_id="a", folder=tmp_path, files=("a.tif",), **columns)


@pytest.mark.parametrize(
    ("mpp", "changes", "reason"),
    [
        (None, {}, "give --mpp, or a table with a column mpp"),
        (2.0, {}, "coarser than the 0.5 of the model's patches; patches are never enlarged"),
        (0.5, {"pixels": 512}, "is smaller than one patch of 512 pixels"),
        (0.5, {"mpp": None}, "the model was trained on tiles without a known resolution; give tiles"),
    ],
)
def test_a_slide_that_can_not_be_scored_has_a_reason_without_names_of_params(tmp_path, mpp, changes, reason):
    model = Recorder(contract(**changes))
    with pytest.raises(SlideError) as error:
        slides.score(slide_given(tmp_path, mpp), model, Settings())
    words = in_words(error.value, model.contract)
    assert reason in words and "patches." not in words and "data." not in words


def test_reasons_name_the_options_in_place_of_params(tmp_path):
    model = Recorder(contract())
    for name, value in {"patches": 3, "expansion": 1.0}.items():
        bounds = BOUNDS.model_copy(update={name: value})
        with pytest.raises(SlideError) as error:
            slides.score(slide_given(tmp_path, 0.5), model, Settings(bounds=bounds))
        words = in_words(error.value, model.contract)
        assert f"--bound {name}" in words and "patches.bounds" not in words and "max_per_slide" not in words


def test_the_bounds_are_those_of_the_committed_params():
    committed: Params = params_file.load(ROOT / "params.yaml")
    assert committed.patches.bounds == BOUNDS


def test_empty_glass_shows_no_tissue(tmp_path):
    make_data.write_slide(tmp_path / "a.tif", np.full((128, 128, 3), 240, np.uint8), mpp=0.5)
    with pytest.raises(SlideError, match="shows no tissue"):
        slides.score(Given(slide_id="a", folder=tmp_path, files=("a.tif",)), Recorder(contract()), Settings())


@pytest.mark.parametrize(
    ("recorder", "mpp", "words"),
    [
        ({}, 0.5, []),
        (
            {"error": 0.021},
            0.5,
            ["unlike the training slides: the model reconstructs 100% of the slide's patches worse"],
        ),
        ({"color": 3.1}, 0.5, ["unlike the training slides: the colors of 100% of the slide's patches are further"]),
        ({}, 0.46, ["another resolution: 0.46 microns per pixel, and 0.5 in training"]),
        ({}, None, ["the slide states no microns per pixel: 0.5 was given"]),
    ],
)
def test_what_limits_a_score_is_said_in_words(tmp_path, recorder, mpp, words):
    model = Recorder(contract(), **recorder)
    scored = slides.score(slide_given(tmp_path, mpp), model, Settings(mpp=0.5))
    found = remarks(scored, model.contract)
    assert len(found) == len(words) and all(map(str.startswith, found, words))


def test_a_tenth_of_unusual_patches_is_no_reason_for_a_warning(tmp_path):
    model = Recorder(contract())
    scored = slides.score(slide_given(tmp_path, 0.5), model, Settings())
    count = len(scored.patches)
    for unusual, warned in ((count // 10, 0), (count // 10 + 1, 1)):
        scored.patches["error"] = np.where(np.arange(count) < unusual, 0.5, 0.01)
        assert len(remarks(scored, model.contract)) == warned


def test_one_unusual_patch_of_few_is_chance(tmp_path):
    model = Recorder(contract())
    scored = slides.score(slide_given(tmp_path, 0.5, side=96), model, Settings())
    assert len(scored.patches) == 9
    for unusual, warned in ((1, False), (2, False), (3, True)):
        scored.patches["error"] = np.where(np.arange(9) < unusual, 0.5, 0.01)
        assert any("unlike" in remark for remark in remarks(scored, model.contract)) == warned


def test_few_patches_and_damaged_tiles_are_said(tmp_path):
    make_data.write_tile(tmp_path / "0.png", make_data.tissue(0, 64, 64))
    make_data.write_tile(tmp_path / "1.png", make_data.tissue(0, 16, 16))
    model = Recorder(contract())
    scored = slides.score(
        Given(slide_id="a", folder=tmp_path, files=("0.png", "1.png"), tiles=True), model, Settings()
    )
    resolution, few, left_out = remarks(scored, model.contract)
    assert "tiles state none, and the training patches have 0.5 microns per pixel" in resolution
    assert few == "few patches: 4"
    assert left_out == "tiles left out: 1, the first: 1.png: is 16 x 16 pixels, smaller than a patch of 32 pixels"


def test_a_tile_that_can_not_be_read_leaves_the_others(tmp_path):
    (tmp_path / "0.png").write_bytes(b"damaged")
    make_data.write_tile(tmp_path / "1.png", make_data.tissue(0, 64, 64))
    given = Given(slide_id="a", folder=tmp_path, files=("0.png", "1.png"), tiles=True, own_mpp=0.25)
    model = Recorder(contract())
    scored = slides.score(given, model, Settings())
    assert set(scored.patches["file"]) == {"1.png"}
    assert heatmaps.small(scored).shape == (64, 64, 3)
    found = "; ".join(remarks(scored, model.contract))
    assert "tiles left out: 1, the first: 0.png: can't be read as an image" in found
    assert "the table's 0.25 microns per pixel are not used" in found


def test_the_time_of_the_networks_is_not_that_of_reading(tmp_path):
    class Slow(Recorder):
        def measure(self, batches):
            for measured in super().measure(batches):
                time.sleep(0.5)
                yield measured

    bounds = BOUNDS.model_copy(update={"seconds": 1.0})
    whole = slides.score(slide_given(tmp_path, 0.5), Recorder(contract()), Settings())
    scored = slides.score(slide_given(tmp_path, 0.5), Slow(contract()), Settings(bounds=bounds))
    assert len(scored.patches) == len(whole.patches)
