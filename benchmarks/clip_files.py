"""Clips as files, for `serving.py --clips` on a machine that can't encode them: H.264 in MP4.

    python benchmarks/clip_files.py [FOLDER] [--seconds 60] [--count 1]

Writes clips of 640×360 at 30 frames a second, a key frame every 60, about 2 MB a minute. An FFmpeg
program (`imageio-ffmpeg`) draws and encodes them, so they are easier than filmed ones.
"""

from __future__ import annotations

import argparse
import itertools
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "results" / "clips"
HEIGHT, WIDTH, RATE, KEY_EVERY = 360, 640, 30, 60
BITS_A_SECOND = 250_000


class ClipFiles:
    """Files that no cache has seen: each time other bytes, of which the frames are the same.

    Behind a clip comes a box ``free`` with a number (ISO/IEC 14496-12, 8.1.2), which no reader
    looks into. So a clip costs as much as one that is new altogether, and a few files are enough.
    """

    def __init__(self, clips: Sequence[bytes]) -> None:
        assert clips, "there is no clip"
        self._clips = itertools.cycle(clips)
        self._numbers = itertools.count()

    @classmethod
    def named(cls, folder: str, seconds: float) -> ClipFiles:
        """The MP4 files of a folder, or one clip of so many seconds that is drawn now ("").

        Raises:
            SystemExit: the folder has none.
        """
        if not folder:
            return cls([drawn(seconds)])
        files = sorted(Path(folder).glob("*.mp4"))
        if not files:
            raise SystemExit(f"{folder} has no file that ends in .mp4")
        return cls([file.read_bytes() for file in files])

    def new(self) -> bytes:
        """The next file."""
        return next(self._clips) + struct.pack(">I4sQ", 16, b"free", next(self._numbers))


def drawn(seconds: float, first: float = 0) -> bytes:
    """A clip that begins ``first`` seconds into what is drawn."""
    output = ("-ss", str(first), "-b:v", str(BITS_A_SECOND))
    return encoded(HEIGHT, WIDTH, RATE, first + seconds, KEY_EVERY, *output)


def encoded(
    height: int, width: int, rate: int, seconds: float, key_every: int, *output: str
) -> bytes:
    """H.264 with B-frames in an MP4 file; ``output`` are more of the program's options."""
    source = f"testsrc2=size={width}x{height}:rate={rate}:duration={seconds}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "clip.mp4")
        command = [_program(), "-v", "error", "-f", "lavfi", "-i", source, *output]
        command += ["-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-pix_fmt", "yuv420p"]
        command += ["-g", str(key_every), "-keyint_min", str(key_every)]
        command += ["-sc_threshold", "0", str(file)]
        subprocess.run(command, check=True)
        return file.read_bytes()


def _program() -> str:
    """Where the FFmpeg program is; a machine that is given files has none."""
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def main() -> None:
    """Writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--count", type=int, default=1)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    print("| clip | MB |\n| --- | ---: |")
    for number in range(given.count):
        file = given.folder / f"{number}.mp4"
        file.write_bytes(drawn(given.seconds, number * given.seconds))
        print(f"| {file} | {file.stat().st_size / 1e6:.2f} |", flush=True)


if __name__ == "__main__":
    main()
