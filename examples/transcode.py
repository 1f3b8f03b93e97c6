"""Transcode a video to 480p on runners.

    python examples/transcode.py [VIDEO] [--runners 1] [--slots 2] [--segments 8] [--repeat 8] [--output FILE]
    python examples/transcode.py [VIDEO] --backend ssh --hosts gpu1,user@10.0.0.7:2222 [--install-ffmpeg]
    python examples/transcode.py [VIDEO] --backend slurm --runners 4 [--sbatch partition=short time=10]
    python examples/transcode.py [VIDEO] --backend dask --cluster 10.0.0.7:8786 --runners 4
    python examples/transcode.py [VIDEO] --backend ray --cluster auto --runners 4
    python examples/transcode.py [VIDEO] --backend kubernetes --runners 4 --pod image=registry.example/app:1
    python examples/transcode.py [VIDEO] --backend ec2 --runners 4 --ec2 image=ami-... [instance_types=c7i.large]
    python examples/transcode.py [VIDEO] --backend fly --runners 4 [--install-ffmpeg]    (on Fly: docs/fly.md)

ffmpeg cuts the video at keyframes, without decoding it. Each call takes one segment, as bytes, runs its own ffmpeg on
it, and returns bytes, so a runner needs no shared disk. One more call encodes the sound. The program joins the segments
and the sound. At the end it decodes the result once, and compares its frames and its duration with the original's. The
clip that comes with the program lasts 5 s, so on this machine it is shown 8 times in a row.

The last lines compare the wall time with that of one ffmpeg on one processor. (ffmpeg decodes, scales and encodes in a
thread each, so even with `-threads 1` it uses more than one processor, if it may.)

A host, or the image of a machine, needs an ffmpeg, or a Python that can install one (`--install-ffmpeg`). The pool
sends this script and its imports.

Ctrl-C stops the calls and their ffmpeg processes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dragonfly_executor import Backend, DragonflyExecutor, LocalBackend, Parent

HEIGHT = 480
DEFAULT_VIDEO = Path(__file__).parent / "media" / "bigbuckbunny.mp4"
REPEATS = 8  # of the clip: so long a video shows what the second processor is good for
BACKENDS = ("local", "ssh", "slurm", "dask", "ray", "kubernetes", "ec2", "fly")
# One thread for each ffmpeg: calls run in parallel, not threads of ffmpeg.
ENCODE = ["-c:v", "libx264", "-preset", "medium", "-crf", "23", "-threads", "1", "-filter_threads", "1"]
ENCODE_SOUND = ["-c:a", "aac"]
# Containers that can be read from a pipe and written to one. Pieces are NUT, which holds any codec with its timestamps
# as they are; results are MP4 in fragments, which says how long the last frame lasts, so that joins leave no gap.
PIECE = ["-f", "nut"]
PART = ["-f", "mp4", "-movflags", "frag_keyframe+delay_moov"]


@dataclass(frozen=True)
class Video:
    """The frames that a decoder finds in a video, and their duration."""

    frames: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.frames} frames, {self.seconds:.2f} s"


@dataclass(frozen=True)
class Segment:
    """The frames from `first` to before `last`, and the piece of the video that holds them."""

    piece: Path
    first: int
    last: int


@dataclass(frozen=True)
class Transcoded:
    """The result of a call. Sound has no frames."""

    data: bytes
    frames: int
    seconds: float
    runner: str


class Unusable(Exception):
    """An error that is shown to the user as one line."""


def transcode(piece: bytes, first: int, last: int) -> Transcoded:
    """Scale the frames from `first` to `last` to 480p."""
    started = time.monotonic()
    frames = f"trim=start_frame={first}:end_frame={last},setpts=PTS-STARTPTS,scale=-2:{HEIGHT}"
    data = ffmpeg(
        *["-threads", "1", *PIECE, "-i", "pipe:0", "-map", "0:v:0", "-vf", frames, "-fps_mode", "passthrough"],
        *[*ENCODE, *PART, "pipe:1"],
        data=piece,
    )
    return Transcoded(data, last - first, time.monotonic() - started, this_runner())


def transcode_sound(sound: bytes) -> Transcoded:
    """Encode the sound of the whole video."""
    started = time.monotonic()
    data = ffmpeg("-threads", "1", *PIECE, "-i", "pipe:0", *ENCODE_SOUND, *PART, "pipe:1", data=sound)
    return Transcoded(data, 0, time.monotonic() - started, this_runner())


def this_runner() -> str:
    """Return the name of the runner that this call runs on."""
    parent = Parent.get()
    return f"runner {parent.runner_id} on {os.uname().nodename}" if parent else "no runner"


def ffmpeg(*arguments: str, data: bytes | None = None) -> bytes:
    """Run ffmpeg and return what it wrote to its stdout; RuntimeError with its last output if it fails."""
    command = [ffmpeg_path(), "-hide_banner", "-nostats", "-v", "error", "-y"]
    command += [*arguments] if data is not None else ["-nostdin", *arguments]
    ran = subprocess.run(command, input=data, capture_output=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"ffmpeg failed with status {ran.returncode}: {ran.stderr.decode(errors='replace')[-2000:]}")
    return ran.stdout


def ffmpeg_path() -> str:
    """Return the binary of the package imageio-ffmpeg, or the machine's own."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        found = shutil.which("ffmpeg")
        if found is None:
            raise Unusable("there is no ffmpeg: pip install imageio-ffmpeg") from None
        return found
    return str(get_ffmpeg_exe())


