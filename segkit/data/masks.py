"""Masks: integer (H, W) arrays in which each pixel holds a class id or ``ignore_index``."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from segkit.data.colors import (
    ColorMap,
    Palette,
    check_grey,
    classes_of_colors,
    classes_of_indices,
    fill_palette,
    parse_colormap,
    voc_palette,
)
from segkit.data.decode import PathLike, load_labels
from segkit.data.labels import Labels, check_labels
from segkit.data.stored import Stored
from segkit.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["one_hot", "read_mask", "voc_palette", "write_mask"]


def read_mask(
    path: PathLike, *, colormap: ColorMap | None = None, ignore_index: int = 255
) -> Labels:
    """Read a mask as the class ids that its file stores.

    Args:
        path: A palette, grey or, with ``colormap``, an RGB(A) file.
        colormap: RGB triples in class order, or ``"voc"``: the colours of RGB and palette files
            say the class. VOC's border colour (224, 224, 192) is ``ignore_index`` unless it is
            listed. Without it, and with ``"indices"``, the indices of palette files are class ids.
        ignore_index: The id that the border colour becomes.

    Returns:
        uint8 (H, W), or uint16 (H, W) where values above 255 are stored.

    Raises:
        DataError: An unreadable file, a JPEG, an RGB file without ``colormap``, a colour that is
            not in ``colormap``, a value below 0 or above 65535.
    """
    return to_labels(load_labels(path), parse_colormap(colormap), ignore_index, str(path))


def to_labels(
    stored: Stored,
    colormap: Palette | None,
    ignore_index: int,
    name: str,
    key: str = "data.colormap",
) -> Labels:
    """:func:`read_mask` of a file that is loaded.

    Args:
        stored: What the file holds.
        colormap: Colours in class order, uint8 (n, 3); None where colours do not count.
        ignore_index: As there.
        name: What errors call the mask.
        key: What they call the colours.
    """
    labels = stored.numbers
    if labels.ndim == 3:
        if colormap is None:
            raise DataError(
                f"{name}: the mask is an RGB image; expected palette or grey with class ids. "
                f"Say which colour is which class: {key}=voc, or RGB triples in class order"
            )
        labels = classes_of_colors(labels, colormap, ignore_index, name, key)
    elif colormap is not None and stored.palette is not None:
        labels = classes_of_indices(labels, stored.palette, colormap, ignore_index, name, key)
    elif colormap is not None and stored.white in (1, 3, 15, 255):
        check_grey(labels, stored.white, colormap, ignore_index, name, key)
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > 65535:
        raise DataError(
            f"{name}: values from {low} to {high}; expected class ids between 0 and 65535. Save "
            f"it with {ignore_index} where nothing is labelled, and the class elsewhere"
        )
    return labels.astype(np.uint8 if high <= 255 else np.uint16, copy=False)


def write_mask(path: PathLike, mask: Labels, palette: Palette | None = None) -> None:
    """Write a mask as an 8-bit palette PNG that :func:`read_mask` reads back unchanged.

    Args:
        path: The file to write, usually ``*.png``; the format is PNG whatever its name.
        mask: Integer (H, W) with values from 0 to 255.
        palette: uint8 (n, 3) with n <= 256; :func:`voc_palette` where it has no entry.
    """
    if mask.ndim != 2 or mask.dtype.kind not in "iu" or mask.size == 0:
        raise ValueError(f"mask must be integer (H, W), got {mask.dtype} {mask.shape}")
    if mask.min() < 0 or mask.max() > 255:
        raise ValueError(f"mask values must be 0 to 255, got {mask.min()} to {mask.max()}")
    image = PIL.Image.fromarray(mask.astype(np.uint8))
    # All 256 entries: Pillow stores fewer bits per pixel for a shorter palette and cuts values.
    image.putpalette(fill_palette(palette).tobytes())
    image.save(path, format="PNG", optimize=False)


@overload
def one_hot(mask: Labels, num_classes: int, ignore_index: int = ...) -> NDArray[np.uint8]: ...
@overload
def one_hot(mask: Tensor, num_classes: int, ignore_index: int = ...) -> Tensor: ...
def one_hot(
    mask: Labels | Tensor, num_classes: int, ignore_index: int = 255
) -> NDArray[np.uint8] | Tensor:
    """One column per class, and a last one that marks the ignored pixels.

    Dropping the last column leaves rows of zeros where pixels are ignored.

    Args:
        mask: Integer (H, W), an array or a tensor.
        num_classes: Values must lie in ``[0, num_classes)`` or be ``ignore_index``.
        ignore_index: Value of the pixels without a label; may be any integer.

    Returns:
        uint8 (H, W, num_classes + 1): an array for an array, a tensor on the same device for one.

    Raises:
        ValueError: Another shape or dtype, or a value that is neither a class nor ignored.

    Example:
        >>> one_hot(np.array([[1, 255]]), num_classes=2).tolist()
        [[[0, 1, 0], [0, 0, 1]]]
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if isinstance(mask, np.ndarray):
        if mask.ndim != 2 or mask.dtype.kind not in "iu":
            raise ValueError(f"mask must be integer (H, W), got {mask.dtype} {mask.shape}")
        check_labels(mask, num_classes, ignore_index)
        columns = np.where(mask == ignore_index, num_classes, mask.astype(np.int64))
        return np.eye(num_classes + 1, dtype=np.uint8)[columns]

    import torch  # here, so that reading masks does not load it

    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"mask must be an array or a tensor, got {type(mask).__name__}")
    kind = mask.dtype
    if mask.ndim != 2 or kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise ValueError(f"mask must be integer (H, W), got {kind} {tuple(mask.shape)}")
    labels = mask.to(torch.int64)
    ignored = labels == ignore_index
    if (((labels < 0) | (labels >= num_classes)) & ~ignored).any():
        check_labels(labels.cpu().numpy(), num_classes, ignore_index)  # raises, and says which
    identity = torch.eye(num_classes + 1, dtype=torch.uint8, device=mask.device)
    return identity[labels.masked_fill(ignored, num_classes)]
