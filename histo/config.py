"""The configuration of a run: one YAML per stain protocol, checked as a whole.

Lengths are um, areas um2 or mm2, densities per mm2; names carry the unit.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from histo.errors import ConfigError
from histo.panel import PanelConfig, StatesConfig

Vector = tuple[float, float, float]
Settings = TypeVar("Settings", bound=BaseModel)
RegionName = Literal["tumour", "stroma", "host", "necrosis", "exclude", "portal", "vessel", "rim", "other"]


# A file of settings is a page or two.
_MAX_YAML_BYTES = 1 << 20
_YAML_FIX = "Correct the file; configs/ of the package holds examples"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _PlainLoader(yaml.SafeLoader):
    """Without aliases: a few lines of them can stand for more than memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are refused", event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


class StainVectors(_Section):
    """Optical density of each stain in red, green, blue; any length, normalised on use.

    `residual` None means the cross product of the other two.
    """

    # Kather 2018 (eLife 7:e36967), QuPath scripts: the field's usual H-DAB.
    nuclear: Vector = (0.65111, 0.70119, 0.29049)
    cd8: Vector = (0.26917, 0.56824, 0.77759)
    residual: Vector | None = None


class BrightfieldStain(_Section):
    """Chromogenic staining: how colours become stain amounts."""

    kind: Literal["brightfield"] = "brightfield"
    vectors: StainVectors = StainVectors()
    # Estimated per slide within this angle of `vectors`; 0 takes `vectors` as they are.
    estimate_within_deg: Annotated[float, Field(ge=0, le=45)] = 15.0
    # "estimate": from the slide's own glass; or fixed red, green, blue.
    white_point: Literal["estimate"] | Vector = "estimate"
    # What `vectors.residual` stains, where it is a third stain (e.g. CK in a duplex) and no mere rest.
    residual_name: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _named_residual_is_given(self) -> BrightfieldStain:
        if self.residual_name is not None and self.vectors.residual is None:
            raise ValueError("residual_name names a third stain: give its vector as vectors.residual")
        return self

    @property
    def chromogens(self) -> tuple[str, ...]:
        """What is stained, in the order of the stain amounts; a mere rest is not."""
        return ("nuclear", "CD8", *(() if self.residual_name is None else (self.residual_name,)))

    def place_of(self, chromogen: str) -> int | None:
        """Return where a chromogen stands among the stain amounts, whatever its case; None: not here."""
        names = [name.casefold() for name in self.chromogens]
        return names.index(chromogen.casefold()) if chromogen.casefold() in names else None


class FluorescenceStain(_Section):
    """Fluorescence: which channel is which. Names are matched without regard to case, wholly or in part."""

    kind: Literal["fluorescence"]
    nuclear: str
    cd8: str
    # Shown to the network as the residual stain where given; markers can have a share of it subtracted
    # (`panel.autofluorescence`).
    autofluorescence: str | None = None


class TissueConfig(_Section):
    """Tissue detection and quality control."""

    mpp_um: Annotated[float, Field(gt=0)] = 8.0
    min_area_um2: Annotated[float, Field(ge=0)] = 10_000.0
    min_hole_area_um2: Annotated[float, Field(ge=0)] = 5_000.0
    # Which artefacts are taken out of the assessed tissue; the others are only flagged.
    exclude_pen: bool = True
    exclude_out_of_focus: bool = True
    exclude_bubbles: bool = True
    # A flag is raised where this share of the tissue is taken out.
    flag_excluded_fraction: Annotated[float, Field(ge=0, le=1)] = 0.2


class CellsConfig(_Section):
    """What finds the cells, and what counts as one."""

    # "kather2018": the published classical rule instead of the network, for comparison; brightfield only.
    detector: Literal["network", "kather2018"] = "network"
    # Of the network only, as precision and centre_threshold.
    weights: str = "default"
    # bfloat16 is several times faster where the processor has it, and may move one cell in a thousand over a
    # threshold. "auto" takes it there; float32 gives the same cells on every processor.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    centre_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None  # None: as stored with the weights
    # Added to the logit of CD8+ cells, beside the balance that is stored with the weights: below 0 fewer are
    # called CD8+.
    cd8_logit: Annotated[float, Field(ge=-10, le=10)] = 0.0
    min_area_um2: Annotated[float, Field(ge=0)] = 10.0
    max_area_um2: Annotated[float, Field(gt=0)] = 400.0
    # A cell called CD8+ with less CD8 in its ring (mean) than this is an other nucleus. For duplex stains: a
    # second chromogen on its membrane can make a cell look like a CD8+ one. None: the detector alone decides.
    min_cd8_ring: float | None = None
    ring_width_um: Annotated[float, Field(gt=0)] = 1.0
    outline_tolerance_um: Annotated[float, Field(ge=0)] = 0.25


