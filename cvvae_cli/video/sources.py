"""Find videos, frame folders and photos in a folder."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path

from cvvae_cli.video.reader import PICTURE_SUFFIXES

VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".ogv", ".avi", ".flv", ".wmv"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".mxf", ".nut", ".y4m", ".gif"),
}
MIN_FRAME_FOLDER = 8  # a folder with fewer pictures is a folder of photos


@dataclass(frozen=True)
class Sources:
    """Paths, sorted so that an order or a seed means the same everywhere."""

    videos: tuple[Path, ...]  # files and frame folders
    photos: tuple[Path, ...]


def search_folder(folder: Path, exclude: tuple[str, ...] = ()) -> Sources:
    """Search recursively. A folder of pictures named by number is a frame folder (as in DAVIS).

    `exclude` are patterns of names that are passed over.
    """
    entries = [e for e in sorted(folder.iterdir()) if not any(fnmatch.fnmatch(e.name, p) for p in exclude)]
    pictures = [e for e in entries if e.suffix.lower() in PICTURE_SUFFIXES]
    is_clip = len(pictures) >= MIN_FRAME_FOLDER and all(e.stem.isdigit() for e in pictures)
    videos = [folder] if is_clip else []
    photos = [] if is_clip else pictures
    videos += [e for e in entries if e.suffix.lower() in VIDEO_SUFFIXES and e.is_file()]
    for entry in entries:
        if entry.is_dir():
            inside = search_folder(entry, exclude)
            videos += inside.videos
            photos += inside.photos
    return Sources(tuple(videos), tuple(photos))
