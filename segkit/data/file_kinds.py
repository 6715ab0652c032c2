"""What a file is that cannot be read as an image, and what can be done about it."""

from pathlib import Path

from PIL import TiffImagePlugin

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")

_AGAIN = "Copy or download the file again"
_CONVERT = "Save it as PNG"
_SIGNATURES = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
# Where a signature stands, the signature, what has it, and the way out.
_KINDS: tuple[tuple[int, bytes, str, str], ...] = (
    (4, b"ftypavif", "an AVIF image", _CONVERT),
    (4, b"ftypavis", "an AVIF image", _CONVERT),
    (4, b"ftyphei", "a HEIC image", _CONVERT),
    (4, b"ftyphev", "a HEIC image", _CONVERT),
    (4, b"ftypmif1", "a HEIC image", _CONVERT),
    (4, b"ftypmsf1", "a HEIC image", _CONVERT),
    (4, b"ftyp", "a video", "Take images out of it, as PNG"),
    (0, b"RIFF", "a RIFF file, such as a video", "Take images out of it, as PNG"),
    (0, b"\x1aE\xdf\xa3", "a video", "Take images out of it, as PNG"),
    (4, b"jP  \r\n\x87\n", "a JPEG 2000 image", _CONVERT),
    (0, b"\xffO\xffQ", "a JPEG 2000 image", _CONVERT),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL image", _CONVERT),
    (0, b"\xff\x0a", "a JPEG XL image", _CONVERT),
    (0, b"II\xbc", "a JPEG XR image", _CONVERT),
    (0, b"8BPS", "a Photoshop image", _CONVERT),
    (0, b"gimp xcf", "a GIMP image", _CONVERT),
    (0, b"v/1\x01", "an OpenEXR image", _CONVERT),
    (0, b"#?RADIANCE", "a Radiance HDR image", _CONVERT),
    (0, b"DDS ", "a DirectDraw image", _CONVERT),
    (0, b"qoif", "a QOI image", _CONVERT),
    (0, b"\x00\x00\x01\x00", "an icon", _CONVERT),
    (0, b"\x8aMNG", "an MNG animation", _CONVERT),
    (0, b"SIMPLE  =", "a FITS image", _CONVERT),
    (128, b"DICM", "a DICOM image", _CONVERT),
    (344, b"n+1\x00", "a NIfTI volume", "Save its slices as PNG"),
    (0, b"NRRD", "an NRRD volume", "Save its slices as PNG"),
    (0, b"\x89HDF", "an HDF5 file", "Save its arrays as PNG"),
    (0, b"\x93NUMPY", "a NumPy array", "Save it as PNG: Image.fromarray(numpy.load(file))"),
    (0, b"MATLAB", "a MATLAB file", "Save its arrays as PNG"),
    (0, b"%PDF", "a PDF document", _CONVERT),
    (0, b"%!PS", "a PostScript document", _CONVERT),
    (0, b"PK\x03\x04", "a zip archive", "Unpack it"),
    (0, b"\x1f\x8b", "a gzip archive", "Unpack it"),
    (0, b"7z\xbc\xaf", "a 7z archive", "Unpack it"),
    (0, b"BZh", "a bzip2 archive", "Unpack it"),
    (0, b"\xfd7zXZ", "an xz archive", "Unpack it"),
    (0, b"Rar!", "a RAR archive", "Unpack it"),
    (257, b"ustar", "a tar archive", "Unpack it"),
    (0, b"version https://git-lfs", "a placeholder of Git LFS", "Fetch the content: git lfs pull"),
    (0, b"\x00\x05\x16\x07", "a file of macOS that goes with another", "Delete it"),
    *((0, b"P%d" % n, "a PNM image", _CONVERT) for n in range(1, 8)),
)


def describe(path: Path) -> tuple[str, str]:
    """What a regular file holds in place of an image of ``FORMATS``, and the way out."""
    with path.open("rb") as file:
        head = file.read(512)
    expected = f"; expected a {', '.join(FORMATS)} image"
    if not head:
        return f"is empty (0 bytes){expected}", "Get it again from its source"
    if not any(head):
        return f"holds zero bytes only, as after a copy that broke off{expected}", _AGAIN
    if head[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+") and (tiff := _tiff(path)):
        return f"is a TIFF of a kind that is not read: {tiff}", (
            "Save it as TIFF or PNG with 8 or 16 bits per value, grey or RGB"
        )
    like = [kind for start, kind in _SIGNATURES.items() if head.startswith(start)]
    if head[8:12] == b"WEBP":
        like = ["WEBP"]
    if like:
        return f"is no image that can be decoded: it begins like a {like[0]} and is damaged", (
            _AGAIN
        )
    for place, signature, kind, way_out in _KINDS:
        if head[place:].startswith(signature):
            return f"is {kind}{expected}", way_out
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return f"is no image but a web page, it starts with {head[:24]!r}{expected}", (
            "Download the file again; the page may say why that failed, such as a missing login"
        )
    if start.startswith((b"<svg", b"<?xml")):
        return f"is an SVG or XML text, it starts with {head[:24]!r}{expected}", _CONVERT
    return f"is no image, it starts with {head[:24]!r}{expected}", (
        f"{_AGAIN} if it should be one of these, or else save the image in one of these formats"
    )


def _tiff(path: Path) -> str:
    """Bits, bands and kind of numbers of a TIFF; empty where its head is damaged."""
    try:
        with path.open("rb") as file:
            header = file.read(8)
            if b"+" in header[:4]:  # a BigTIFF, whose addresses are longer
                header += file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
            bands = int(tags.get(277, 1))
            bits = sorted({int(b) for b in tags.get(258, (1,))})
            number = {1: "whole", 2: "signed", 3: "floating point", 5: "complex", 6: "complex"}
            kind = number.get(int(tags.get(339, (1,))[0]), "unknown")
    except Exception:  # of a parser on damaged bytes
        return ""
    sizes = " and ".join(map(str, bits))
    return f"{bands} band{'s' * (bands != 1)} of {kind} numbers with {sizes} bits"