def measure(video: Path, *, decode: bool = True) -> Video:
    """Return the number of frames and the duration, as ffmpeg counts them: by decoded frames, or by packets."""
    copied = [] if decode else ["-c", "copy"]
    report = ffmpeg("-i", str(video), "-map", "0:v:0", *copied, "-progress", "pipe:1", "-f", "null", os.devnull)
    # The report consists of blocks of key=value. The last block is the final one.
    values = dict(line.split("=", 1) for line in report.decode().splitlines() if "=" in line)
    return Video(int(values["frame"]), int(values["out_time_us"]) / 1e6)


def repeat(video: Path, times: int, folder: Path) -> Path:
    """Return a video that shows this one `times` times in a row, without decoding it."""
    if times == 1:
        return video
    # The sound of the clip is longer than its pictures. If both were repeated together, there would be gaps.
    pictures, repeated = folder / "pictures.mkv", folder / f"{video.stem}-{times}-times.mkv"
    ffmpeg("-i", str(video), "-map", "0:v:0", "-c", "copy", str(pictures))
    again = ["-stream_loop", str(times - 1)]
    ffmpeg(
        *[*again, "-i", str(pictures), *again, "-i", str(video), "-map", "0:v:0", "-map", "1:a:0?"],
        *["-c", "copy", "-shortest", str(repeated)],
    )
    return repeated


