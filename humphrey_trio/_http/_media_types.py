"""The media type of a file, by the extension of its name.

The table is fixed. The module ``mimetypes`` reads files of the operating system and changes with Python, so the
same file would have another type on another machine.
"""

from __future__ import annotations

UNKNOWN = "application/octet-stream"

# Text is sent as UTF-8. The types that are not text but have a charset parameter in their registration are rare,
# and those that are text without one, such as JSON (RFC 8259, section 11) and SVG, are UTF-8 anyway.
_CHARSET = "; charset=utf-8"

_TEXT = {
    "text/css": "css",
    "text/csv": "csv",
    "text/html": "html htm",
    "text/javascript": "js mjs cjs",
    "text/markdown": "md markdown",
    "text/plain": "txt text log conf cfg ini toml rst py rs c h cpp hpp go java sh sql diff patch",
    "text/tab-separated-values": "tsv",
    "text/vcard": "vcf",
    "text/vtt": "vtt",
    "text/calendar": "ics",
}
_OTHERS = {
    "application/atom+xml": "atom",
    "application/epub+zip": "epub",
    "application/geo+json": "geojson",
    "application/gzip": "gz tgz",
    "application/java-archive": "jar",
    "application/json": "json map",
    "application/ld+json": "jsonld",
    "application/manifest+json": "webmanifest",
    "application/msword": "doc",
    "application/pdf": "pdf",
    "application/pgp-signature": "asc sig",
    "application/rss+xml": "rss",
    "application/rtf": "rtf",
    "application/vnd.apple.mpegurl": "m3u8",
    "application/vnd.ms-excel": "xls",
    "application/vnd.ms-powerpoint": "ppt",
    "application/vnd.oasis.opendocument.presentation": "odp",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.sqlite3": "sqlite sqlite3",
    "application/wasm": "wasm",
    "application/x-7z-compressed": "7z",
    "application/x-bzip2": "bz2",
    "application/x-tar": "tar",
    "application/x-xz": "xz",
    "application/xhtml+xml": "xhtml",
    "application/xml": "xml xsl xsd",
    "application/yaml": "yaml yml",
    "application/zip": "zip whl",
    "application/zstd": "zst",
    "audio/aac": "aac",
    "audio/flac": "flac",
    "audio/mp4": "m4a",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg oga opus",
    "audio/wav": "wav",
    "font/otf": "otf",
    "font/ttf": "ttf",
    "font/woff": "woff",
    "font/woff2": "woff2",
    "image/apng": "apng",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/jpeg": "jpg jpeg",
    "image/jxl": "jxl",
    "image/png": "png",
    "image/svg+xml": "svg",
    "image/tiff": "tif tiff",
    "image/vnd.microsoft.icon": "ico",
    "image/webp": "webp",
    "model/gltf+json": "gltf",
    "model/gltf-binary": "glb",
    "video/mp2t": "ts",
    "video/mp4": "mp4 m4v",
    "video/mpeg": "mpeg mpg",
    "video/ogg": "ogv",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
}
_TYPES = {
    extension: name
    for name, extensions in ({name + _CHARSET: _TEXT[name] for name in _TEXT} | _OTHERS).items()
    for extension in extensions.split()
}


def media_type(name: str) -> str:
    """Return the value of the Content-Type field for a file.

    Args:
        name: the name of the file. Only the text after its last dot counts, without regard to letter case.

    Returns:
        The media type, for text with ``charset=utf-8``; ``application/octet-stream`` if it is not known.
    """
    return _TYPES.get(name.rpartition(".")[2].lower(), UNKNOWN) if "." in name else UNKNOWN
