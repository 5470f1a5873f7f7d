"""Tables that were damaged between two stages: the next stage, called without DVC, names the table in one line."""

from support.make_data import tissue, write_slide
from support.workspace import Workspace, slide_row

STAGES = ("inventory", "metadata", "slides", "patches", "split")
READ_BY = [
    ("data/inventory.csv", "slides"),
    ("data/slides_metadata.csv", "slides"),
    ("data/first_seen.csv", "slides"),
    ("data/slides_metadata.csv", "patches"),
    ("data/slides.csv", "patches"),
    ("data/set_aside/metadata.csv", "patches"),
    ("data/set_aside/slides.csv", "patches"),
    ("data/slides_metadata.csv", "split"),
    ("data/given_split.csv", "split"),
    ("data/patches/index.csv", "split"),
    ("data/slides_metadata.csv", "plan"),
    ("data/slides.csv", "plan"),
    ("data/slides.csv", "verify"),
]


def cut_in_last_row(content: bytes) -> bytes:
    return content[:-5]


def cut_in_header(content: bytes) -> bytes:
    return content[: content.index(b"\n") // 2]


def without_end_of_header(content: bytes) -> bytes:
    header, rows = content.split(b"\n", 1)
    return header[: header.rindex(b"|")] + b"\n" + rows


def without_end_of_a_row(content: bytes) -> bytes:
    rows = content.split(b"\n")
    rows[1] = rows[1].split(b"|")[0]
    return b"\n".join(rows)


DAMAGES = (cut_in_last_row, cut_in_header, without_end_of_header, without_end_of_a_row)


def extract(project: Workspace) -> None:
    """Run the stages up to a given split on eight slides, of which two are set aside."""
    parts = ("train", "train", "validation", "validation", "test", "test", "train", "test")
    rows = [slide_row(name, i, split=part) for i, (name, part) in enumerate(zip("abcdefgh", parts, strict=True))]
    for i, row in enumerate(rows):
        write_slide(project.own / row["file_name"], tissue(i, 128, 128), 0.5)
    rows[6]["sample_type"] = "Metastatic"
    (project.own / rows[7]["file_name"]).write_text("no slide")
    project.table(rows)
    project.make(*STAGES)


def test_a_damaged_table_is_named_by_the_stage_that_reads_it(project, subtests):
    extract(project)
    for table, stage in READ_BY:
        path = project.folder / table
        whole = path.read_bytes()
        for damage in DAMAGES:
            path.write_bytes(damage(whole))
            before = project.outputs()
            with subtests.test(table=table, stage=stage, damage=damage.__name__):
                result = project.run(stage)
                assert path.name in result.error and "Traceback" not in "".join(result.lines)
                assert "dvc" in result.error or table == "data/first_seen.csv"
                assert project.outputs() == before
        path.write_bytes(whole)
    project.make(*STAGES)
