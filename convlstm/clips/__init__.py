"""Clips in (arrays, videos, GIFs, folders of frames) and out (GIFs, MP4s), as numpy arrays."""

from convlstm.clips.arrays import ArrangedArray, is_array, open_clips
from convlstm.clips.media import check_clip, write_clip
from convlstm.clips.pictures import comparison
from convlstm.clips.pixels import fit, two_values, unit_range
from convlstm.clips.reading import find_clips, stream_clips
from convlstm.clips.sources import ClipSource, read_clips

__all__ = [
    "ArrangedArray",
    "ClipSource",
    "check_clip",
    "comparison",
    "find_clips",
    "fit",
    "is_array",
    "open_clips",
    "read_clips",
    "stream_clips",
    "two_values",
    "unit_range",
    "write_clip",
]
