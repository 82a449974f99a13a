"""Sound images that carry more than pixels: texts, profiles and Exif data, packed, repeated and overlapping.

A decoder that reads these spends memory and time far beyond the size of the file.
"""

import struct
import zlib

from tests.support.gateway.images import SIZE, chunk, good, laden_jpeg, png

SOUND = (b"\0" + bytes(4 * SIZE[0])) * SIZE[1]  # transparent everywhere
PACKED = zlib.compress(bytes(40_000_000), 9)
MEGABYTE = zlib.compress(bytes(1_000_000), 9)
XMP = b"XML:com.adobe.xmp\0"


def overlapping(entries: int, each: int) -> bytes:
    """Exif data of a directory whose entries all claim the same bytes, and so many."""
    places = b"".join(struct.pack("<HHLL", 0x1000 + i, 2, each, 8) for i in range(entries))
    return b"II*\0" + struct.pack("<LH", 8, entries) + places + bytes(4 + each)


def laden_png(before: bytes, after: bytes = b"") -> bytes:
    """A PNG with chunks before its pixels, and after them."""
    whole = png(*SIZE, before=before, pixels=SOUND)
    return whole[:-12] + after + whole[-12:]


def exif_segment(data: bytes) -> bytes:
    """A segment of a JPEG that says it is Exif data."""
    return b"\xff\xe1" + struct.pack(">H", 8 + len(data)) + b"Exif\0\0" + data


LADEN_PNG: dict[str, bytes] = {
    "zTXt of 40 MB in 40 kB": laden_png(chunk(b"zTXt", b"a\0\0" + PACKED)),
    "iTXt of 40 MB in 40 kB": laden_png(chunk(b"iTXt", b"a\0\1\0\0\0" + PACKED)),
    "XMP of 40 MB in 40 kB": laden_png(chunk(b"iTXt", XMP + b"\1\0\0\0" + PACKED)),
    "profile of 40 MB in 40 kB": laden_png(chunk(b"iCCP", b"a\0\0" + PACKED)),
    "sixty texts of a megabyte": laden_png(chunk(b"zTXt", b"a\0\0" + MEGABYTE) * 60),
    "sixty of them after its pixels": laden_png(b"", chunk(b"iTXt", b"a\0\1\0\0\0" + MEGABYTE) * 60),
    "iTXt of 3 MB": laden_png(chunk(b"iTXt", b"a\0\0\0\0\0" + b"x" * 3_000_000)),
    "tEXt of 3 MB": laden_png(chunk(b"tEXt", b"a\0" + b"x" * 3_000_000)),
    "Exif data of 60000 entries": laden_png(chunk(b"eXIf", overlapping(60_000, 100))),
    "Exif data that overlaps": laden_png(chunk(b"eXIf", overlapping(3000, 500_000))),
    "Exif data in a text": laden_png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n9\n" + b"00" * 1_000_000)),
    "60000 chunks of its own": laden_png(chunk(b"prVt", b"") * 60_000),
}
LADEN: dict[str, bytes] = LADEN_PNG | {
    "JPEG of 60000 Exif segments": laden_jpeg(exif_segment(bytes(40)) * 60_000),
    "JPEG, Exif data that overlaps": laden_jpeg(exif_segment(overlapping(2500, 30_000))),
    "JPEG of 50 profiles": laden_jpeg((b"\xff\xe2\xff\xff" + b"ICC_PROFILE\0\1\1" + bytes(65_519)) * 50),
    "JPEG of 60000 comments": laden_jpeg(b"\xff\xfe\0\x04ab" * 60_000),
    "WebP, Exif data that overlaps": good("RGB", "WEBP", exif=overlapping(3000, 500_000), lossless=True),
    "WebP, a large XMP": good("RGB", "WEBP", xmp=b"x" * 3_000_000, lossless=True),
}
