"""Laying one section over another: rigid, affine, then B-spline, on the nuclear stain (SimpleITK)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from histo.errors import RegistrationError
from histo.sections.coarse import Guess, coarse_guesses
from histo.sections.picture import NuclearPicture

# Pixels that a metric looks at: more would not be better.
_SAMPLES = 300_000
# Glass round the tissue takes part, so that outlines are drawn to each other.
_RIM_UM = 60.0
# um per pixel at which the first guesses are tried.
_TRIAL_UM = 12.0


@dataclass(frozen=True, eq=False)
class Registration:
    """A way from points of the first slide to the second, um in their frames.

    transform : a composite SimpleITK transform. mirrored, rotation_deg : of its first guess, refined.
    similarity : correlation of the nuclear stain in the common tissue, -1 to 1.
    """

    transform: sitk.CompositeTransform
    mirrored: bool
    rotation_deg: float
    similarity: float


def register(first: NuclearPicture, second: NuclearPicture, *, grid_um: float, flips: bool) -> Registration:
    """Find the way from the first section to the second.

    Rotations and mirror images are tried on the tissue's shape and stain (`coarse_guesses`), the best guesses
    made exact as rigid motions, and the one with the most similar stain goes on to an affine and a B-spline
    transform (Rueckert 1999, IEEE Trans Med Imaging 18:712), each from coarse to fine. The metric is the
    correlation of the nuclear stain, which does not ask for equal staining. One thread and regular sampling:
    the same pictures give the same transform.

    Raises
    ------
    RegistrationError : the optimiser finds no overlap.
    """
    guesses = coarse_guesses(first, second, flips=flips)
    factor = max(1, round(_TRIAL_UM / first.mpp))
    small = first.coarser(factor), second.coarser(factor)
    trials = []
    for guess in guesses:
        start = _affine(guess)
        try:
            moved = _linear(*small, start, sitk.Euler2DTransform(), (2, 1))
        except RuntimeError:
            # No overlap left: this guess leads nowhere.
            continue
        trials.append((similarity(*small, moved), guess, moved))
    if not trials:
        raise RegistrationError("no rotation brings the sections to lie over each other")
    _, guess, transform = max(trials, key=lambda trial: trial[0])
    try:
        transform = _linear(first, second, transform, sitk.Euler2DTransform(), (4,))
        transform = _linear(first, second, transform, sitk.AffineTransform(2), (4, 2))
        transform = _bspline(first, second, transform, grid_um)
    except RuntimeError as error:
        raise RegistrationError(f"the registration did not come to an end ({_reason(error)})") from None
    origin, along = (np.array(transform.TransformPoint(point)) for point in ((0.0, 0.0), (1000.0, 0.0)))
    way = along - origin
    angle = float(np.degrees(np.arctan2(way[1], way[0])))
    if guess.mirrored:
        angle = (angle + 360) % 360 - 180
    return Registration(transform, guess.mirrored, angle, similarity(first, second, transform))


def similarity(first: NuclearPicture, second: NuclearPicture, transform: sitk.Transform) -> float:
    """Return the correlation of the nuclear stain where either section has tissue; 0 without any contrast."""
    moved = resampled(second, first, transform)
    where = first.tissue | (moved > 0)
    one, two = first.nuclear[where], moved[where]
    if one.std() == 0 or two.std() == 0:
        return 0.0
    return float(np.corrcoef(one, two)[0, 1])


def resampled(
    second: NuclearPicture, first: NuclearPicture, transform: sitk.Transform
) -> NDArray[np.float32]:
    """Return the nuclear stain of the second section on the grid of the first."""
    moved = sitk.Resample(image(second), image(first), transform, sitk.sitkLinear, 0.0)
    result: NDArray[np.float32] = sitk.GetArrayFromImage(moved)
    return result


def image(picture: NuclearPicture) -> sitk.Image:
    """Return the nuclear stain as a SimpleITK image whose physical points are um in the slide's frame."""
    return _image(picture.nuclear, picture.mpp)


def _image(values: NDArray[Any], mpp: float) -> sitk.Image:
    result = sitk.GetImageFromArray(values)
    result.SetSpacing((mpp, mpp))
    result.SetOrigin((mpp / 2, mpp / 2))
    return result


def _affine(guess: Guess) -> sitk.CompositeTransform:
    transform = sitk.AffineTransform(2)
    transform.SetMatrix(guess.matrix.ravel().tolist())
    transform.SetCenter(guess.centre_um.tolist())
    transform.SetTranslation(guess.shift_um.tolist())
    return sitk.CompositeTransform([transform])


def _method(first: NuclearPicture, shrink: tuple[int, ...]) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    # Sums in another order would end elsewhere.
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    rim = ndimage.binary_dilation(first.tissue, iterations=max(1, round(_RIM_UM / first.mpp)))
    method.SetMetricFixedMask(_image(rim.astype(np.uint8), first.mpp))
    method.SetMetricSamplingStrategy(method.REGULAR)
    n = float(rim.sum())
    method.SetMetricSamplingPercentagePerLevel(
        [min(1.0, _SAMPLES / max(n / factor**2, 1.0)) for factor in shrink], 1
    )
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([0.8 * factor * first.mpp for factor in shrink])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    return method


def _linear(
    first: NuclearPicture,
    second: NuclearPicture,
    before: sitk.CompositeTransform,
    change: sitk.Euler2DTransform | sitk.AffineTransform,
    shrink: tuple[int, ...],
) -> sitk.CompositeTransform:
    """Improve a transform by a rigid or affine change round the middle of the tissue."""
    middle = (np.array(ndimage.center_of_mass(first.tissue))[::-1] + 0.5) * first.mpp
    change.SetCenter(middle.tolist())  # type: ignore[no-untyped-call]
    method = _method(first, shrink)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=shrink[0] * first.mpp / 2,
        minStep=0.02 * first.mpp,
        numberOfIterations=150,
        relaxationFactor=0.6,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetMovingInitialTransform(before)
    method.SetInitialTransform(change, inPlace=True)
    method.Execute(image(first), image(second))
    return _better(first, second, before, _after(before, change))


def _bspline(
    first: NuclearPicture, second: NuclearPicture, before: sitk.CompositeTransform, grid_um: float
) -> sitk.CompositeTransform:
    # From a mesh four times as wide, which is halved twice.
    mesh = [max(1, round(length / (4 * grid_um))) for length in first.size_um]
    change = sitk.BSplineTransformInitializer(image(first), mesh, order=3)
    method = _method(first, (4, 2, 1))
    # The accuracy is of the gradient over the parameters, in um: 1e-4 is reached before the first step. More
    # than 10 steps a level gained less than 0.3 um on rendered pairs.
    method.SetOptimizerAsLBFGS2(solutionAccuracy=1e-7, numberOfIterations=10)
    method.SetMovingInitialTransform(before)
    method.SetInitialTransformAsBSpline(change, inPlace=True, scaleFactors=[1, 2, 4])
    method.Execute(image(first), image(second))
    return _better(first, second, before, _after(before, change))


def _better(
    first: NuclearPicture, second: NuclearPicture, *transforms: sitk.CompositeTransform
) -> sitk.CompositeTransform:
    """Return the transform with the most similar stain: a descent may leave a good place for a worse one."""
    return max(transforms, key=lambda transform: similarity(first, second, transform))


def _after(before: sitk.CompositeTransform, change: sitk.Transform) -> sitk.CompositeTransform:
    # The last one added is the first that a point goes through.
    whole = sitk.CompositeTransform(before)
    whole.AddTransform(change)
    return whole


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
