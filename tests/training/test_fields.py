from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import histo.training.fields as module
from histo.errors import ConfigError
from histo.training.config import TrainConfig, load_train_config
from histo.training.fields import field_seeds, kind_of, recipe, render_part, render_sample
from histo.training.sample import Sample


def _tiny(**fields: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "fields": {"size_px": 320, "train": 2, "validation": 1, "test": 1, "workers": 1, **fields},
            "optimiser": {"crop_px": 64},
        }
    )


def _same(one: Sample, other: Sample) -> bool:
    assert one.labels is not None
    assert other.labels is not None
    return (
        np.array_equal(one.pixels, other.pixels)
        and one.pixels.dtype == other.pixels.dtype
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.classes, other.classes)
        and np.array_equal(one.centroids_um, other.centroids_um)
        and np.array_equal(one.stain_vectors, other.stain_vectors)
        and np.array_equal(one.full_scale, other.full_scale)
    )


def test_parts_share_no_seed() -> None:
    parts = [set(field_seeds(_tiny(), part)) for part in ("train", "validation", "test")]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 4


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 25), (1.0, 100)])
def test_fluorescence_is_spread_evenly(share: float, expected: int) -> None:
    kinds = [kind_of(i, share) == "fluorescence" for i in range(100)]
    assert sum(kinds) == expected
    assert all(abs(sum(kinds[: i + 1]) - (i + 1) * share) < 1 for i in range(100))


def test_fluorescence_is_scaled_like_a_slide() -> None:
    sample = render_sample((3, "fluorescence"), size_px=256, mpp=0.5)
    assert sample.pixels.dtype == np.uint16
    assert (sample.full_scale > 0).all()
    nuclear = (sample.pixels[..., 0] - sample.background[0]) / sample.full_scale[0]
    assert 0.5 < np.percentile(nuclear, 99) < 1.5


@pytest.mark.parametrize("kind", ["brightfield", "fluorescence"])
def test_a_field_from_the_cache_is_the_field(
    kind: module.Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = render_sample((7, kind), size_px=128, mpp=0.5)
    kept = render_sample((7, kind), size_px=128, mpp=0.5, cache=tmp_path)
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    assert not list(tmp_path.rglob("*.part"))

    def render(*_: object, **__: object) -> None:
        raise AssertionError("rendered again")

    monkeypatch.setattr(module, "render_field", render)
    again = render_sample((7, kind), size_px=128, mpp=0.5, cache=tmp_path)
    assert _same(fresh, kept)
    assert _same(fresh, again)
    with pytest.raises(AssertionError, match="rendered again"):
        render_sample((8, kind), size_px=128, mpp=0.5, cache=tmp_path)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "zero"])
def test_a_damaged_file_of_the_cache_is_rendered_again(damage: str, tmp_path: Path) -> None:
    fresh = render_sample((7, "brightfield"), size_px=64, mpp=0.5, cache=tmp_path)
    (path,) = tmp_path.rglob("*.npz")
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "cut": content[:middle],
            "empty": b"",
            "text": b"no field",
            "zero": content[:middle] + bytes(200) + content[middle + 200 :],
        }[damage]
    )
    assert _same(fresh, render_sample((7, "brightfield"), size_px=64, mpp=0.5, cache=tmp_path))
    assert path.read_bytes() == content


def test_everything_that_changes_a_field_has_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        recipe(256, 0.5, {}),
        recipe(512, 0.5, {}),
        recipe(256, 0.25, {}),
        recipe(256, 0.5, {"vessels": 0}),
    }
    monkeypatch.setattr(module, "_renderer", lambda: "another renderer")
    assert len(names | {recipe(256, 0.5, {})}) == 5


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigError, match=r"fields\.cache"):
        render_sample((7, "brightfield"), size_px=64, mpp=0.5, cache=blocked)


def test_a_style_changes_the_training_fields_only() -> None:
    plain, styled = _tiny(), _tiny(style={"cd8_per_mm2": 0.0, "white_point": [200, 210, 220]})
    assert not _same(render_part(plain, "train")[0], render_part(styled, "train")[0])
    assert (render_part(styled, "train")[0].white_point == (200, 210, 220)).all()
    assert _same(render_part(plain, "validation")[0], render_part(styled, "validation")[0])


def test_a_style_is_a_setting() -> None:
    config = load_train_config(None, ["fields.style.vessels=0", "fields.style.context=stroma"])
    assert config.fields.style == {"vessels": 0, "context": "stroma"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fields.style.vesels=0", "no such choice: vesels; there are context, .*vessels"),
        ("fields.style.vessels=much", "vessels: .*number"),
        ("fields.style.context=bone", "context: "),
        ("fields.style=[1]", "dictionary"),
    ],
)
def test_a_style_that_is_none_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_train_config(None, [override])