def cut(video: Path, segments: int, folder: Path) -> list[Segment]:
    """Cut the video into about `segments` segments of about the same length.

    A video can be cut without decoding it only where a keyframe stands. Where it has too few of them, several segments
    share a piece, and each takes its own frames out of it.
    """
    source = measure(video, decode=False)
    length = max(source.seconds / segments, 0.001)
    ffmpeg(
        *["-fflags", "+genpts", "-i", str(video), "-map", "0:v:0", "-c", "copy"],
        *["-f", "segment", "-segment_time", f"{length:.6f}"],
        *["-reset_timestamps", "1", "-segment_format", "nut", str(folder / "piece-%06d.nut")],
    )
    planned = []
    for piece in sorted(folder.glob("piece-*.nut")):
        frames = measure(piece, decode=False).frames
        parts = max(1, round(frames * segments / source.frames))
        borders = [frames * part // parts for part in range(parts + 1)]
        planned += [Segment(piece, first, last) for first, last in pairwise(borders)]
    return planned


def sound_of(video: Path) -> bytes | None:
    """Return the sound of the video as it is; None if it has none."""
    try:
        return ffmpeg("-i", str(video), "-map", "0:a:0", "-c", "copy", *PIECE, "pipe:1")
    except RuntimeError as error:
        if "matches no streams" in str(error):
            return None
        raise


def join(parts: Sequence[Path], sound: Path | None, folder: Path) -> Path:
    """Join the segments, and add the sound, if there is any."""
    listing = folder / "parts.txt"
    listing.write_text("".join(f"file '{part.name}'\n" for part in parts))
    whole = folder / "whole.mp4"
    added = ["-i", str(sound), "-map", "0:v:0", "-map", "1:a:0"] if sound else []
    ffmpeg("-f", "concat", "-i", str(listing), *added, "-c", "copy", str(whole))
    return whole


def check(result: Video, source: Video) -> None:
    """Raise Unusable unless the result has every frame of the source, and its duration, give or take one frame."""
    frame = source.seconds / source.frames
    if result.frames != source.frames or abs(result.seconds - source.seconds) > frame:
        raise Unusable(
            f"the result has {result}, and the original {source}. Frames that need another group of pictures than their"
            " own (an open GOP) are lost where the video is cut; --segments 1 cuts nowhere."
        )


def one_process(video: Path, folder: Path) -> float:
    """Return the seconds that one ffmpeg on one processor takes for the whole video."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # the child inherits it
    try:
        started = time.monotonic()
        ffmpeg(
            *["-threads", "1", "-i", str(video), "-map", "0:v:0", "-map", "0:a:0?", "-vf", f"scale=-2:{HEIGHT}"],
            *["-fps_mode", "passthrough", *ENCODE, *ENCODE_SOUND, str(folder / "one-process.mp4")],
        )
        return time.monotonic() - started
    finally:
        os.sched_setaffinity(0, allowed)


def show(outcome: str, pool: Mapping[str, object]) -> None:
    """Say on stderr, in place of the progress bar, how many runners there are. The next bar is drawn below."""
    # Not tqdm.write: a Ctrl-C while the bar is drawn leaves tqdm's lock taken, and this thread of the pool would wait.
    text = f"runners: {pool['count']} ({outcome})"
    print("\r" + text.ljust(shutil.get_terminal_size().columns - 1), file=sys.stderr)


def hooks(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the executor that show when runners come and go."""
    if options.quiet:
        return {}
    return {
        "on_grow_end": lambda outcome, pool: show(
            "one is up" if outcome == "ok" else f"a boot failed: {outcome}", pool
        ),
        "on_shrink": lambda pool: show("one has stopped", pool),
    }


def open_executor(options: argparse.Namespace) -> DragonflyExecutor:
    """Make the executor with its backend. No other part of this program knows where its calls run."""
    pool = {"max": options.runners, "max_concurrency": options.slots, **hooks(options)}
    return DragonflyExecutor(backend=make_backend(options), **pool)


def make_backend(options: argparse.Namespace) -> Backend:
    """Make the backend."""
    match options.backend:
        case "local":
            return LocalBackend()
        case "ssh":
            # Imported here, because hosts import this script too, and have no paramiko.
            from dragonfly_executor import SSHBackend

            requirements = ["imageio-ffmpeg"] if options.install_ffmpeg else None
            return SSHBackend(options.hosts, requirements=requirements)
        case "slurm":
            from dragonfly_executor import SlurmBackend

            try:
                return SlurmBackend.from_text(**{"cpus_per_task": str(options.slots), **options.sbatch})
            except (TypeError, ValueError) as error:
                raise Unusable(f"--sbatch: {error}") from None
        case "dask":
            from dragonfly_executor import DaskBackend

            return DaskBackend(options.cluster)
        case "ray":
            from dragonfly_executor import RayBackend

            return RayBackend(options.cluster, num_cpus=options.slots)
        case "kubernetes":
            from dragonfly_executor import KubernetesBackend

            try:
                return KubernetesBackend.from_text(**{"cpu": str(options.slots), **options.pod})
            except (TypeError, ValueError) as error:
                raise Unusable(f"--pod: {error}") from None
        case "ec2":
            from dragonfly_executor import EC2Backend

            installed = {"requirements": "imageio-ffmpeg"} if options.install_ffmpeg else {}
            try:
                return EC2Backend.from_text(**installed, **options.ec2)
            except (TypeError, ValueError) as error:
                raise Unusable(f"--ec2: {error}") from None
        case _:
            from dragonfly_executor import FlyBackend

            requirements = ["imageio-ffmpeg"] if options.install_ffmpeg else None
            try:
                # Machines have this machine's image, which may not contain this script.
                return FlyBackend(sync="auto", requirements=requirements)
            except ValueError as error:
                raise Unusable(f"--backend fly: {error}") from None


def transcode_all(executor: DragonflyExecutor, segments: Sequence[Segment], ahead: int) -> Iterator[Transcoded]:
    """Yield the results in order. At most `ahead` segments are in memory or in flight at a time."""
    pieces = (segment.piece.read_bytes() for segment in segments)
    firsts, lasts = (segment.first for segment in segments), (segment.last for segment in segments)
    return executor.map(transcode, pieces, firsts, lasts, buffersize=ahead)


def run(options: argparse.Namespace, folder: Path) -> None:
    """Cut, transcode, join and check the video."""
    from tqdm import tqdm

    video = repeat(options.video, options.repeat, folder)
    source = measure(video)
    print(f"{options.video.name}{f', {options.repeat} times' if options.repeat > 1 else ''}: {source}")
    started = time.monotonic()
    parts, done = [], []

    def keep(transcoded: Transcoded, name: str) -> Path:
        done.append((transcoded.runner, transcoded.seconds))
        part = folder / name
        part.write_bytes(transcoded.data)
        return part

    with (
        open_executor(options) as executor,
        tqdm(total=source.frames, unit=" frames", desc="cutting", disable=options.quiet) as bar,
    ):
        # The sound first: it is one long call, beside which the video is cut.
        sound = sound_of(video)
        future = None if sound is None else executor.submit(transcode_sound, sound)
        segments = cut(video, options.segments, folder)
        bar.set_description(f"{len(segments)} segments")
        for number, transcoded in enumerate(transcode_all(executor, segments, 2 * options.runners * options.slots)):
            parts.append(keep(transcoded, f"part-{number:06d}.mp4"))
            bar.update(transcoded.frames)
        whole = join(parts, keep(future.result(), "sound.mp4") if future else None, folder)
    wall = time.monotonic() - started
    result = measure(whole)
    check(result, source)
    shutil.move(whole, options.output)
    runners = sorted({runner for runner, _ in done})
    print(f"runners     {len(runners)} ({', '.join(runners)}), {options.slots} slots each")
    print(f"calls       {len(done)}, {sum(seconds for _, seconds in done):.1f} s of work")
    stats = executor.pool.stats()
    if stats.cost is not None:
        print(f"cost        about {stats.cost:.4f} USD, an estimate by prices as of {stats.prices_as_of}")
    print(f"wall time   {wall:.1f} s", end="\n" if options.no_comparison else "", flush=True)
    if not options.no_comparison:
        alone = one_process(video, folder)
        print(f"; one ffmpeg on one processor {alone:.1f} s, {alone / wall:.1f} times as long")
    print(f"result      {options.output}: {result}, as the original has")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and fill in the options that depend on others."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("video", nargs="?", type=Path, help="default: a clip of Big Buck Bunny")
    parser.add_argument("--backend", choices=BACKENDS, default="local", help="where the runners are (default: local)")
    parser.add_argument("--hosts", type=_hosts, default=[], help="for --backend ssh: hosts, with commas between them")
    parser.add_argument(
        "--sbatch", nargs="+", default=[], metavar="NAME=VALUE", help="for --backend slurm: options of the jobs"
    )
    parser.add_argument("--cluster", metavar="ADDRESS", help="for --backend dask and ray: the cluster's address")
    parser.add_argument(
        "--pod", nargs="+", default=[], metavar="NAME=VALUE", help="for --backend kubernetes: settings of the Pods"
    )
    parser.add_argument(
        "--ec2", nargs="+", default=[], metavar="NAME=VALUE", help="for --backend ec2: arguments of EC2Backend"
    )
    parser.add_argument(
        "--install-ffmpeg", action="store_true", help="not for slurm and kubernetes: have pip install one there"
    )
    parser.add_argument("--runners", type=_at_least_one, help="runners at most (default: 1, or one for each host)")
    parser.add_argument(
        "--slots", type=_at_least_one, default=os.cpu_count() or 1, help="calls at once on a runner (default: CPUs)"
    )
    parser.add_argument("--segments", type=_at_least_one, help="default: two for each slot, four if it is repeated")
    parser.add_argument(
        "--repeat",
        type=_at_least_one,
        metavar="TIMES",
        help=f"how often to show the video in a row (default: {REPEATS} for the clip on this machine, otherwise 1)",
    )
    parser.add_argument("--output", type=Path, help=f"default: the video's name with .{HEIGHT}p.mp4, here")
    parser.add_argument("--no-comparison", action="store_true", help="leave out the run in one process")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    if (options.backend == "ssh") != bool(options.hosts):
        parser.error("--backend ssh goes with --hosts")
    if (options.backend in ("dask", "ray")) != bool(options.cluster):
        parser.error("--backend dask and --backend ray go with --cluster")
    options.sbatch = _settings("--sbatch", options.sbatch, parser)
    options.ec2 = _settings("--ec2", options.ec2, parser)
    options.pod = _settings("--pod", options.pod, parser)
    options.runners = options.runners or len(options.hosts) or 1
    is_short = options.video is None and options.backend == "local"
    options.video = options.video or DEFAULT_VIDEO
    options.repeat = options.repeat or (REPEATS if is_short else 1)
    options.segments = options.segments or (2 if options.repeat == 1 else 4) * options.slots * options.runners
    options.output = (options.output or Path(f"{options.video.stem}.{HEIGHT}p.mp4")).resolve()
    if not options.video.is_file():
        parser.error(f"no such video: {options.video}")
    return options


def _hosts(text: str) -> list[str]:
    hosts = [host.strip() for host in text.split(",")]
    if not all(hosts):
        raise argparse.ArgumentTypeError(f"{text!r} names no host between two commas")
    return hosts


def _settings(option: str, texts: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if not all(name.isidentifier() and equals for name, equals, _ in pairs):
        parser.error(f"{option} takes NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Return its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    options = parse(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="transcode-") as folder:
            run(options, Path(folder))
    except KeyboardInterrupt:
        print("interrupted: nothing is left running", file=sys.stderr)
        return 130
    except (Unusable, OSError, RuntimeError, ImportError) as error:
        print(f"transcode: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
