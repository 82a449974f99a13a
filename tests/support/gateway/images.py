"""Images as files: sound ones, odd ones, and what nobody should send."""

import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image, PngImagePlugin

SIZE = (128, 96)
MAGIC = b"\x89PNG\r\n\x1a\n"


def file_of(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """An image as a file."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def good(mode: str = "RGBA", form: str = "PNG", size: tuple[int, int] = SIZE, **options: object) -> bytes:
    """An image of nothing, transparent where it can be."""
    return file_of(Image.new(mode, size), form, **options)


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    width: int, height: int, depth: int = 8, kind: int = 6, before: bytes = b"", pixels: bytes = bytes(64)
) -> bytes:
    """A PNG put together by hand; ``before`` are chunks before its pixels."""
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return MAGIC + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def deep(kind: int, channels: int) -> bytes:
    """A PNG of 16 bits a channel."""
    return png(*SIZE, 16, kind, pixels=(b"\0" + bytes(SIZE[0] * channels * 2)) * SIZE[1])


def frames(form: str) -> bytes:
    """An animation."""
    first, *rest = [Image.new("RGBA", SIZE, colour) for colour in ("red", "blue", "green")]
    return file_of(first, form, save_all=True, append_images=rest)


def broken(data: bytes, at: int) -> bytes:
    """A file with a byte changed."""
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def webp_head(width: int, height: int) -> bytes:
    """A WebP that claims a size in its extended header."""
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sizes
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_head(width: int, height: int) -> bytes:
    """A JPEG that claims a size."""
    plain = good("RGB", "JPEG")
    at = plain.index(b"\xff\xc0") + 5
    return plain[:at] + struct.pack(">HH", height, width) + plain[at + 4 :]


NOISE = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 4), dtype=np.uint8)
NOISY = file_of(Image.fromarray(NOISE))


def laden_jpeg(segments: bytes) -> bytes:
    """A JPEG that carries these besides, before all else."""
    plain = good("RGB", "JPEG")
    return plain[:2] + segments + plain[2:]


def scanned(times: int) -> bytes:
    """A progressive JPEG whose last scan is repeated so many times."""
    whole = file_of(Image.fromarray(NOISE[..., :3]), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * times + whole[-2:]


NEITHER: dict[str, bytes] = {  # neither an image nor a mask
    "zero bytes": b"",
    "one byte": b"\x89",
    "text": b"not an image at all",
    "a signature alone": MAGIC,
    "truncated in its head": NOISY[:30],
    "truncated in its pixels": NOISY[: len(NOISY) // 2],
    "truncated before its end": NOISY[:-6],
    "a head with a wrong checksum": broken(NOISY, 30),
    "pixels with a wrong checksum": broken(NOISY, len(NOISY) - 14),
    "broken pixels": broken(NOISY, len(NOISY) // 2),
    "another chunk first": MAGIC + chunk(b"tEXt", b"a\0b") + NOISY[8:],
    "GIF": good("RGB", "GIF"),
    "animated GIF": frames("GIF"),
    "TIFF": good("RGB", "TIFF"),
    "BMP": good("RGB", "BMP"),
    "ICO": good("RGBA", "ICO", (32, 32)),
    "PPM": good("RGB", "PPM"),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(64),
    "AVIF": b"\0\0\0\x1cftypavif" + bytes(64),
    "PDF": b"%PDF-1.7\n%%EOF",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "PSD": b"8BPS\0\x01" + bytes(64),
    "FITS": b"SIMPLE  =                    T" + bytes(64),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="128" height="96"/>',
    "SVG that reads a file": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><svg>&b;</svg>',
    "HTML": b"<html><script>alert(1)</script></html>",
    "ZIP": b"PK\x03\x04" + bytes(64),
    "APNG": frames("PNG"),
    "PNG of 60000 a side": png(60_000, 60_000),
    "JPEG of a thousand scans": scanned(1000),
    "PNG of 9400 a side": png(9400, 9400),
    "PNG a little over the limit": png(1001, 1000),
    "PNG of 2 billion a side": png(2**31 - 1, 2**31 - 1),
    "PNG of no width": png(0, 96),
    "PNG without pixels": png(*SIZE, pixels=b""),
    "PNG of 70000 chunks": png(*SIZE, before=chunk(b"prVt", b"") * 70_000),
    "JPEG of 70000 comments": laden_jpeg(b"\xff\xfe\0\x04ab" * 70_000),
    "16 bits, grey": deep(0, 1),
    "16 bits, grey and alpha": deep(4, 2),
    "16 bits, colour": deep(2, 3),
    "16 bits, colour and alpha": deep(6, 4),
    "JPEG of 65500 a side": jpeg_head(65_500, 65_500),
    "JPEG, truncated": good("RGB", "JPEG")[:200],
    "WebP of 16383 a side": webp_head(16_383, 16_383),
    "WebP, truncated": file_of(Image.fromarray(NOISE), "WEBP")[:200],
    "animated WebP": frames("WEBP"),
    "large": MAGIC + bytes(3_000_000),
}
NO_MASK: dict[str, bytes] = {
    "larger than its image": good(size=(144, 96)),
    "turned against its image": good(size=(96, 128)),
    "one pixel": good(size=(1, 1)),
    "no alpha, colour": good("RGB"),
    "no alpha, grey": good("L"),
    "no alpha, one bit": good("1"),
    "no alpha, palette": good("P"),
    "JPEG": good("RGB", "JPEG"),
    "CMYK JPEG": good("CMYK", "JPEG"),
    "WebP with alpha": good("RGBA", "WEBP"),
}


def turned() -> bytes:
    """Red at what is its top once it is turned as its camera says."""
    image = Image.new("RGB", SIZE)
    image.paste("red", (0, 0, 20, SIZE[1]))
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(image, exif=exif)


def palette() -> Image.Image:
    """Two colours, of which the second is transparent."""
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    return image


def polyglot() -> bytes:
    """A PNG that is an archive as well, with a script in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("index.html", "<script>alert(1)</script>")
    return good("RGBA") + out.getvalue()


def commented() -> bytes:
    """A PNG with comments, a profile and dates that nobody can read."""
    words = PngImagePlugin.PngInfo()
    words.add_text("Comment", "<script>alert(1)</script>" * 100)
    words.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>" * 100)
    return file_of(Image.new("RGBA", SIZE), pnginfo=words, icc_profile=b"no profile" * 50, exif=b"Exif\0\0nothing")


def two_in_one() -> bytes:
    """A telephone's JPEG, with a second image behind it."""
    return file_of(Image.new("RGB", SIZE, "red"), "MPO", save_all=True, append_images=[Image.new("RGB", SIZE)])