class ZoneWidths(NamedTuple):
    """A published scheme of zones: widths in um; None for a far zone without an end."""

    inner_margin_um: float
    outer_margin_um: float
    far_limit_um: float | None
    profile_bin_um: float


ZoneScheme = Literal["kather500", "immunoscore360", "berthel10"]
ZONE_SCHEMES: Final[dict[ZoneScheme, ZoneWidths]] = {
    # Kather 2018 (eLife 7:e36967): core deeper than 500 um, margins 500 um wide each side, far beyond.
    "kather500": ZoneWidths(500.0, 500.0, None, 50.0),
    # The invasive margin as it is drawn for the Immunoscore: 360 um to either side (Pages 2018, Lancet
    # 391:2128). The widths only: no score of that name is given.
    "immunoscore360": ZoneWidths(360.0, 360.0, None, 50.0),
    # Berthel 2017 (OncoImmunology e1286436): classes of 10 um from the border; zones as kather500.
    "berthel10": ZoneWidths(500.0, 500.0, None, 10.0),
}


class RegionsConfig(_Section):
    """Where the tumour region comes from, the tumour border and the zones around it."""

    # Class names of annotation files, without regard to case, to ours.
    names: dict[str, RegionName] = {
        "tumor": "tumour",
        "tumour": "tumour",
        "stroma": "stroma",
        "host": "host",
        "liver": "host",
        "bowel": "host",
        "normal": "host",
        "necrosis": "necrosis",
        "exclude": "exclude",
        "ignore": "exclude",
        "ignore*": "exclude",
        "artefact": "exclude",
        "artifact": "exclude",
        "portal": "portal",
        "portal tract": "portal",
        "vessel": "vessel",
        "large vessel": "vessel",
        "rim": "rim",
        "capsule": "rim",
        "other": "other",
    }
    # A file of `histo regions train`, or a channel that stains the tumour (fluorescence: any of the slide's;
    # brightfield: stain.residual_name). Used on slides whose annotations name no tumour.
    classifier: str | None = None
    tumour_channel: str | None = None
    # In grey levels (fluorescence) or optical density (brightfield); None: from the slide, where it has two
    # kinds of tissue to tell apart.
    tumour_channel_threshold: float | None = None
    # Zones by the signed distance to the border; single widths go before those of the scheme.
    zones: ZoneScheme = "kather500"
    inner_margin_um: Annotated[float, Field(gt=0)] = 500.0
    outer_margin_um: Annotated[float, Field(gt=0)] = 500.0
    # Tissue further out than this is in no zone; None: all of it is far.
    far_limit_um: Annotated[float, Field(gt=0)] | None = None
    # Width of the classes of the distance profile.
    profile_bin_um: Annotated[float, Field(ge=1, le=1500)] = 50.0
    # A stretch of tumour outline is a border only where tissue lies within this distance outside it.
    border_tissue_within_um: Annotated[float, Field(gt=0)] = 40.0
    # Less border than this (a biopsy) and no zone is assessed.
    min_border_length_um: Annotated[float, Field(ge=0)] = 500.0

    @model_validator(mode="before")
    @classmethod
    def _widths_of_the_scheme(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        scheme = data.get("zones", "kather500")
        # One that is not known is reported by its own field.
        widths = next((widths for name, widths in ZONE_SCHEMES.items() if name == scheme), None)
        return data if widths is None else {**widths._asdict(), **data}

    @model_validator(mode="after")
    def _is_free_of_contradictions(self) -> RegionsConfig:
        if self.far_limit_um is not None and self.far_limit_um <= self.outer_margin_um:
            raise ValueError("far_limit_um must lie beyond outer_margin_um")
        widths, plain = ZONE_SCHEMES[self.zones]._asdict(), ZONE_SCHEMES["kather500"]._asdict()
        own = [name for name in widths if widths[name] != plain[name]]
        if own and all(getattr(self, name) != widths[name] for name in own):
            raise ValueError(
                f"zones {self.zones} and another {' and '.join(own)} contradict each other: leave out either"
            )
        if self.classifier is not None and self.tumour_channel is not None:
            raise ValueError("classifier and tumour_channel both say where the tumour is: leave out one")
        if self.tumour_channel_threshold is not None and self.tumour_channel is None:
            raise ValueError("tumour_channel_threshold has no effect without tumour_channel")
        return self


class MeasureConfig(_Section):
    """Densities, exclusion and phenotype."""

    confidence_level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    min_zone_area_mm2: Annotated[float, Field(ge=0)] = 0.1
    # A zone with fewer cells of any kind than this gives no density.
    min_zone_cells: Annotated[int, Field(ge=0)] = 20
    # Kather 2018 (eLife 7:e36967): median CD8 density pooled over core and outer margin.
    phenotype_cutoff_per_mm2: Annotated[float, Field(gt=0)] = 294.9
    # Added to both densities of the core:outer ratio.
    log_ratio_offset_per_mm2: Annotated[float, Field(gt=0)] = 1.0
    # Edge of the squares that are drawn, with what is in them, for bootstrap intervals.
    block_um: Annotated[float, Field(gt=0)] = 500.0
    bootstrap_samples: Annotated[int, Field(ge=100)] = 2000
    # Share of tumour tiles above the cut-off, beside the phenotype of the whole.
    inflamed_tiles: bool = False
    tile_um: Annotated[float, Field(gt=0)] = 1000.0
    # Nearest neighbours, cross functions, hot spots; and how often labels are permuted for their envelopes.
    spatial: bool = True
    permutations: Annotated[int, Field(ge=19)] = 99


class ResultsConfig(_Section):
    """What is written for each slide."""

    label_maps: bool = True
    geojson: bool = True
    density_map_um: Annotated[float, Field(gt=0)] = 64.0
    overlay_max_px: Annotated[int, Field(ge=256, le=8192)] = 2000


class RunConfig(_Section):
    """How the work is done. None of it changes a result, so none of it enters the fingerprint."""

    device: str = "auto"
    # Tiles worked on at once; None: one a core.
    threads: Annotated[int, Field(ge=1)] | None = None
    # Larger tiles take more memory, smaller ones more time: the halo round them is 64 um wide.
    tile_um: Annotated[float, Field(ge=64)] = 448.0
    tile_offset_um: tuple[float, float] = (0.0, 0.0)
    reader_threads: Annotated[int, Field(ge=1)] = 2
    read_ahead_tiles: Annotated[int, Field(ge=1)] = 2
    # Copies of slides from S3 and the like: where (None: where the system has its temporary files), and how
    # many GB at once in a process (None: as the disk has room).
    stage_dir: str | None = None
    stage_gb: Annotated[float, Field(gt=0)] | None = None
    # Once a slide has taken so long, its tiles are kept on disk until it is done: a run that is stopped goes
    # on from there.
    keep_tiles_after_s: Annotated[float, Field(ge=0)] = 20.0
    # A read that takes longer hangs: its tile is lost, and after three in a row the slide. None or 0: never.
    read_timeout_s: Annotated[float, Field(ge=0)] | None = 120.0


class Config(_Section):
    """Everything a run needs to know."""

    name: str = "cd8_ihc"
    stain: Annotated[BrightfieldStain | FluorescenceStain, Field(discriminator="kind")] = BrightfieldStain()
    tissue: TissueConfig = TissueConfig()
    cells: CellsConfig = CellsConfig()
    panel: PanelConfig = PanelConfig()
    states: StatesConfig = StatesConfig()
    regions: RegionsConfig = RegionsConfig()
    measure: MeasureConfig = MeasureConfig()
    results: ResultsConfig = ResultsConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="before")
    @classmethod
    def _stain_is_brightfield_unless_said(cls, data: Any) -> Any:
        stain = data.get("stain") if isinstance(data, dict) else None
        if isinstance(stain, dict) and "kind" not in stain:
            return {**data, "stain": {"kind": "brightfield", **stain}}
        return data

    @model_validator(mode="after")
    def _sizes_are_ordered(self) -> Config:
        if self.cells.min_area_um2 >= self.cells.max_area_um2:
            raise ValueError("cells.min_area_um2 must be below cells.max_area_um2")
        return self

    @model_validator(mode="after")
    def _detector_fits(self) -> Config:
        if self.cells.detector == "network":
            return self
        if self.stain.kind != "brightfield":
            raise ValueError(
                f"cells.detector {self.cells.detector} is a rule for brightfield, not fluorescence"
            )
        plain = CellsConfig()
        for name in ("weights", "precision", "centre_threshold", "cd8_logit"):
            if getattr(self.cells, name) != getattr(plain, name):
                raise ValueError(f"cells.{name} has no effect with cells.detector {self.cells.detector}")
        return self

    @model_validator(mode="after")
    def _tumour_channel_is_stained(self) -> Config:
        wanted, stain = self.regions.tumour_channel, self.stain
        if wanted is None or isinstance(stain, FluorescenceStain):
            return self
        if stain.residual_name is None or stain.residual_name.casefold() != wanted.casefold():
            raise ValueError(
                f"regions.tumour_channel {wanted!r} is no stain of this brightfield protocol: give its "
                "vector as stain.vectors.residual and its name as stain.residual_name"
            )
        return self

    @model_validator(mode="after")
    def _panel_is_stained(self) -> Config:
        panel, stain = self.panel, self.stain
        if isinstance(stain, FluorescenceStain):
            if panel.autofluorescence and stain.autofluorescence is None:
                raise ValueError(
                    "panel.autofluorescence takes from stain.autofluorescence: name that channel"
                )
            return self
        if panel.autofluorescence or panel.spillover:
            raise ValueError("panel.autofluorescence and panel.spillover are for fluorescence")
        if "stain" not in self.model_fields_set:
            # For tables of others; on a slide, names of channels are looked at again.
            return self
        unknown = [marker.channel for marker in panel.markers if stain.place_of(marker.channel) is None]
        if unknown:
            raise ValueError(
                f"no stain of this brightfield protocol: {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(stain.chromogens)}: a third is stain.vectors.residual with stain.residual_name"
            )
        return self

    def fingerprint(self) -> str:
        """Return the SHA-256 of everything that can change a result."""
        text = json.dumps(self.model_dump(mode="json", exclude={"run", "states"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML configuration and apply `key.sub=value` overrides.

    Parameters
    ----------
    path : a YAML file; None for the defaults (CD8 H-DAB).
    overrides : "section.key=value"; the value is read as YAML.

    Raises
    ------
    ConfigError : the file or an override cannot be read, or does not fit; every misfit is listed.
    """
    return read_settings(Config, path, overrides)


def read_settings(model: type[Settings], path: Path | None, overrides: Sequence[str]) -> Settings:
    """Read a YAML file into a model of settings and apply overrides; errors as in `load_config`."""
    data = {} if path is None else read_yaml(path)
    for override in overrides:
        apply_override(data, override)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(error), path=path, fix="Correct these settings") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; raises ConfigError where it cannot be."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_YAML_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the configuration cannot be read ({error})", path=path, fix="Give a text file in UTF-8"
        ) from None
    if len(content) > _MAX_YAML_BYTES:
        raise ConfigError(
            f"larger than {_MAX_YAML_BYTES >> 20} MiB: no configuration", path=path, fix=_YAML_FIX
        )
    try:
        data = _load_yaml(text)
    except ValueError as error:
        raise ConfigError(f"not valid YAML: {error}", path=path, fix=_YAML_FIX) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError("a configuration must be a mapping of settings", path=path, fix=_YAML_FIX)
    return data


def _load_yaml(text: str) -> Any:
    """Return the value of a YAML text; raises ValueError where it has none."""
    try:
        # A safe loader: it makes nothing but plain values.
        return yaml.load(text, _PlainLoader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (AttributeError, LookupError, TypeError):
        raise ValueError("a value is not what its tag says") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def describe(error: ValidationError) -> str:
    """Put every misfit on one line: where, what is wrong, what was given."""
    parts = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "configuration"
        parts.append(f"{where}: {item['msg']} (got {reprlib.repr(item.get('input')):.80})")
    return "; ".join(parts)


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one "section.key=value" in a mapping of settings; raises ConfigError where it has no such form."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(
            f"--set {override!r} is not of the form key=value", fix="Write e.g. --set run.threads=4"
        )
    *sections, last = key.split(".")
    node = data
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {section} is not a section")
        node = child
    try:
        node[last] = _load_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML ({error})") from None
