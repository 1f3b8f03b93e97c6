"""The main example: a real video, a real ffmpeg, and a Ctrl-C half way."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES, Run
from tests.support.census import Census

imageio_ffmpeg = pytest.importorskip(
    "imageio_ffmpeg", reason="the example needs imageio-ffmpeg, which is in the extra 'examples'"
)

pytestmark = pytest.mark.slow


def frame_sizes(video: Path) -> list[tuple[str, str]]:
    """Width and height of each decoded frame: a count that shares nothing with the example's own."""
    report = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", video, "-map", "0:v", "-vf", "showinfo", "-f", "null", "-"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    ).stderr.decode()
    return re.findall(r"showinfo.* s:(\d+)x(\d+) ", report)


def sound(video: Path, *encoded: str | Path) -> bytes:
    """The digest of the decoded sound; with `encoded` that of what one ffmpeg makes of it."""
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error"]
    if encoded:
        subprocess.run([*ffmpeg, "-i", video, "-map", "0:a", *encoded], stdin=subprocess.DEVNULL, check=True)
        video = Path(encoded[-1])
    command = [*ffmpeg, "-i", video, "-map", "0:a", "-f", "md5", "-"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def striped_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds without sound, with a keyframe in each half second, at a rate that is no whole number."""
    video = tmp_path_factory.mktemp("video") / "striped.mkv"
    source = "testsrc2=size=320x180:rate=30000/1001:duration=6"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source, "-g", "15", video]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    return video


def test_the_clip_in_four_segments_on_two_slots(run_example: Run, tmp_path: Path) -> None:
    ran = run_example("transcode.py", "--slots", "2", "--repeat", "1")
    assert ran.returncode == 0, ran.stderr
    output = tmp_path / "bigbuckbunny.480p.mp4"
    assert frame_sizes(output) == [("854", "480")] * 132
    assert re.search(r"4 segments: 100%.*132/132", ran.stderr)
    assert re.search(r"runners +1 \(runner \d+ on .*\), 2 slots each", ran.stdout)
    assert re.search(r"calls +5,", ran.stdout)  # four segments, and the sound
    assert re.search(r"wall time .* one ffmpeg on one processor", ran.stdout)
    assert f"{output}: 132 frames, 5.28 s, as the original has" in ran.stdout
    clip = EXAMPLES / "media" / "bigbuckbunny.mp4"
    assert sound(output) == sound(clip, "-c:a", "aac", tmp_path / "expected.mp4")


def test_the_clip_is_repeated_without_gaps(run_example: Run, tmp_path: Path) -> None:
    ran = run_example("transcode.py", "--slots", "2", "--repeat", "2", "--no-comparison", "--quiet")
    assert ran.returncode == 0, ran.stderr
    output = tmp_path / "bigbuckbunny.480p.mp4"
    assert frame_sizes(output) == [("854", "480")] * 264
    assert ran.stdout.startswith("bigbuckbunny.mp4, 2 times: 264 frames, 10.56 s\n")
    assert f"{output}: 264 frames, 10.56 s, as the original has" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "repeated"),
    [([], 8), (["--repeat", "3"], 3), ([__file__], 1), (["--backend", "ssh", "--hosts", "a"], 1)],
)
def test_only_the_clip_on_this_machine_is_repeated(arguments: list[str], repeated: int) -> None:
    options = runpy.run_path(str(EXAMPLES / "transcode.py"))["parse"](arguments)
    assert options.repeat == repeated


def test_two_runners_and_a_video_that_is_cut_at_its_keyframes(
    run_example: Run, tmp_path: Path, striped_video: Path
) -> None:
    result = tmp_path / "result.mp4"
    arguments = ["--runners", "2", "--slots", "1", "--segments", "6", "--quiet", "--no-comparison"]
    ran = run_example("transcode.py", str(striped_video), *arguments, "--output", str(result))
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert frame_sizes(result) == [("854", "480")] * 180
    assert re.search(r"runners +2 ", ran.stdout)


def test_who_is_not_on_fly_is_told_what_is_missing(
    run_example: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("FLY_")]:
        monkeypatch.delenv(name)
    ran = run_example("transcode.py", "--backend", "fly")
    assert ran.returncode == 1
    said = ran.stderr.splitlines()[-1]
    assert said.startswith("transcode: --backend fly: the Fly app for the runners is not set.")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--backend", "ssh"], ["--hosts", "a"], ["--backend", "ssh", "--hosts", "a,,b"]])
def test_hosts_and_ssh_go_together(run_example: Run, arguments: list[str]) -> None:
    ran = run_example("transcode.py", *arguments)
    assert ran.returncode == 2
    assert "usage" in ran.stderr


def test_what_is_no_video_is_said_so(run_example: Run, tmp_path: Path) -> None:
    ran = run_example("transcode.py", __file__)
    assert ran.returncode == 1
    assert ran.stderr.startswith("transcode: ffmpeg failed")
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_half_way_leaves_no_ffmpeg_no_runner_and_no_file(census: Census, tmp_path: Path) -> None:
    """The first segment is transcoded; the ffmpeg of each other one would never end, so that none ends by itself."""
    endless = tmp_path / "ffmpeg"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    endless.write_text(
        "#!/bin/sh\n"
        'case "$*" in *start_frame=0:*) ;; *start_frame=*) exec sleep infinity ;; esac\n'
        f'exec "{real}" "$@"\n'
    )
    endless.chmod(0o755)
    here = tmp_path / "here"
    here.mkdir()
    before = census.look()
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "transcode.py"), "--slots", "2", "--segments", "16", "--repeat", "1"],
        cwd=here,
        env={**os.environ, "IMAGEIO_FFMPEG_EXE": str(endless)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        process_group=0,
    )
    assert process.stderr is not None
    with process, process.stderr as stderr:
        seen = b""
        # The bar says when the first segment is done; two others are under way then, or about to be.
        while not re.search(rb" [1-9]\d*/132", seen):
            chunk = os.read(stderr.fileno(), 4096)
            assert chunk, seen
            seen += chunk
        # What a terminal does: the whole foreground process group gets it.
        os.killpg(process.pid, signal.SIGINT)
        seen += stderr.read()
    assert process.returncode == 130
    assert b"interrupted: nothing is left running" in seen
    assert b"Traceback" not in seen
    left = census.left_since(before, patience=2)
    assert not left, census.describe(left)
    assert list(here.iterdir()) == []
