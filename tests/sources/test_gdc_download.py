"""Slides of the GDC arrive whole: over a server with faults, after kills, and only those that are missing."""

import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from histocae.errors import DataError, FetchError
from histocae.sources.gdc import client, download, fetching, remote
from histocae.sources.gdc.remote import File, Patience, Server
from histocae.sources.hashes import Hashes
from histocae.workers import processes
from support import make_data
from support.gdc_server import BODY_FAULTS, GdcServer, Remote
from support.workspace import ALL_STAGES

IMPATIENT = Patience(connect=5, silence=0.3, window=0.3, slowest=50_000, first=0.001, longest=0.02)
TOKEN = "s3cret-Token_of.mine"  # noqa: S105


def a_file(one: Remote) -> File:
    return File(one.name, one.file_id, one.md5, len(one.data), one.access)


def blob(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def slides(count: int, size: int = 100_000, **more: object) -> list[Remote]:
    return [Remote(f"TCGA-AA-{i:04d}-01A-01-TS1", blob(i, size), **more) for i in range(count)]


def asked(server: GdcServer, **more: object) -> Server:
    return Server(server.url, **{"streams": 4, "tries": 10, "patience": IMPATIENT, **more})


def fetch_all(server: GdcServer, folder: Path, **more: object) -> download.Tally:
    hashes = Hashes(folder / "hashes.json", "md5")
    files = [a_file(one) for one in server.slides]
    tally = download.fetch_all(asked(server, **more), files, folder / "slides", hashes)
    hashes.save()
    return tally


def fetch(server: GdcServer, folder: Path, **more: object) -> fetching.Meter:
    meter = fetching.Meter()
    fetching.fetch(asked(server, **more), a_file(server.slides[0]), folder, meter)
    return meter


def whole(server: GdcServer, folder: Path) -> bool:
    return all((folder / one.name).read_bytes() == one.data for one in server.slides)


def part_of(folder: Path, one: Remote) -> Path:
    return fetching.part_of(folder, a_file(one))


# -- faults


def test_a_thousand_downloads_with_a_fault_in_every_fifth(tmp_path, shared_or_none, capsys):
    """Run with -s to read the count of wasted bytes."""
    blobs = [blob(i, random.Random(i).randrange(10_000, 300_000)) for i in range(18)]
    small = make_data.write_slide(tmp_path / "small.tif", make_data.tissue(0, 256, 256), 0.5).read_bytes()
    real = shared_or_none / "slides/CMU-1-Small-Region.svs" if shared_or_none else None
    blobs += [small, real.read_bytes() if real else small]
    remotes = [Remote(f"TCGA-AA-{i:04d}-01A-01-TS1", blobs[i % 20]) for i in range(1000)]
    with GdcServer(remotes, faults=0.2, seed=20181003) as server:
        tally = fetch_all(server, tmp_path)
        assert tally.missing == {} and tally.fetched == 1000
        wrong = [
            one.name
            for one in remotes
            if hashlib.md5((tmp_path / "slides" / one.name).read_bytes()).hexdigest() != one.md5  # noqa: S324
        ]
        assert wrong == []
        assert set(server.made) == {*BODY_FAULTS, "status"}
        # each byte was of use or was counted as wasted, and none came that was not sent
        useful = sum(len(one.data) for one in remotes)
        assert tally.received - tally.wasted == useful
        assert 0 < tally.wasted < 0.2 * useful
        assert tally.received <= server.sent
    with capsys.disabled():
        print(
            f"\n1000 downloads, {sum(server.made.values())} faults: {download.traffic(tally.received, tally.wasted)}"
        )
    assert not list((tmp_path / "slides").glob(".*.part"))


@pytest.fixture
def shared_or_none(request):
    try:
        return request.getfixturevalue("shared")
    except pytest.skip.Exception:
        return None


@pytest.mark.parametrize("kind", BODY_FAULTS)
def test_each_fault_by_itself(tmp_path, kind):
    with GdcServer(slides(6), faults=0.6, seed=4, kinds=(kind,)) as server:
        tally = fetch_all(server, tmp_path)
        assert server.made[kind] and tally.missing == {} and whole(server, tmp_path / "slides")


def test_what_broke_off_goes_on_and_nothing_comes_twice(tmp_path):
    with GdcServer(slides(1, 500_000), faults=0.8, seed=3, kinds=("truncated",) * 99) as server:
        meter = fetch(server, tmp_path, tries=60)
        assert server.made["truncated"] > 1
        ranges = [headers.get("Range") for _, path, headers in server.requests]
        assert ranges[0] is None and all(ranges[1:])
        assert (meter.received, meter.wasted) == (500_000, 0)
        assert whole(server, tmp_path)


def test_a_part_of_an_earlier_run_is_gone_on_with(tmp_path):
    with GdcServer(slides(1)) as server:
        part_of(tmp_path, server.slides[0]).write_bytes(server.slides[0].data[:60_000])
        meter = fetch(server, tmp_path)
        assert (meter.received, meter.before, meter.wasted) == (40_000, 60_000, 0)
        assert server.requests[0][2]["Range"] == "bytes=60000-"
        assert whole(server, tmp_path)


@pytest.mark.parametrize("cut", [60_000, 100_000, 100_001])
def test_a_part_that_is_wrong_is_not_trusted(tmp_path, cut):
    with GdcServer(slides(1)) as server:
        part_of(tmp_path, server.slides[0]).write_bytes((b"x" + server.slides[0].data + b"x")[:cut])
        fetch(server, tmp_path)
        assert whole(server, tmp_path)


def test_a_part_that_is_complete_asks_nobody(tmp_path):
    with GdcServer(slides(1)) as server:
        part_of(tmp_path, server.slides[0]).write_bytes(server.slides[0].data)
        fetch(server, tmp_path)
        assert server.requests == [] and whole(server, tmp_path)


def test_wrong_bytes_all_the_time_never_get_a_name(tmp_path):
    with GdcServer(slides(3), faults=1, kinds=("wrong bytes",) * 10_000) as server:
        tally = fetch_all(server, tmp_path, tries=3)
        assert len(server.requests) == 9
    assert tally.fetched == 0 and len(tally.missing) == 3
    assert all("its md5 is not the one that the GDC names (3 tries)" in one for one in tally.missing.values())
    assert not [one for one in (tmp_path / "slides").iterdir() if not one.name.startswith(".")]


@pytest.mark.parametrize(("status", "tries"), [(503, 4), (429, 4), (403, 4), (500, 4), (404, 1), (400, 1), (401, 1)])
def test_how_often_an_answer_is_tried_again(tmp_path, status, tries):
    with GdcServer(slides(1)) as server:
        server.always[server.slides[0].file_id] = status
        with pytest.raises(FetchError, match=f"status {status}"):
            fetch(server, tmp_path, tries=4)
        assert len(server.requests) == tries


class Clock(threading.Event):
    """An event that nobody sets, and that notes how long it was waited for."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return False


def test_pauses_grow_and_differ_and_a_server_may_ask_for_longer_ones():
    server = Server("http://127.0.0.1:1", 1, 9, patience=Patience(first=1, longest=20))

    def waits(after: float) -> list[float]:
        clock = Clock()

        def fail():
            raise client.TransientError("no", after)

        with pytest.raises(FetchError):
            client.Client(server, clock).again(fail, "x")
        return clock.waits

    many = np.array([waits(0) for _ in range(200)])
    assert many.shape == (200, 8)
    assert (many >= 0).all() and (many <= [1, 2, 4, 8, 16, 20, 20, 20]).all()
    assert len(np.unique(many)) == many.size  # jitter
    assert (np.diff(many.mean(axis=0))[:4] > 0).all()
    assert min(waits(15)) == 15
    assert max(waits(3600)) == 20  # nobody waits for hours


# -- many slides


def test_one_that_can_not_be_had_keeps_no_other_and_the_next_run_asks_for_it_alone(tmp_path):
    with GdcServer(slides(5)) as server:
        lost = server.slides[2]
        server.always[lost.file_id] = 404
        tally = fetch_all(server, tmp_path)
        assert list(tally.missing) == [lost.name] and tally.fetched == 4
        server.always.clear()
        server.requests.clear()
        assert fetch_all(server, tmp_path).fetched == 1
        assert [path for _, path, _ in server.requests] == [f"/data/{lost.file_id}"]
        server.requests.clear()
        assert fetch_all(server, tmp_path) == download.Tally({}, 0, 0, 0)
        assert server.requests == []


def test_slides_that_were_put_there_by_hand_are_checked(tmp_path):
    with GdcServer(slides(3)) as server:
        right, wrong, short = server.slides
        folder = tmp_path / "slides"
        folder.mkdir()
        (folder / right.name).write_bytes(right.data)
        (folder / wrong.name).write_bytes(bytes(len(wrong.data)))
        (folder / short.name).write_bytes(short.data[:10])
        assert fetch_all(server, tmp_path).fetched == 2
        assert server.request_count(f"/data/{right.file_id}") == 0 and whole(server, folder)
        # a slide that is changed afterwards is noticed, whatever its time says
        before = (folder / right.name).stat()
        (folder / right.name).write_bytes(b"x" + right.data[1:])
        os.utime(folder / right.name, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert fetch_all(server, tmp_path).fetched == 1 and whole(server, folder)


@pytest.mark.parametrize("streams", [1, 3])
def test_no_more_streams_than_were_asked_for(tmp_path, streams):
    with GdcServer(slides(8, 20_000), rate=200_000) as server:
        fetch_all(server, tmp_path, streams=streams)
        assert server.most_active == streams


def test_processes_share_the_streams(tmp_path):
    """What limits streams holds for workers of several processes, as where slides are let go."""
    code = (
        "import json, sys; from pathlib import Path; from histocae.sources.gdc import fetching, remote\n"
        "url, folder, *file = json.loads(sys.argv[1])\n"
        "file = remote.File(*file)\n"
        "fetching.fetch(remote.Server(url, 2, 10), file, Path(folder), fetching.Meter())"
    )
    with GdcServer(slides(6, 40_000), rate=100_000) as server:
        tasks = [json.dumps([server.url, str(tmp_path), *vars(a_file(one)).values()]) for one in server.slides]
        running = [subprocess.Popen([sys.executable, "-c", code, task]) for task in tasks]
        assert [one.wait() for one in running] == [0] * 6
        assert whole(server, tmp_path)
        assert server.most_active == 2


def test_two_who_want_the_same_slide_fetch_it_once(tmp_path):
    with GdcServer(slides(1), rate=400_000) as server:
        threads = [threading.Thread(target=fetch, args=(server, tmp_path)) for _ in range(3)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert len(server.requests) == 1 and whole(server, tmp_path)


def test_a_disk_that_is_too_small_is_told_before(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=250_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with GdcServer(slides(3)) as server:
        with pytest.raises(DataError, match=r"300 kB more are needed, and 250 kB are free; .*keep_slides: false"):
            fetch_all(server, tmp_path)
        assert server.requests == []
        part_of(tmp_path / "slides", server.slides[0]).write_bytes(server.slides[0].data[:60_000])
        assert fetch_all(server, tmp_path).fetched == 3


def test_a_folder_that_can_not_be_written_is_one_line(tmp_path):
    (tmp_path / "slides").write_text("a file")
    with GdcServer(slides(1)) as server, pytest.raises(FetchError, match="can't be written to"):
        fetch(server, tmp_path / "slides")


def test_a_folder_that_can_not_be_used_is_one_line(project):
    with GdcServer(slides(1)) as server:
        ask(project, server).make("inventory", "metadata")
        (project.folder / "data/slides").write_text("a file")
        assert "data/slides: can't be written to" in project.run("slides").error
        ask(project, server, data__keep_slides=False).make("slides")
        assert "1 of 1 slides are missing" in project.run("patches").error


def test_a_server_that_is_gone_is_not_asked_for_every_slide(tmp_path):
    with GdcServer(slides(30)) as server:
        server.always = {one.file_id: 503 for one in server.slides}
        tally = fetch_all(server, tmp_path, streams=2, tries=2)
        assert len(tally.missing) == 30 and "left to the next run" in tally.missing.values()
        assert len(server.requests) <= 2 * 8
        # what is the slides' own fault keeps no other
        server.always = {one.file_id: (404, 403)[i % 2] for i, one in enumerate(server.slides[:-1])}
        tally = fetch_all(server, tmp_path, streams=2, tries=2)
        assert len(tally.missing) == 29 and tally.fetched == 1
        assert all(name in told for name, told in tally.missing.items())


def test_what_is_half_fetched_of_slides_that_left_is_cleared_away(project):
    with GdcServer(slides(2)) as server:
        ask(project, server).make("inventory", "metadata")
        folder = project.folder / "data/slides"
        folder.mkdir()
        gone = Remote("TCGA-AA-0009-01A-01-TS1", b"gone")
        stays = part_of(folder, server.slides[0])
        part_of(folder, gone).write_bytes(b"go")
        (folder / "mine.svs").write_bytes(b"mine")
        stays.write_bytes(server.slides[0].data[:10])
        ask(project, server, data__keep_slides=False).make("slides")
        assert stays.exists() and not part_of(folder, gone).exists() and (folder / "mine.svs").exists()


# -- the token


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token.txt"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def tokens(server: GdcServer) -> list[str | None]:
    return [headers.get("X-Auth-Token") for _, _, headers in server.requests]


def test_the_token_goes_to_controlled_data_alone(tmp_path, token_file):
    closed = Remote("TCGA-AA-0009-01A-01-TS1", b"closed", access="controlled")
    with GdcServer([*slides(2), closed], token=TOKEN) as server:
        assert fetch_all(server, tmp_path, token_file=token_file).missing == {}
        seen = {path: headers.get("X-Auth-Token") for _, path, headers in server.requests}
        assert seen.pop(f"/data/{closed.file_id}") == TOKEN and set(seen.values()) == {None}
    with GdcServer([closed], token=TOKEN) as server, pytest.raises(FetchError, match="status 403: refused; is it"):
        file = File(closed.name, closed.file_id, closed.md5, 6, "open")
        fetching.fetch(asked(server, tries=2, token_file=token_file), file, tmp_path / "other", fetching.Meter())


def test_a_manifest_does_not_tell_and_the_token_is_used_where_it_is_needed(tmp_path, token_file):
    closed = Remote("TCGA-AA-0009-01A-01-TS1", b"closed", access="controlled")
    with GdcServer([closed], token=TOKEN) as server:
        file = File(closed.name, closed.file_id, closed.md5, 6, None)
        fetching.fetch(asked(server, token_file=token_file), file, tmp_path, fetching.Meter())
        assert [path.split("/")[1] for _, path, _ in server.requests] == ["data", "files", "data"]
        assert tokens(server) == [None, None, TOKEN]
    with GdcServer([Remote(closed.slide_id, b"closed")], token=TOKEN) as server:
        server.always[file.file_id] = 403  # for a while, as around releases: that makes it no controlled data
        server.on_request = lambda path: server.always.clear() if path.startswith("/files") else None
        fetching.fetch(asked(server, token_file=token_file), file, tmp_path / "other", fetching.Meter())
        assert set(tokens(server)) == {None}


def test_a_redirect_to_another_host_loses_the_token(tmp_path, token_file):
    closed = slides(1, access="controlled")
    with GdcServer(closed, token=TOKEN) as stranger, GdcServer(closed, elsewhere=stranger.url) as server:
        with pytest.raises(FetchError):
            fetch(server, tmp_path, token_file=token_file, tries=1)
        assert tokens(server) == [TOKEN] and tokens(stranger) == [None]


def test_a_redirect_is_followed_but_not_to_plain_http_elsewhere(tmp_path):
    with GdcServer(slides(1)) as real, GdcServer(real.slides, elsewhere=real.url) as server:
        fetch(server, tmp_path)
        assert whole(real, tmp_path)
    for nowhere in ("http://[bad", "http://127.0.0.1:99999", f"http://{'x' * 70}.org", "gopher://x"):
        with GdcServer(slides(1), elsewhere=nowhere) as server, pytest.raises(FetchError):
            fetch(server, tmp_path / "nowhere", tries=1)
    with GdcServer(slides(1), elsewhere="http://gdc.example.org") as server:
        with pytest.raises(FetchError, match="plain http is allowed on this machine only"):
            fetch(server, tmp_path / "other")
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        (None, 0o600, "can't be read"),
        ("", 0o600, "holds no token"),
        (f"{TOKEN}\n{TOKEN}", 0o600, "holds no token"),
        (f"{TOKEN}\r\nX-Evil: 1", 0o600, "holds no token"),
        (TOKEN, 0o644, "can be read by others; chmod 600"),
    ],
)
def test_a_token_file_that_is_no_good(tmp_path, text, mode, told):
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with GdcServer(slides(1, access="controlled"), token=TOKEN) as server:
        with pytest.raises(FetchError, match=told) as raised:
            fetch(server, tmp_path / "slides", token_file=path)
        assert TOKEN not in str(raised.value) and server.requests == []


def test_a_bad_token_file_is_told_before_anything_is_fetched(project, token_file):
    token_file.chmod(0o644)
    with GdcServer([*slides(3), Remote("TCGA-AA-0009-01A-01-TS1", b"x", access="controlled")], token=TOKEN) as server:
        for keep, stage in ((True, "slides"), (False, "patches")):
            ask(project, server, data__gdc__token_file=str(token_file), data__keep_slides=keep)
            project.make("inventory", "metadata", *(() if keep else ("slides",)))
            assert "can be read by others" in project.run(stage).error
        assert server.request_count("/data") == 0


def test_a_server_that_repeats_the_token_does_not_bring_it_into_the_log(tmp_path, token_file):
    with GdcServer(slides(1, access="controlled"), token=TOKEN) as server:
        server.always[server.slides[0].file_id] = 400
        with pytest.raises(FetchError, match=r"\*\*\*") as raised:
            fetch(server, tmp_path, token_file=token_file)
        assert tokens(server) == [TOKEN] and TOKEN not in str(raised.value)


def test_no_output_and_no_log_has_the_token(project, token_file, monkeypatch, caplog):
    monkeypatch.setattr(remote, "PATIENCE", IMPATIENT)
    caplog.set_level(logging.DEBUG)
    slide = make_data.write_slide(project.folder / "one.tif", make_data.tissue(1, 256, 256), 0.5).read_bytes()
    with GdcServer([Remote("TCGA-AA-0001-01A-01-TS1", slide, access="controlled")], token=TOKEN) as server:
        project.params(data__source="gdc", data__gdc__url=server.url, data__gdc__token_file=str(token_file))
        result = project.run("inventory", "metadata", "slides", "patches")
        assert result.code == 0, result.lines
        assert TOKEN in tokens(server)
        assert {TOKEN if path.startswith("/data") else None for _, path, _ in server.requests} == {None, TOKEN}
        assert all(
            token is None
            for (_, path, _), token in zip(server.requests, tokens(server), strict=True)
            if not path.startswith("/data")
        )
    assert TOKEN not in caplog.text and not any(TOKEN in line for line in result.lines)
    for path in project.folder.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


# -- killed and interrupted

DRIVER = """
import json, sys
from pathlib import Path
from histocae.sources.gdc import download, remote
from histocae.sources.hashes import Hashes
url, folder, files = json.loads(Path(sys.argv[1]).read_text())
hashes = Hashes(Path(folder) / "hashes.json", "md5")
files = [remote.File(*one) for one in files]
remote.PATIENCE = remote.Patience(first=0.01, longest=0.1)
tally = download.fetch_all(remote.Server(url, 4, 10), files, Path(folder) / "slides", hashes)
sys.exit(bool(tally.missing))
"""


def test_a_downloader_that_is_killed_25_times_loses_nothing_and_trusts_nothing(tmp_path):
    rng = random.Random(25)
    with GdcServer(slides(40, 150_000), rate=400_000, seed=9, kinds=("wrong bytes", "truncated")) as server:
        task = tmp_path / "task.json"
        files = [list(vars(a_file(one)).values()) for one in server.slides]
        task.write_text(json.dumps([server.url, str(tmp_path), files]))
        folder, by_name = tmp_path / "slides", {one.name: one for one in server.slides}
        command = [sys.executable, "-c", DRIVER, str(task)]
        done, came = set(), []
        for kill in range(25):
            if kill == 12:
                server.faults = 0.1  # up to here what is there can only grow
            first = server.request_count("/data")
            running = subprocess.Popen(command, start_new_session=True)
            deadline = time.monotonic() + 20
            while server.request_count("/data") == first and running.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)  # the import is not what is to be killed
            time.sleep(rng.uniform(0, 0.3))
            running.send_signal(signal.SIGKILL)
            running.wait()
            now = {one.name for one in folder.iterdir() if not one.name.startswith(".")}
            # what has its name is whole, and stays
            assert done <= now
            for name in now - done:
                assert (folder / name).read_bytes() == by_name[name].data
            done = now
            came.append(sum(part.stat().st_size for part in folder.glob(".*.part")) + 150_000 * len(done))
        assert came[0] > 0 and came[:12] == sorted(came[:12]) and came[-1] > came[11]
        server.requests.clear()
        assert subprocess.run(command, check=False).returncode == 0
        assert whole(server, folder) and not list(folder.glob(".*.part"))
        # what had its name was not asked for again
        assert not {path for _, path, _ in server.requests} & {f"/data/{by_name[name].file_id}" for name in done}


def started(project, server, *command, **gdc):
    """Start a command as a terminal does, also where the tests run in the background and interrupts are ignored."""
    project.params(data__source="gdc", data__gdc__url=server.url, executor__workers=2, **gdc)
    return subprocess.Popen(
        ["histocae", *command],
        cwd=project.folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("keep", [True, False])
def test_an_interrupt_ends_it_at_once_and_the_next_run_goes_on(project, keep):
    remotes = []
    for i in range(3):
        path = make_data.write_slide(project.folder / "made.tif", make_data.tissue(i, 256, 256), 0.5)
        remotes.append(Remote(f"TCGA-AA-{i:04d}-01A-01-TS1", path.read_bytes()))
    with GdcServer(remotes, rate=5_000) as server:
        stage = "slides" if keep else "patches"
        project.params(data__source="gdc", data__gdc__url=server.url, data__keep_slides=keep)
        project.make("inventory", "metadata", *(() if keep else ("slides",)))
        running = started(project, server, stage, data__keep_slides=keep)
        deadline = time.monotonic() + 30
        while server.request_count("/data") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        os.killpg(running.pid, signal.SIGINT)
        told = running.communicate(timeout=60)[1].splitlines()
        assert running.returncode == 130, told
        assert told[-1] == f"histocae {stage}: interrupted"
        assert "Traceback" not in "".join(told)
        parts = {part: part.stat().st_size for part in (project.folder / "data/slides").glob(".*.part")}
        assert sum(parts.values()) > 0
        server.rate = None
        server.requests.clear()
        project.make(stage)
        assert any(headers.get("Range") for _, _, headers in server.requests)
        assert len(project.index if not keep else project.read("data/slides.csv"))


def test_workers_of_a_killed_process_do_not_go_on(project):
    with GdcServer(slides(2), rate=5_000) as server:
        project.params(data__source="gdc", data__gdc__url=server.url, data__keep_slides=False)
        project.make("inventory", "metadata", "slides")
        running = started(project, server, "patches", data__keep_slides=False)
        deadline = time.monotonic() + 30
        while server.request_count("/data") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        workers = psutil.Process(running.pid).children(recursive=True)
        assert len(workers) >= 2
        running.kill()
        running.communicate()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert alive == []


# -- the pipeline


@pytest.fixture
def cohort(project, monkeypatch):
    """Six slides on a server, and the project that asks for them."""
    monkeypatch.setattr(remote, "PATIENCE", IMPATIENT)
    remotes = []
    for i in range(6):
        path = make_data.write_slide(project.folder / "made.tif", make_data.tissue(i, 256, 256), 0.5)
        remotes.append(Remote(f"TCGA-AA-{i:04d}-{('01A', '11A')[i % 2]}-01-TS1", path.read_bytes()))
    (project.folder / "made.tif").unlink()
    with GdcServer(remotes) as server:
        ask(project, server)
        yield server


def ask(project, server, **more):
    project.params(data__source="gdc", data__gdc__url=server.url, **more)
    return project


def named(project) -> list[str]:
    return sorted(one.name for one in (project.folder / "data/slides").glob("*.svs"))


def test_slides_are_fetched_looked_at_and_cut(cohort, project):
    project.make(*ALL_STAGES)
    assert named(project) == sorted(one.name for one in cohort.slides)
    table = project.read("data/slides.csv")
    assert table["file"].tolist() == named(project) and table["mpp"].eq(0.5).all()
    assert table["md5"].tolist() == [one.md5 for one in sorted(cohort.slides, key=lambda one: one.slide_id)]
    assert project.index["slide_id"].nunique() == 6
    before, requests = project.outputs(), len(cohort.requests)
    project.make("slides", "patches", "split")
    assert project.outputs() == before and len(cohort.requests) == requests


def test_slides_that_are_let_go_give_the_same_patches(cohort, project, new_project):
    project.make(*ALL_STAGES)
    kept = project.outputs("data/patches", "data/splits", "reports")
    other = ask(new_project("other"), cohort, data__keep_slides=False)
    cohort.requests.clear()
    most = []
    cohort.on_request = lambda path: most.append(len(named(other)))
    other.make(*ALL_STAGES)
    assert named(other) == [] and max(most) <= 1  # one worker here
    assert other.outputs("data/patches", "data/splits", "reports") == kept
    assert cohort.request_count("/data") == 6  # each once
    cohort.requests.clear()
    other.make("inventory", "slides", "patches", "split")
    assert cohort.requests == []
    # and those of a project that changes its mind are let go as well, uncut and unasked
    ask(project, cohort, data__keep_slides=False)
    os.chdir(project.folder)
    project.make("slides", "patches")
    assert named(project) == [] and cohort.requests == []
    assert project.outputs("data/patches", "data/splits", "reports") == kept


def test_a_slide_that_was_let_go_comes_back_where_its_shard_has_to_be_made(cohort, project):
    ask(project, cohort, data__keep_slides=False).make(*ALL_STAGES)
    cohort.requests.clear()
    shard = project.index["shard"].iloc[0]
    (project.folder / f"data/patches/shards/{shard}.npy").unlink()
    project.make("patches")
    assert cohort.request_count("/data") == 1 and named(project) == []


def test_a_kept_slide_that_was_spoilt_is_not_cut(cohort, project):
    project.make(*ALL_STAGES)
    before = project.outputs("data/patches", "reports")
    spoilt = project.folder / "data/slides" / cohort.slides[2].name
    spoilt.write_bytes(spoilt.read_bytes()[:-400] + bytes(400))
    shutil.rmtree(project.folder / "data/patches")
    cohort.requests.clear()
    project.make("patches")  # as where DVC sees no reason to run the stage slides
    assert project.outputs("data/patches", "reports") == before
    assert [path for _, path, _ in cohort.requests] == [f"/data/{cohort.slides[2].file_id}"]


def test_a_kept_slide_that_was_deleted_comes_back_too(cohort, project):
    project.make(*ALL_STAGES)
    before = project.outputs("data/patches", "reports")
    shutil.rmtree(project.folder / "data/slides")
    shutil.rmtree(project.folder / "data/patches")
    project.make("patches")
    assert project.outputs("data/patches", "reports") == before and len(named(project)) == 6


@pytest.mark.parametrize("keep", [True, False])
def test_a_missing_slide_ends_the_stage_and_the_others_are_not_lost(cohort, project, keep):
    lost = cohort.slides[1]
    cohort.always[lost.file_id] = 503
    ask(project, cohort, data__keep_slides=keep, data__gdc__tries=2).make("inventory", "metadata")
    if not keep:
        project.make("slides")
    stage = "slides" if keep else "patches"
    told = project.run(stage).error
    assert told == (
        f"histocae {stage}: 1 of 6 slides are missing; run this again to resume, or name in data.gdc.without those "
        f"that can't be fetched: {lost.name}: status 503 (2 tries)"
    )
    assert not (project.folder / "data/patches/index.csv").exists()
    cohort.always.clear()
    cohort.requests.clear()
    project.make(*(("slides", "patches") if keep else ("patches",)))
    assert [path for _, path, _ in cohort.requests] == [f"/data/{lost.file_id}"]
    assert project.index["slide_id"].nunique() == 6


def test_a_server_that_is_gone_ends_the_cutting_too(cohort, project):
    cohort.always = {one.file_id: 503 for one in cohort.slides}
    ask(project, cohort, data__keep_slides=False, data__gdc__tries=1, data__gdc__streams=1)
    project.make("inventory", "metadata", "slides")
    assert "6 of 6 slides are missing; run this again" in project.run("patches").error
    assert cohort.request_count("/data") == 3
    cohort.always.clear()
    project.make("patches")


def test_a_slide_that_arrives_whole_and_is_none_is_set_aside(cohort, project):
    for keep in (True, False):
        cohort.slides[0] = Remote("TCGA-AA-0000-01A-01-TS1", b"this is no slide")
        ask(project, cohort, data__keep_slides=keep).make(*ALL_STAGES[:-1])
        (row,) = project.read("reports/set_aside.csv").to_dict("records")
        assert row["slide_id"] == cohort.slides[0].slide_id and "can't be opened as a slide" in row["reason"]
        assert row["stage"] == ("slides" if keep else "patches")
        assert project.index["slide_id"].nunique() == 5


def test_microns_per_pixel_of_slides_that_are_let_go(cohort, project):
    path = make_data.write_slide(project.folder / "made.tif", make_data.tissue(7, 256, 256))
    cohort.slides[0] = Remote("TCGA-AA-0000-01A-01-TS1", path.read_bytes())
    ask(project, cohort, data__keep_slides=False).make(*ALL_STAGES[:-1])
    assert "microns per pixel" in project.read("reports/set_aside.csv")["reason"].iloc[0]
    cohort.requests.clear()
    ask(project, cohort, data__keep_slides=False, data__mpp=0.5).make("slides", "patches")
    # those that say for themselves are not cut again
    assert [path for _, path, _ in cohort.requests] == [f"/data/{cohort.slides[0].file_id}"]
    counts = project.read("reports/patching/counts.csv").set_index("slide_id")
    assert counts["mpp_from"].value_counts().to_dict() == {"slide": 5, "data.mpp": 1}
    assert counts.loc[cohort.slides[0].slide_id, ["width", "height", "mpp"]].tolist() == [256, 256, 0.5]
    # other microns make another shard, so that the former is whole until the index has changed
    before = project.index.groupby("slide_id")["shard"].first()
    ask(project, cohort, data__keep_slides=False, data__mpp=0.48).make("slides", "patches")
    after = project.index.groupby("slide_id")["shard"].first()
    assert after.index[after != before].tolist() == [cohort.slides[0].slide_id]


def test_more_workers_than_cores_where_they_wait_for_a_network(monkeypatch, cohort, project):
    seen = []
    pool = processes._pool
    monkeypatch.setattr(processes, "_pool", lambda workers: seen.append(workers) or pool(workers))
    monkeypatch.setattr(processes, "count_cores", lambda: 2)
    ask(project, cohort, data__keep_slides=False, executor__workers=None).make(*ALL_STAGES)
    assert seen == [4]
    monkeypatch.setattr(processes, "count_cores", lambda: 64)
    shutil.rmtree(project.folder / "data/patches")
    monkeypatch.setattr(processes, "count_cores", lambda: 64)
    project.make("patches")
    assert seen == [4, 6]  # of 8, since there are six slides
