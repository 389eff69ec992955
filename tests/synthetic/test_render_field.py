"""Rendered fields: the same seed gives the same field, and the truth is what the pixels show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from histo.errors import ConfigError
from histo.synthetic.field import Field, FieldStyle, render_field

CONTEXTS = ("tumour", "stroma", "host", "lymphoid", "margin", "necrosis", "glass")


def unmixed(field: Field) -> np.ndarray:
    """Stain amounts (H, W, 3) with the white point and vectors that the field was made with."""
    od = -np.log10(np.maximum(field.pixels.astype(float), 1) / field.white_point)
    return od @ np.linalg.inv(field.stain_vectors)


@pytest.mark.parametrize("kind", ["brightfield", "fluorescence"])
def test_same_seed_same_field(kind):
    first, second = render_field(7, size_px=128, kind=kind), render_field(7, size_px=128, kind=kind)
    other = render_field(8, size_px=128, kind=kind)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert not np.array_equal(first.pixels, other.pixels)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    size_px=st.sampled_from([64, 96, 160]),
    mpp=st.sampled_from([0.23, 0.5, 0.6]),
    kind=st.sampled_from(["brightfield", "fluorescence"]),
)
def test_contract(seed, size_px, mpp, kind):
    field = render_field(seed, size_px=size_px, mpp=mpp, kind=kind)
    n = len(field.is_cd8)
    assert field.pixels.shape == (size_px, size_px, 3)
    assert field.pixels.dtype == (np.uint8 if kind == "brightfield" else np.uint16)
    assert field.labels.shape == (size_px, size_px)
    assert field.labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(field.labels[field.labels > 0]), np.arange(1, n + 1))
    assert field.is_cd8.dtype == np.bool_
    assert field.x_um.shape == field.y_um.shape == (n,)
    if n:
        rows, columns = np.transpose(
            ndimage.center_of_mass(np.ones_like(field.labels), field.labels, range(1, n + 1))
        )
        np.testing.assert_allclose(field.x_um, (columns + 0.5) * mpp, atol=0.01)
        np.testing.assert_allclose(field.y_um, (rows + 0.5) * mpp, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(field.stain_vectors, axis=1), 1, atol=1e-5)
    assert field.mpp == mpp


def test_brown_lies_on_the_cd8_cells():
    """After ideal unmixing, CD8+ cells carry far more CD8 than anything else where no decoy is drawn."""
    style = FieldStyle(
        cd8_per_mm2=800,
        precipitate=0,
        pigment=0,
        blush=0,
        vessels=0,
        membrane=0,
        mesh=0,
        brown=1.0,
        counterstain=0.5,
        clean=True,
    )
    ratios = []
    for seed in range(12):
        field = render_field(seed, style=style)
        if field.is_cd8.sum() < 3:
            continue
        brown = unmixed(field)[..., 1]
        on_cd8 = np.concatenate([[False], field.is_cd8])[field.labels]
        away = ~ndimage.binary_dilation(on_cd8, iterations=5)
        means = ndimage.mean(brown, field.labels, np.flatnonzero(field.is_cd8) + 1)
        ratios.append((np.median(means), brown[away].mean(), np.mean(means > 0.15)))
    medians, elsewhere, found = np.transpose(ratios)
    assert len(ratios) >= 8
    assert medians.min() > 0.3
    assert elsewhere.max() < 0.12
    assert found.mean() > 0.95


def test_nuclei_are_darker_than_their_surroundings():
    field = render_field(3, style=FieldStyle(context="tumour", counterstain=0.8, clean=True))
    nuclear = unmixed(field)[..., 0]
    inside = np.isin(field.labels, np.flatnonzero(~field.is_cd8) + 1)
    assert nuclear[inside].mean() > nuclear[field.labels == 0].mean() + 0.15


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_context(context):
    fields = [render_field(seed, size_px=96, style=FieldStyle(context=context)) for seed in range(3)]
    assert all(field.context == context for field in fields)


def test_contexts_look_as_they_should():
    def cells(context, **more):
        return [render_field(s, style=FieldStyle(context=context, **more)) for s in range(6)]

    lymphoid = cells("lymphoid", aggregate_fraction=1.0, cd8_per_mm2=500)
    stroma = cells("stroma", cd8_per_mm2=500)
    assert np.mean([f.is_cd8.sum() for f in lymphoid]) > 3 * np.mean([f.is_cd8.sum() for f in stroma])
    # Nuclei of carcinoma are larger than those of lymphocytes.
    tumour = cells("tumour", cd8_per_mm2=0)
    area = [np.median(np.bincount(f.labels.ravel())[1:]) * f.mpp**2 for f in tumour if len(f.is_cd8) > 20]
    assert 25 < np.median(area) < 90
    glass = render_field(5, style=FieldStyle(context="glass", clean=True, precipitate=0))
    bare = np.abs(glass.pixels.astype(float) - glass.white_point).max(axis=2) < 4
    assert bare.mean() > 0.1


def test_cd8_cells_have_the_size_of_lymphocytes():
    """6 to 10 um across."""
    areas = []
    for seed in range(12):
        field = render_field(seed, mpp=0.25, size_px=320, style=FieldStyle(context="stroma", cd8_per_mm2=900))
        inner = (field.x_um > 8) & (field.x_um < 72) & (field.y_um > 8) & (field.y_um < 72)
        pixels = np.bincount(field.labels.ravel(), minlength=len(inner) + 1)[1:]
        areas.extend(pixels[inner & field.is_cd8] * field.mpp**2)
    diameters = 2 * np.sqrt(np.array(areas) / np.pi)
    assert len(diameters) > 20
    assert 6 < np.median(diameters) < 9
    assert np.mean((diameters > 5) & (diameters < 11)) > 0.9


def test_density_follows_the_style():
    """Mean over fields of stroma, where CD8+ cells have the drawn density times the affinity of stroma."""
    counts = {
        density: np.mean(
            [
                render_field(
                    s, style=FieldStyle(context="stroma", cd8_per_mm2=density, nuclear_stain=0.0)
                ).is_cd8.sum()
                for s in range(20)
            ]
        )
        for density in (0, 300, 1200)
    }
    assert counts[0] == 0
    area_mm2 = 0.128**2
    assert 0.7 < counts[300] / (300 * 1.25 * area_mm2) < 1.5
    assert 3 < counts[1200] / counts[300] < 5


def test_a_style_fixes_one_thing_and_leaves_the_rest():
    plain = render_field(21)
    dark = render_field(21, style=FieldStyle(counterstain=1.5))
    np.testing.assert_array_equal(plain.labels, dark.labels)
    np.testing.assert_array_equal(plain.stain_vectors, dark.stain_vectors)
    assert dark.pixels.mean() != plain.pixels.mean()


def test_decoys_are_no_cells():
    """Debris, pigment, blots and bubbles change the picture, not the truth."""
    kwargs = {"vessels": 0.0, "membrane": 0.0}
    without = render_field(
        4, style=FieldStyle(context="stroma", precipitate=0.0, pigment=0.0, ghosts=0.0, **kwargs)
    )
    with_decoys = render_field(
        4, style=FieldStyle(context="stroma", precipitate=1.0, pigment=1.0, ghosts=1.0, **kwargs)
    )
    assert not np.array_equal(without.pixels, with_decoys.pixels)
    np.testing.assert_array_equal(without.labels, with_decoys.labels)
    np.testing.assert_array_equal(without.is_cd8, with_decoys.is_cd8)


@pytest.mark.parametrize("what", ["vessels", "membrane", "mesh"])
def test_cross_reaction_is_brown_without_cd8_cells(what):
    """Endothelium, tumour membranes, what lies between cells: brown, and only nuclei that are not stained."""
    brown = []
    for strength in (0.0, 1.0):
        nothing = {
            "precipitate": 0.0,
            "pigment": 0.0,
            "blush": 0.0,
            "vessels": 0.0,
            "membrane": 0.0,
            "mesh": 0.0,
            "ink": 0.0,
        }
        style = FieldStyle(
            context="margin", cd8_per_mm2=0, nuclear_stain=0.0, brown=1.0, **(nothing | {what: strength})
        )
        fields = [render_field(seed, style=style) for seed in range(60, 66)]
        assert not any(field.is_cd8.any() for field in fields)
        levels = np.concatenate([field.pixels.reshape(-1, 3) for field in fields]).astype(float)
        brown.append(np.mean(levels[:, 0] - levels[:, 2]))
    assert brown[1] > brown[0] + 0.5


def test_barren_fields_have_no_cd8_cell():
    """As many of the brightfield fields as the style says; the others stay as they were."""
    style = FieldStyle(context="stroma", nuclear_stain=0.0, cd8_per_mm2=800, barren_share=0.5)
    n_changed = 0
    for seed in range(30):
        plain = render_field(seed, style=replace(style, barren_share=0.0))
        field = render_field(seed, style=style)
        assert plain.is_cd8.any()
        if field.is_cd8.any():
            np.testing.assert_array_equal(field.pixels, plain.pixels)
        else:
            n_changed += 1
    assert 8 <= n_changed <= 22
    stained = render_field(0, kind="fluorescence", style=replace(style, barren_share=1.0))
    assert stained.is_cd8.any()


def test_stained_nuclei_count_as_stained():
    """A nuclear marker: the share of tumour nuclei that is stained follows the style."""
    style = FieldStyle(context="tumour", cd8_per_mm2=0, nuclear_stain=0.3, brown=1.0, ink=0.0)
    fields = [render_field(seed, style=style) for seed in range(70, 78)]
    stained = sum(int(field.is_cd8.sum()) for field in fields)
    assert 0.1 < stained / sum(len(field.is_cd8) for field in fields) < 0.35


def test_nobody_can_tell_under_ink():
    style = FieldStyle(ink=1.0)
    without = [render_field(seed, style=FieldStyle(ink=0.0)) for seed in range(8)]
    inked = [render_field(seed, style=style) for seed in range(8)]
    assert sum(len(f.is_cd8) for f in inked) < 0.95 * sum(len(f.is_cd8) for f in without)


def test_fluorescence_shows_the_same_cells():
    bright, fluorescent = render_field(31), render_field(31, kind="fluorescence")
    np.testing.assert_array_equal(bright.labels, fluorescent.labels)
    nuclear, cd8, _ = np.moveaxis(fluorescent.pixels.astype(float), -1, 0)
    on_cd8 = np.isin(fluorescent.labels, np.flatnonzero(fluorescent.is_cd8) + 1)
    nuclei = np.isin(fluorescent.labels, np.flatnonzero(~fluorescent.is_cd8) + 1)
    assert nuclear[nuclei].mean() > 1.3 * nuclear[fluorescent.labels == 0].mean()
    if on_cd8.any():
        assert cd8[on_cd8].mean() > 1.3 * cd8[~on_cd8].mean()


def test_looks_cover_the_range_of_real_stains():
    fields = [render_field(seed, size_px=64) for seed in range(40)]
    # Angle between the DAB vectors of two fields, degrees.
    vectors = np.array([f.stain_vectors[1] for f in fields])
    angles = np.degrees(np.arccos(np.clip(vectors @ vectors.T, -1, 1)))
    assert 8 < angles.max() < 40
    assert np.ptp([f.white_point.mean() for f in fields]) > 15


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"seed": -1}, "negative"),
        ({"seed": 1, "size_px": 8}, "8 px"),
        ({"seed": 1, "mpp": 5.0}, "5.0 um/px"),
        ({"seed": 1, "kind": "ultrasound"}, "ultrasound"),
        ({"seed": 1, "style": FieldStyle(context="spleen")}, "spleen"),
    ],
)
def test_bad_input(kwargs, says):
    with pytest.raises(ConfigError, match=says):
        render_field(**kwargs)
