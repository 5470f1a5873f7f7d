"""The files of slides that consist of several: a change of any of them is noticed."""

import os
import struct
from pathlib import Path

import pytest

from histocae.pipeline import watch
from histocae.slides.parts import parts_of
from support.workspace import slide_row


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    value += bytes(len(value) % 2)
    length = struct.pack("<HI", 0, len(value)) if kind in (b"OB", b"SQ", b"UN") else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind + length + value


def endless_sequence(group: int, number: int, *items: bytes) -> bytes:
    """A sequence and items of undefined length."""
    head = struct.pack("<HH", group, number) + b"SQ\0\0" + b"\xff" * 4
    marks = [
        struct.pack("<HHI", 0xFFFE, mark, length) for mark, length in ((0xE000, 2**32 - 1), (0xE00D, 0), (0xE0DD, 0))
    ]
    return head + b"".join(marks[0] + item + marks[1] for item in items) + marks[2]


def dicom(series: str, *others: bytes) -> bytes:
    """A DICOM file without pixels; `others` are elements before that of the series."""
    meta = element(0x0002, 0x0001, b"OB", b"\0\1") + element(0x0002, 0x0010, b"UI", b"1.2.840.10008.1.2.1")
    return (
        bytes(128) + b"DICM" + meta + b"".join(others) + element(0x0020, 0x000E, b"UI", series.encode()) + bytes(64)
    )


def test_a_file_alone_is_its_only_part(tmp_path):
    for name in ("a.svs", "a.tif", "a.vms", "a.dcm", "a", "missing.vms", "missing.dcm"):
        if not name.startswith("missing"):
            (tmp_path / name).write_bytes(b"x" * 300)
        assert parts_of(tmp_path / name) == [tmp_path / name]


def test_all_files_of_a_dicom_series_and_no_other(tmp_path):
    inner = element(0x0020, 0x000E, b"UI", b"9.9")  # of another series that this one refers to
    variants = [(), (endless_sequence(0x0008, 0x1115, inner, inner),), (element(0x0008, 0x1115, b"SQ", b""),)]
    for i, others in enumerate(variants):
        (tmp_path / f"a{i}.dcm").write_bytes(dicom("1.2.3", *others))
    (tmp_path / "1.2.4").write_bytes(dicom("1.2.3"))
    (tmp_path / "other.dcm").write_bytes(dicom("1.2.4"))
    (tmp_path / "table.csv").write_text("no DICOM", encoding="utf-8")
    os.mkfifo(tmp_path / "fifo.dcm")
    (tmp_path / "circle.dcm").symlink_to("circle.dcm")
    names = ["1.2.4", "a0.dcm", "a1.dcm", "a2.dcm"]
    for name in names:
        parts = parts_of(tmp_path / name)
        assert parts[0] == tmp_path / name and sorted(part.name for part in parts) == names
    assert parts_of(tmp_path / "other.dcm") == [tmp_path / "other.dcm"]


def test_a_dicom_file_of_an_unknown_series_counts_as_a_part(tmp_path):
    (tmp_path / "a.dcm").write_bytes(dicom("1.2.3"))
    (tmp_path / "b.dcm").write_bytes(dicom("1.2.3")[:150])
    assert len(parts_of(tmp_path / "a.dcm")) == 2 == len(parts_of(tmp_path / "b.dcm"))


def test_files_that_a_vms_file_names(tmp_path):
    lines = [
        "[Virtual Microscope Specimen]",
        "NoLayers=1",
        "ImageFile=a_0.jpg",
        "ImageFile(1,0)=a_1.jpg",
        "MapFile = m.jpg",
    ]
    (tmp_path / "a.vms").write_text("\r\n".join([*lines, "Name=/etc/passwd", "Other=gone.jpg"]), encoding="utf-8")
    for name in ("a_0.jpg", "a_1.jpg", "m.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert [part.name for part in parts_of(tmp_path / "a.vms")] == ["a.vms", "a_0.jpg", "a_1.jpg", "m.jpg"]


def test_names_in_a_vms_file_may_have_folders_and_backslashes(tmp_path):
    lines = ["ImageFile=.\\a_0.jpg", "MapFile=./m.jpg", "MacroFile=sub\\m.jpg", "OptimisationFile=sub/o.opt"]
    (tmp_path / "a.vms").write_text("\r\n".join([*lines, f"Long={'x/' * 3000}", "Nul=a/\0"]), encoding="utf-8")
    names = ["a_0.jpg", "m.jpg", "sub/m.jpg", "sub/o.opt"]
    (tmp_path / "sub").mkdir()
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    found = [part.relative_to(tmp_path).as_posix() for part in parts_of(tmp_path / "a.vms")]
    assert found == ["a.vms", *names]


@pytest.mark.parametrize(
    ("listing", "name"), [("a.vms", "s.jpg"), ("a/Slidedat.ini", "Index.dat")], ids=["VMS", "MIRAX"]
)
def test_a_slide_whose_parts_are_named_with_backslashes_is_set_aside_with_the_remedy(project, listing, name):
    project.slides("b")
    write_mirax(project.own)
    (project.own / listing).write_text(f"[Virtual Microscope Specimen]\nImageFile=.\\{name}\n", encoding="utf-8")
    (project.own / listing).with_name(name).write_bytes(b"x")
    project.table([slide_row("b"), slide_row("a", 1, file="a.vms" if listing == "a.vms" else "a.mrxs")])
    project.make("inventory", "metadata", "slides")
    (reason,) = project.read("data/set_aside/slides.csv")["reason"]
    assert f"{listing.split('/')[-1]} names '.\\\\{name}' with a backslash; write '{name}' there" in reason


def test_real_dicom_series(shared):
    folder = shared / "slides" / "dicom" / "dicom_boxes"
    assert [part.name for part in parts_of(folder / "boxes_0.dcm")] == ["boxes_0.dcm", "boxes_1.dcm"]
    refused = shared / "slides" / "dicom" / "dicom_refused"
    assert len(parts_of(refused / "small_dicom.dcm")) == 1


def write_mirax(folder: Path) -> list[str]:
    (folder / "a").mkdir(exist_ok=True)
    (folder / "a.mrxs").write_bytes(b"x")
    (folder / "a" / "Data0000.dat").write_bytes(b"y")
    return ["a.mrxs", "a/Data0000.dat"]


def write_vms(folder: Path) -> list[str]:
    (folder / "a.vms").write_text("ImageFile=a.jpg\n", encoding="utf-8")
    (folder / "a.jpg").write_bytes(b"y")
    return ["a.vms", "a.jpg"]


def write_dicom(folder: Path) -> list[str]:
    for name in ("a.dcm", "b.dcm"):
        (folder / name).write_bytes(dicom("1.2.3"))
    return ["a.dcm", "b.dcm"]


@pytest.mark.parametrize("write", [write_mirax, write_vms, write_dicom])
def test_a_change_of_any_part_is_noticed(project, monkeypatch, write):
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 0)
    slide, part = write(project.own)
    project.table([slide_row("a", file=slide)])

    def inventory() -> str:
        return project.make("inventory").read("data/inventory.csv").set_index("file")["sha256"][slide]

    first = inventory()
    assert inventory() == first
    with open(project.own / part, "ab") as handle:
        handle.write(b"more")
    second = inventory()
    assert second != first
    (project.own / part).unlink()
    assert inventory() not in (first, second)
