"""From a clip's file to the sizes that a tower takes: the video kind's reader against OpenCV.

    python benchmarks/clips.py [--quick] [--repeats 3] [--threads 1,2] [--json FILE]

Both choose the same frames and resize each as Qwen2.5-VL does. OpenCV grabs frames forward and
retrieves those that are wanted, as engines do that use it; it is told how many there are, while
ours counts them. Frames must be identical to the bit. The clips are drawn and encoded by an FFmpeg
program (`imageio-ffmpeg`), so they are easier than filmed ones.

Printed, for each number of decoder threads: seconds of each (medians of the repeats, in turn),
OpenCV's over ours, packets that ours decoded, and what opening alone takes.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from clip_files import encoded

from sensorium_media_image.resize import Pixels, resize
from sensorium_media_image.smart_resize import smart_resize
from sensorium_media_video.av_reader import AvClip, open_av
from sensorium_media_video.formats import read_format
from sensorium_media_video.options import VideoOptions
from sensorium_media_video.sampling import onevision

HEIGHT, WIDTH, RATE = 1080, 1920, 30
#: A frame's bounds in qwen-vl-utils, in pixels.
MIN_PIXELS, MAX_PIXELS = 128 * 28**2, 768 * 28**2


@dataclass(frozen=True, slots=True)
class Job:
    """A clip and how many of its frames are wanted."""

    name: str
    seconds: int
    key_every: int
    num_wanted: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One job with one number of threads; seconds are medians."""

    name: str
    num_bytes: int
    threads: int
    ours_s: float
    opening_s: float
    opencv_s: float
    ratio: float
    num_decoded: int
    num_frames: int


JOBS = (
    Job("16 of 60 s, key frames every 60", 60, 60, 16),
    Job("16 of 60 s, key frames every 250", 60, 250, 16),
    Job("64 of 10 s, key frames every 60", 10, 60, 64),
)
QUICK = (Job("4 of 2 s, key frames every 30", 2, 30, 4),)


def encode(job: Job) -> bytes:
    """The job's clip."""
    return encoded(HEIGHT, WIDTH, RATE, job.seconds, job.key_every)


def resized(frame: Pixels) -> torch.Tensor:
    """The frame as the tower's size wants it."""
    given_height, given_width, _ = frame.shape
    height, width = smart_resize(given_height, given_width, 28, MIN_PIXELS, MAX_PIXELS)
    return resize(frame, height, width)


def ours(data: bytes, num_wanted: int, threads: int) -> tuple[list[torch.Tensor], float, int]:
    """The frames, the seconds that opening took, and packets decoded."""
    begun_s = time.perf_counter()
    clip, facts, _ = open_av(data, read_format(data), VideoOptions(decoder_threads=threads))
    opening_s = time.perf_counter() - begun_s
    chosen = onevision(facts.num_frames, facts.fps, num_frames_wanted=num_wanted)
    frames = [resized(frame) for frame in clip.frames(chosen)]
    assert isinstance(clip, AvClip)
    return frames, opening_s, clip.num_decoded


def opencv(data: bytes, num_frames: int, num_wanted: int, threads: int) -> list[torch.Tensor]:
    """The frames, by grabbing all up to the last."""
    file: Any = io.BytesIO(data)  # OpenCV's types don't know that it takes files
    capture = cv2.VideoCapture(file, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    frames, place = [], -1
    for index in onevision(num_frames, RATE, num_frames_wanted=num_wanted):
        while place < index:
            capture.grab()
            place += 1
        picture = np.asarray(capture.retrieve()[1])
        frames.append(resized(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8)))
    capture.release()
    return frames


def measure(job: Job, data: bytes, threads: int, repeats: int) -> Figures:
    """Both in turn, after one that isn't counted."""
    num_frames = job.seconds * RATE
    found: list[tuple[float, float, float]] = []
    for _ in range(repeats + 1):
        begun_s = time.perf_counter()
        frames, opening_s, num_decoded = ours(data, job.num_wanted, threads)
        ours_s = time.perf_counter() - begun_s
        begun_s = time.perf_counter()
        theirs = opencv(data, num_frames, job.num_wanted, threads)
        found.append((ours_s, opening_s, time.perf_counter() - begun_s))
        assert len(frames) == len(theirs) == job.num_wanted
        assert all(map(torch.equal, frames, theirs)), "the readers give different frames"
    ours_s, opening_s, opencv_s = map(statistics.median, zip(*found[1:], strict=True))
    return Figures(
        name=job.name,
        num_bytes=len(data),
        threads=threads,
        ours_s=ours_s,
        opening_s=opening_s,
        opencv_s=opencv_s,
        ratio=statistics.median(theirs_s / own_s for own_s, _, theirs_s in found[1:]),
        num_decoded=num_decoded,
        num_frames=num_frames,
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    print("| clip | MB | threads | ours, s | of it opening | OpenCV, s | ratio | decoded |")
    print("| --- |" + " ---: |" * 7)
    for job in QUICK if arguments.quick else JOBS:
        data = encode(job)
        for threads in map(int, arguments.threads.split(",")):
            figures = measure(job, data, threads, arguments.repeats)
            results.append(figures)
            print(
                f"| {figures.name} | {figures.num_bytes / 1e6:.1f} | {threads} | "
                f"{figures.ours_s:.3f} | {figures.opening_s:.3f} | {figures.opencv_s:.3f} | "
                f"{figures.ratio:.2f} | {figures.num_decoded} of {figures.num_frames} |",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(figures) for figures in results], indent=1))


if __name__ == "__main__":
    main()
