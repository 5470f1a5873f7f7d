"""Downloads from the GDC: files are complete despite faults and kills, and only missing files are fetched."""

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
from support.gdc_server import BODY_FAULTS, GdcServer, GdcSlide
from support.workspace import ALL_STAGES

SHORT_LIMITS = Patience(connect=5, silence=0.3, window=0.3, slowest=50_000, first=0.001, longest=0.02)
TOKEN = "s3cret-Token_of.mine"  # noqa: S105


def file_of(slide: GdcSlide) -> File:
    return File(slide.name, slide.file_id, slide.md5, len(slide.data), slide.access)


def random_bytes(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def make_slides(count: int, size: int = 100_000, **fields: object) -> list[GdcSlide]:
    return [GdcSlide(f"TCGA-AA-{i:04d}-01A-01-TS1", random_bytes(i, size), **fields) for i in range(count)]


def server_config(server: GdcServer, **options: object) -> Server:
    return Server(server.url, **{"streams": 4, "tries": 10, "patience": SHORT_LIMITS, **options})


def fetch_all(server: GdcServer, folder: Path, **options: object) -> download.Tally:
    hashes = Hashes(folder / "hashes.json", "md5")
    files = [file_of(slide) for slide in server.slides]
    tally = download.fetch_all(server_config(server, **options), files, folder / "slides", hashes)
    hashes.save()
    return tally


def fetch_first(server: GdcServer, folder: Path, **options: object) -> fetching.Meter:
    """Fetch the first slide of a server."""
    meter = fetching.Meter()
    fetching.fetch(server_config(server, **options), file_of(server.slides[0]), folder, meter)
    return meter


def is_complete(server: GdcServer, folder: Path) -> bool:
    return all((folder / slide.name).read_bytes() == slide.data for slide in server.slides)


def part_of(folder: Path, slide: GdcSlide) -> Path:
    return fetching.part_of(folder, file_of(slide))


# -- faults


@pytest.mark.long
def test_a_thousand_downloads_with_a_fault_in_a_fifth_of_the_requests(tmp_path, shared_or_none, capsys):
    """Run pytest with -s to print the number of wasted bytes."""
    contents = [random_bytes(i, random.Random(i).randrange(10_000, 300_000)) for i in range(18)]
    small = make_data.write_slide(tmp_path / "small.tif", make_data.tissue(0, 256, 256), 0.5).read_bytes()
    real = shared_or_none / "slides/CMU-1-Small-Region.svs" if shared_or_none else None
    contents += [small, real.read_bytes() if real else small]
    slides = [GdcSlide(f"TCGA-AA-{i:04d}-01A-01-TS1", contents[i % 20]) for i in range(1000)]
    with GdcServer(slides, faults=0.2, seed=20181003) as server:
        tally = fetch_all(server, tmp_path)
        assert tally.missing == {} and tally.fetched == 1000
        wrong = [
            slide.name
            for slide in slides
            if hashlib.md5((tmp_path / "slides" / slide.name).read_bytes()).hexdigest() != slide.md5  # noqa: S324
        ]
        assert wrong == []
        assert set(server.fault_counts) == {*BODY_FAULTS, "status"}
        # each received byte is in a file or counted as wasted, and all received bytes were sent
        useful_bytes = sum(len(slide.data) for slide in slides)
        assert tally.received - tally.wasted == useful_bytes
        assert 0 < tally.wasted < 0.2 * useful_bytes
        assert tally.received <= server.sent_bytes
    faults, traffic = sum(server.fault_counts.values()), download.traffic(tally.received, tally.wasted)
    with capsys.disabled():
        print(f"\n1000 downloads, {faults} faults: {traffic}")
    assert not list((tmp_path / "slides").glob(".*.part"))


@pytest.fixture
def shared_or_none(request):
    try:
        return request.getfixturevalue("shared")
    except pytest.skip.Exception:
        return None


@pytest.mark.parametrize("fault", BODY_FAULTS)
def test_downloads_are_complete_despite_each_kind_of_fault(tmp_path, fault):
    with GdcServer(make_slides(6), faults=0.6, seed=4, body_faults=(fault,)) as server:
        tally = fetch_all(server, tmp_path)
        assert server.fault_counts[fault] and tally.missing == {} and is_complete(server, tmp_path / "slides")


def test_a_download_resumes_where_it_broke_off_without_wasted_bytes(tmp_path):
    with GdcServer(make_slides(1, 500_000), faults=0.8, seed=3, body_faults=("truncated",) * 99) as server:
        meter = fetch_first(server, tmp_path, tries=60)
        assert server.fault_counts["truncated"] > 1
        ranges = [headers.get("Range") for _, path, headers in server.requests]
        assert ranges[0] is None and all(ranges[1:])
        assert (meter.received, meter.wasted) == (500_000, 0)
        assert is_complete(server, tmp_path)


def test_a_part_file_of_an_earlier_run_is_resumed(tmp_path):
    with GdcServer(make_slides(1)) as server:
        part_of(tmp_path, server.slides[0]).write_bytes(server.slides[0].data[:60_000])
        meter = fetch_first(server, tmp_path)
        assert (meter.received, meter.before, meter.wasted) == (40_000, 60_000, 0)
        assert server.requests[0][2]["Range"] == "bytes=60000-"
        assert is_complete(server, tmp_path)


@pytest.mark.parametrize("part_size", [60_000, 100_000, 100_001])
def test_a_part_file_with_wrong_bytes_is_replaced(tmp_path, part_size):
    with GdcServer(make_slides(1)) as server:
        part_of(tmp_path, server.slides[0]).write_bytes((b"x" + server.slides[0].data + b"x")[:part_size])
        fetch_first(server, tmp_path)
        assert is_complete(server, tmp_path)


def test_a_complete_part_file_needs_no_request(tmp_path):
    with GdcServer(make_slides(1)) as server:
        part_of(tmp_path, server.slides[0]).write_bytes(server.slides[0].data)
        fetch_first(server, tmp_path)
        assert server.requests == [] and is_complete(server, tmp_path)


def test_files_with_wrong_bytes_in_every_try_never_get_their_names(tmp_path):
    with GdcServer(make_slides(3), faults=1, body_faults=("wrong bytes",) * 10_000) as server:
        tally = fetch_all(server, tmp_path, tries=3)
        assert len(server.requests) == 9
    assert tally.fetched == 0 and len(tally.missing) == 3
    assert all("its md5 is not the one that the GDC names (3 tries)" in message for message in tally.missing.values())
    assert not [path for path in (tmp_path / "slides").iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize(("status", "tries"), [(503, 4), (429, 4), (403, 4), (500, 4), (404, 1), (400, 1), (401, 1)])
def test_the_status_decides_how_often_a_request_is_tried(tmp_path, status, tries):
    with GdcServer(make_slides(1)) as server:
        server.fixed_statuses[server.slides[0].file_id] = status
        with pytest.raises(FetchError, match=f"status {status}"):
            fetch_first(server, tmp_path, tries=4)
        assert len(server.requests) == tries


class WaitRecorder(threading.Event):
    """An event that is never set and that records the timeouts of its waits."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return False


def test_pauses_grow_at_random_and_the_server_may_request_longer_pauses():
    server = Server("http://127.0.0.1:1", 1, 9, patience=Patience(first=1, longest=20))

    def pauses_of(after: float) -> list[float]:
        recorder = WaitRecorder()

        def fail():
            raise client.TransientError("no", after)

        with pytest.raises(FetchError):
            client.Client(server, recorder).again(fail, "x")
        return recorder.waits

    pauses = np.array([pauses_of(0) for _ in range(200)])
    assert pauses.shape == (200, 8)
    assert (pauses >= 0).all() and (pauses <= [1, 2, 4, 8, 16, 20, 20, 20]).all()
    assert len(np.unique(pauses)) == pauses.size  # jitter
    assert (np.diff(pauses.mean(axis=0))[:4] > 0).all()
    assert min(pauses_of(15)) == 15
    assert max(pauses_of(3600)) == 20  # at most `longest`, even if the server requests hours


# -- several slides


def test_a_failed_download_does_not_stop_others_and_is_requested_by_the_next_run(tmp_path):
    with GdcServer(make_slides(5)) as server:
        missing = server.slides[2]
        server.fixed_statuses[missing.file_id] = 404
        tally = fetch_all(server, tmp_path)
        assert list(tally.missing) == [missing.name] and tally.fetched == 4
        server.fixed_statuses.clear()
        server.requests.clear()
        assert fetch_all(server, tmp_path).fetched == 1
        assert [path for _, path, _ in server.requests] == [f"/data/{missing.file_id}"]
        server.requests.clear()
        assert fetch_all(server, tmp_path) == download.Tally({}, 0, 0, 0)
        assert server.requests == []


def test_slides_that_were_copied_by_hand_are_checked(tmp_path):
    with GdcServer(make_slides(3)) as server:
        complete, wrong, truncated = server.slides
        folder = tmp_path / "slides"
        folder.mkdir()
        (folder / complete.name).write_bytes(complete.data)
        (folder / wrong.name).write_bytes(bytes(len(wrong.data)))
        (folder / truncated.name).write_bytes(truncated.data[:10])
        assert fetch_all(server, tmp_path).fetched == 2
        assert server.request_count(f"/data/{complete.file_id}") == 0 and is_complete(server, folder)
        # a later change of a slide is detected even if its time of modification is the same
        status = (folder / complete.name).stat()
        (folder / complete.name).write_bytes(b"x" + complete.data[1:])
        os.utime(folder / complete.name, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert fetch_all(server, tmp_path).fetched == 1 and is_complete(server, folder)


@pytest.mark.parametrize("streams", [1, 3])
def test_the_number_of_parallel_downloads_is_limited_to_the_streams(tmp_path, streams):
    with GdcServer(make_slides(8, 20_000), rate=200_000) as server:
        fetch_all(server, tmp_path, streams=streams)
        assert server.max_active == streams


def test_processes_share_the_limit_of_streams(tmp_path):
    """The limit holds for all processes together, as for workers that extract patches and delete slides."""
    code = (
        "import json, sys; from pathlib import Path; from histocae.sources.gdc import fetching, remote\n"
        "url, folder, *file = json.loads(sys.argv[1])\n"
        "file = remote.File(*file)\n"
        "fetching.fetch(remote.Server(url, 2, 10), file, Path(folder), fetching.Meter())"
    )
    with GdcServer(make_slides(6, 40_000), rate=100_000) as server:
        tasks = [json.dumps([server.url, str(tmp_path), *vars(file_of(slide)).values()]) for slide in server.slides]
        downloaders = [subprocess.Popen([sys.executable, "-c", code, task]) for task in tasks]
        assert [process.wait() for process in downloaders] == [0] * 6
        assert is_complete(server, tmp_path)
        assert server.max_active == 2


def test_threads_that_need_the_same_slide_fetch_it_once(tmp_path):
    with GdcServer(make_slides(1), rate=400_000) as server:
        threads = [threading.Thread(target=fetch_first, args=(server, tmp_path)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) == 1 and is_complete(server, tmp_path)


def test_a_lack_of_disk_space_is_reported_before_any_download(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=250_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with GdcServer(make_slides(3)) as server:
        with pytest.raises(DataError, match=r"300 kB more are needed, and 250 kB are free; .*keep_slides: false"):
            fetch_all(server, tmp_path)
        assert server.requests == []
        part_of(tmp_path / "slides", server.slides[0]).write_bytes(server.slides[0].data[:60_000])
        assert fetch_all(server, tmp_path).fetched == 3


def test_a_folder_that_cannot_be_created_raises_an_error(tmp_path):
    (tmp_path / "slides").write_text("a file")
    with GdcServer(make_slides(1)) as server, pytest.raises(FetchError, match="can't be written to"):
        fetch_first(server, tmp_path / "slides")


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(project):
    with GdcServer(make_slides(1)) as server:
        configure(project, server).make("inventory", "metadata")
        (project.folder / "data/slides").write_text("a file")
        assert "data/slides: can't be written to" in project.run("slides").error
        configure(project, server, data__keep_slides=False).make("slides")
        assert "1 of 1 slides are missing" in project.run("patches").error


def test_downloads_stop_after_repeated_failures_of_the_server(tmp_path):
    with GdcServer(make_slides(30)) as server:
        server.fixed_statuses = {slide.file_id: 503 for slide in server.slides}
        tally = fetch_all(server, tmp_path, streams=2, tries=2)
        assert len(tally.missing) == 30 and "left to the next run" in tally.missing.values()
        assert len(server.requests) <= 2 * 8
        # failures of single slides do not stop the downloads
        server.fixed_statuses = {slide.file_id: (404, 403)[i % 2] for i, slide in enumerate(server.slides[:-1])}
        tally = fetch_all(server, tmp_path, streams=2, tries=2)
        assert len(tally.missing) == 29 and tally.fetched == 1
        assert all(name in message for name, message in tally.missing.items())


def test_part_files_of_slides_outside_the_table_are_deleted(project):
    with GdcServer(make_slides(2)) as server:
        configure(project, server).make("inventory", "metadata")
        folder = project.folder / "data/slides"
        folder.mkdir()
        removed = GdcSlide("TCGA-AA-0009-01A-01-TS1", b"gone")
        part = part_of(folder, server.slides[0])
        part_of(folder, removed).write_bytes(b"go")
        (folder / "user.svs").write_bytes(b"mine")
        part.write_bytes(server.slides[0].data[:10])
        configure(project, server, data__keep_slides=False).make("slides")
        assert part.exists() and not part_of(folder, removed).exists() and (folder / "user.svs").exists()


# -- the token


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token.txt"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def tokens(server: GdcServer) -> list[str | None]:
    return [headers.get("X-Auth-Token") for _, _, headers in server.requests]


def test_the_token_is_sent_for_controlled_data_only(tmp_path, token_file):
    controlled = GdcSlide("TCGA-AA-0009-01A-01-TS1", b"closed", access="controlled")
    with GdcServer([*make_slides(2), controlled], token=TOKEN) as server:
        assert fetch_all(server, tmp_path, token_file=token_file).missing == {}
        tokens_by_path = {path: headers.get("X-Auth-Token") for _, path, headers in server.requests}
        assert tokens_by_path.pop(f"/data/{controlled.file_id}") == TOKEN and set(tokens_by_path.values()) == {None}
    with (
        GdcServer([controlled], token=TOKEN) as server,
        pytest.raises(FetchError, match="status 403: refused; is it"),
    ):
        file = File(controlled.name, controlled.file_id, controlled.md5, 6, "open")
        fetching.fetch(
            server_config(server, tries=2, token_file=token_file), file, tmp_path / "other", fetching.Meter()
        )


def test_with_unknown_access_the_token_is_sent_where_the_api_requires_it(tmp_path, token_file):
    controlled = GdcSlide("TCGA-AA-0009-01A-01-TS1", b"closed", access="controlled")
    with GdcServer([controlled], token=TOKEN) as server:
        file = File(controlled.name, controlled.file_id, controlled.md5, 6, None)
        fetching.fetch(server_config(server, token_file=token_file), file, tmp_path, fetching.Meter())
        assert [path.split("/")[1] for _, path, _ in server.requests] == ["data", "files", "data"]
        assert tokens(server) == [None, None, TOKEN]
    with GdcServer([GdcSlide(controlled.slide_id, b"closed")], token=TOKEN) as server:
        server.fixed_statuses[file.file_id] = 403  # temporarily, as around releases; the file is open nevertheless
        server.on_request = lambda path: server.fixed_statuses.clear() if path.startswith("/files") else None
        fetching.fetch(server_config(server, token_file=token_file), file, tmp_path / "other", fetching.Meter())
        assert set(tokens(server)) == {None}


def test_the_token_is_not_sent_to_another_host_after_a_redirect(tmp_path, token_file):
    slides = make_slides(1, access="controlled")
    with GdcServer(slides, token=TOKEN) as other_server, GdcServer(slides, redirect_url=other_server.url) as server:
        with pytest.raises(FetchError):
            fetch_first(server, tmp_path, token_file=token_file, tries=1)
        assert tokens(server) == [TOKEN] and tokens(other_server) == [None]


def test_a_redirect_is_followed_except_to_plain_http_on_another_machine(tmp_path):
    with GdcServer(make_slides(1)) as target, GdcServer(target.slides, redirect_url=target.url) as server:
        fetch_first(server, tmp_path)
        assert is_complete(target, tmp_path)
    for invalid_url in ("http://[bad", "http://127.0.0.1:99999", f"http://{'x' * 70}.org", "gopher://x"):
        with GdcServer(make_slides(1), redirect_url=invalid_url) as server, pytest.raises(FetchError):
            fetch_first(server, tmp_path / "invalid_url", tries=1)
    with GdcServer(make_slides(1), redirect_url="http://gdc.example.org") as server:
        with pytest.raises(FetchError, match="plain http is allowed on this machine only"):
            fetch_first(server, tmp_path / "other")
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (None, 0o600, "can't be read"),
        ("", 0o600, "holds no token"),
        (f"{TOKEN}\n{TOKEN}", 0o600, "holds no token"),
        (f"{TOKEN}\r\nX-Evil: 1", 0o600, "holds no token"),
        (TOKEN, 0o644, "can be read by others; chmod 600"),
    ],
)
def test_an_invalid_token_file_is_reported_without_the_token(tmp_path, text, mode, message):
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with GdcServer(make_slides(1, access="controlled"), token=TOKEN) as server:
        with pytest.raises(FetchError, match=message) as raised:
            fetch_first(server, tmp_path / "slides", token_file=path)
        assert TOKEN not in str(raised.value) and server.requests == []


def test_an_invalid_token_file_is_reported_before_any_download(project, token_file):
    token_file.chmod(0o644)
    with GdcServer(
        [*make_slides(3), GdcSlide("TCGA-AA-0009-01A-01-TS1", b"x", access="controlled")], token=TOKEN
    ) as server:
        for keep, stage in ((True, "slides"), (False, "patches")):
            configure(project, server, data__gdc__token_file=str(token_file), data__keep_slides=keep)
            project.make("inventory", "metadata", *(() if keep else ("slides",)))
            assert "can be read by others" in project.run(stage).error
        assert server.request_count("/data") == 0


def test_a_token_in_the_answer_of_the_server_is_masked_in_the_message(tmp_path, token_file):
    with GdcServer(make_slides(1, access="controlled"), token=TOKEN) as server:
        server.fixed_statuses[server.slides[0].file_id] = 400
        with pytest.raises(FetchError, match=r"\*\*\*") as raised:
            fetch_first(server, tmp_path, token_file=token_file)
        assert tokens(server) == [TOKEN] and TOKEN not in str(raised.value)


def test_no_output_and_no_log_contains_the_token(project, token_file, monkeypatch, caplog):
    monkeypatch.setattr(remote, "PATIENCE", SHORT_LIMITS)
    caplog.set_level(logging.DEBUG)
    data = make_data.write_slide(project.folder / "slide.tif", make_data.tissue(1, 256, 256), 0.5).read_bytes()
    with GdcServer([GdcSlide("TCGA-AA-0001-01A-01-TS1", data, access="controlled")], token=TOKEN) as server:
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
files = [remote.File(*values) for values in files]
remote.PATIENCE = remote.Patience(first=0.01, longest=0.1)
tally = download.fetch_all(remote.Server(url, 4, 10), files, Path(folder) / "slides", hashes)
sys.exit(bool(tally.missing))
"""


@pytest.mark.long
def test_a_downloader_that_is_killed_25_times_loses_and_damages_no_file(tmp_path):
    rng = random.Random(25)
    with GdcServer(
        make_slides(40, 150_000), rate=400_000, seed=9, body_faults=("wrong bytes", "truncated")
    ) as server:
        task = tmp_path / "task.json"
        files = [list(vars(file_of(slide)).values()) for slide in server.slides]
        task.write_text(json.dumps([server.url, str(tmp_path), files]))
        folder, by_name = tmp_path / "slides", {slide.name: slide for slide in server.slides}
        command = [sys.executable, "-c", DRIVER, str(task)]
        names, stored_bytes = set(), []
        for kill in range(25):
            if kill == 12:
                server.faults = 0.1  # without faults, stored bytes never decrease
            former_count = server.request_count("/data")
            process = subprocess.Popen(command, start_new_session=True)
            deadline = time.monotonic() + 20
            while (
                server.request_count("/data") == former_count
                and process.poll() is None
                and time.monotonic() < deadline
            ):
                time.sleep(0.005)  # wait until the downloader has started its downloads
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            process.wait()
            new_names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
            # a file under its name is complete, and stays
            assert names <= new_names
            for name in new_names - names:
                assert (folder / name).read_bytes() == by_name[name].data
            names = new_names
            stored_bytes.append(sum(part.stat().st_size for part in folder.glob(".*.part")) + 150_000 * len(names))
        assert (
            stored_bytes[0] > 0
            and stored_bytes[:12] == sorted(stored_bytes[:12])
            and stored_bytes[-1] > stored_bytes[11]
        )
        server.requests.clear()
        assert subprocess.run(command, check=False).returncode == 0
        assert is_complete(server, folder) and not list(folder.glob(".*.part"))
        # files under their names were not requested again
        assert not {path for _, path, _ in server.requests} & {f"/data/{by_name[name].file_id}" for name in names}


def start_command(project, server, *command, **params):
    """Start a command that can be interrupted, even if the tests run in the background."""
    project.params(data__source="gdc", data__gdc__url=server.url, executor__workers=2, **params)
    return subprocess.Popen(
        ["histocae", *command],
        cwd=project.folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("keep", [True, False])
def test_an_interrupt_ends_a_download_at_once_and_the_next_run_resumes(project, keep):
    slides = []
    for i in range(3):
        path = make_data.write_slide(project.folder / "slide.tif", make_data.tissue(i, 256, 256), 0.5)
        slides.append(GdcSlide(f"TCGA-AA-{i:04d}-01A-01-TS1", path.read_bytes()))
    with GdcServer(slides, rate=5_000) as server:
        stage = "slides" if keep else "patches"
        project.params(data__source="gdc", data__gdc__url=server.url, data__keep_slides=keep)
        project.make("inventory", "metadata", *(() if keep else ("slides",)))
        process = start_command(project, server, stage, data__keep_slides=keep)
        deadline = time.monotonic() + 30
        while server.request_count("/data") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        lines = process.communicate(timeout=60)[1].splitlines()
        assert process.returncode == 130, lines
        assert lines[-1] == f"histocae {stage}: interrupted"
        assert "Traceback" not in "".join(lines)
        parts = {part: part.stat().st_size for part in (project.folder / "data/slides").glob(".*.part")}
        assert sum(parts.values()) > 0
        server.rate = None
        server.requests.clear()
        project.make(stage)
        assert any(headers.get("Range") for _, _, headers in server.requests)
        assert len(project.index if not keep else project.read("data/slides.csv"))


def test_workers_of_a_killed_process_end(project):
    with GdcServer(make_slides(2), rate=5_000) as server:
        project.params(data__source="gdc", data__gdc__url=server.url, data__keep_slides=False)
        project.make("inventory", "metadata", "slides")
        process = start_command(project, server, "patches", data__keep_slides=False)
        deadline = time.monotonic() + 30
        while server.request_count("/data") < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        process.kill()
        process.communicate()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert alive == []


# -- the pipeline


@pytest.fixture
def server(project, monkeypatch):
    """A server with six slides, and a project that uses the server."""
    monkeypatch.setattr(remote, "PATIENCE", SHORT_LIMITS)
    slides = []
    for i in range(6):
        path = make_data.write_slide(project.folder / "slide.tif", make_data.tissue(i, 256, 256), 0.5)
        slides.append(GdcSlide(f"TCGA-AA-{i:04d}-{('01A', '11A')[i % 2]}-01-TS1", path.read_bytes()))
    (project.folder / "slide.tif").unlink()
    with GdcServer(slides) as server:
        configure(project, server)
        yield server


def configure(project, server, **params):
    project.params(data__source="gdc", data__gdc__url=server.url, **params)
    return project


def slide_names(project) -> list[str]:
    return sorted(path.name for path in (project.folder / "data/slides").glob("*.svs"))


def test_slides_are_fetched_and_their_patches_extracted(server, project):
    project.make(*ALL_STAGES)
    assert slide_names(project) == sorted(slide.name for slide in server.slides)
    table = project.read("data/slides.csv")
    assert table["file"].tolist() == slide_names(project) and table["mpp"].eq(0.5).all()
    assert table["md5"].tolist() == [slide.md5 for slide in sorted(server.slides, key=lambda slide: slide.slide_id)]
    assert project.index["slide_id"].nunique() == 6
    before, requests = project.outputs(), len(server.requests)
    project.make("slides", "patches", "split")
    assert project.outputs() == before and len(server.requests) == requests


def test_deleting_slides_after_extraction_leads_to_the_same_patches(server, project, new_project):
    project.make(*ALL_STAGES)
    expected = project.outputs("data/patches", "data/splits", "reports")
    second_project = configure(new_project("other"), server, data__keep_slides=False)
    server.requests.clear()
    slide_counts = []
    server.on_request = lambda path: slide_counts.append(len(slide_names(second_project)))
    second_project.make(*ALL_STAGES)
    assert slide_names(second_project) == [] and max(slide_counts) <= 1  # there is a single worker
    assert second_project.outputs("data/patches", "data/splits", "reports") == expected
    assert server.request_count("/data") == 6  # each slide once
    server.requests.clear()
    second_project.make("inventory", "slides", "patches", "split")
    assert server.requests == []
    # a later keep_slides: false deletes kept slides too, without extraction or requests
    configure(project, server, data__keep_slides=False)
    os.chdir(project.folder)
    project.make("slides", "patches")
    assert slide_names(project) == [] and server.requests == []
    assert project.outputs("data/patches", "data/splits", "reports") == expected


def test_a_deleted_slide_is_fetched_again_where_its_shard_is_missing(server, project):
    configure(project, server, data__keep_slides=False).make(*ALL_STAGES)
    server.requests.clear()
    shard = project.index["shard"].iloc[0]
    (project.folder / f"data/patches/shards/{shard}.npy").unlink()
    project.make("patches")
    assert server.request_count("/data") == 1 and slide_names(project) == []


def test_a_damaged_slide_is_fetched_again_before_extraction(server, project):
    project.make(*ALL_STAGES)
    before = project.outputs("data/patches", "reports")
    path = project.folder / "data/slides" / server.slides[2].name
    path.write_bytes(path.read_bytes()[:-400] + bytes(400))
    shutil.rmtree(project.folder / "data/patches")
    server.requests.clear()
    project.make("patches")  # without the stage slides, as DVC may do
    assert project.outputs("data/patches", "reports") == before
    assert [path for _, path, _ in server.requests] == [f"/data/{server.slides[2].file_id}"]


def test_kept_slides_that_were_removed_are_fetched_again(server, project):
    project.make(*ALL_STAGES)
    before = project.outputs("data/patches", "reports")
    shutil.rmtree(project.folder / "data/slides")
    shutil.rmtree(project.folder / "data/patches")
    project.make("patches")
    assert project.outputs("data/patches", "reports") == before and len(slide_names(project)) == 6


@pytest.mark.parametrize("keep", [True, False])
def test_a_missing_slide_ends_the_stage_and_keeps_the_other_slides(server, project, keep):
    missing = server.slides[1]
    server.fixed_statuses[missing.file_id] = 503
    configure(project, server, data__keep_slides=keep, data__gdc__tries=2).make("inventory", "metadata")
    if not keep:
        project.make("slides")
    stage = "slides" if keep else "patches"
    message = project.run(stage).error
    assert message == (
        f"histocae {stage}: 1 of 6 slides are missing; run this again to resume, or name in data.gdc.without those "
        f"that can't be fetched: {missing.name}: status 503 (2 tries)"
    )
    assert not (project.folder / "data/patches/index.csv").exists()
    server.fixed_statuses.clear()
    server.requests.clear()
    project.make(*(("slides", "patches") if keep else ("patches",)))
    assert [path for _, path, _ in server.requests] == [f"/data/{missing.file_id}"]
    assert project.index["slide_id"].nunique() == 6


def test_extraction_stops_after_repeated_failures_of_the_server(server, project):
    server.fixed_statuses = {slide.file_id: 503 for slide in server.slides}
    configure(project, server, data__keep_slides=False, data__gdc__tries=1, data__gdc__streams=1)
    project.make("inventory", "metadata", "slides")
    assert "6 of 6 slides are missing; run this again" in project.run("patches").error
    assert server.request_count("/data") == 3
    server.fixed_statuses.clear()
    project.make("patches")


def test_a_complete_file_that_is_no_slide_is_set_aside(server, project):
    for keep in (True, False):
        server.slides[0] = GdcSlide("TCGA-AA-0000-01A-01-TS1", b"this is no slide")
        configure(project, server, data__keep_slides=keep).make(*ALL_STAGES[:-1])
        (row,) = project.read("reports/set_aside.csv").to_dict("records")
        assert row["slide_id"] == server.slides[0].slide_id and "can't be opened as a slide" in row["reason"]
        assert row["stage"] == ("slides" if keep else "patches")
        assert project.index["slide_id"].nunique() == 5


def test_a_change_of_mpp_affects_deleted_slides_without_mpp_only(server, project):
    path = make_data.write_slide(project.folder / "slide.tif", make_data.tissue(7, 256, 256))
    server.slides[0] = GdcSlide("TCGA-AA-0000-01A-01-TS1", path.read_bytes())
    configure(project, server, data__keep_slides=False).make(*ALL_STAGES[:-1])
    assert "microns per pixel" in project.read("reports/set_aside.csv")["reason"].iloc[0]
    server.requests.clear()
    configure(project, server, data__keep_slides=False, data__mpp=0.5).make("slides", "patches")
    # patches of slides that state their mpp are not extracted again
    assert [path for _, path, _ in server.requests] == [f"/data/{server.slides[0].file_id}"]
    counts = project.read("reports/patching/counts.csv").set_index("slide_id")
    assert counts["mpp_from"].value_counts().to_dict() == {"slide": 5, "data.mpp": 1}
    assert counts.loc[server.slides[0].slide_id, ["width", "height", "mpp"]].tolist() == [256, 256, 0.5]
    # another mpp has another shard, so the former shard is complete until the index changes
    before = project.index.groupby("slide_id")["shard"].first()
    configure(project, server, data__keep_slides=False, data__mpp=0.48).make("slides", "patches")
    after = project.index.groupby("slide_id")["shard"].first()
    assert after.index[after != before].tolist() == [server.slides[0].slide_id]


def test_extraction_with_downloads_has_more_workers_than_cores(monkeypatch, server, project):
    worker_counts = []
    pool = processes._pool
    monkeypatch.setattr(processes, "_pool", lambda workers: worker_counts.append(workers) or pool(workers))
    monkeypatch.setattr(processes, "count_cores", lambda: 2)
    configure(project, server, data__keep_slides=False, executor__workers=None).make(*ALL_STAGES)
    assert worker_counts == [4]
    monkeypatch.setattr(processes, "count_cores", lambda: 64)
    shutil.rmtree(project.folder / "data/patches")
    monkeypatch.setattr(processes, "count_cores", lambda: 64)
    project.make("patches")
    assert worker_counts == [4, 6]  # 6 workers instead of 8, since there are six slides
