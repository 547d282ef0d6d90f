"""The report as files: the same bytes again, harmless whatever a problem is called, needing nothing else."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest

from figures.report import answers, as_markdown, write_report
from tests.figures.made_up import HOSTILE, SAMPLES, grid

MANIFEST = {
    "settings": {"grids": [{"problems": ["made_up", HOSTILE], "steps": [1, 2]}], "inner_lr": None},
    "versions": {"numpy": "2.4"},
    HOSTILE: [],
    "seconds": 1.5,
}


def tables() -> dict[str, pd.DataFrame]:
    table = pd.concat(
        [grid(tasks=6, seeds=(0,), precisions=("float64",)), grid(HOSTILE, tasks=2, precisions=("float64",))]
    )
    return {name: table for name in ("curvature", "cg", "steps", "surface")}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "new"
    return write_report(out, tables(), MANIFEST)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.ids = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]


def test_files(report):
    out = report.parent
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    figures = {f"figures/{name}.{kind}" for name in tables() for kind in ("png", "svg", "pdf")}
    assert found == {"index.html", "summary.md"} | figures
    assert report == out / "index.html"


def test_the_same_bytes_again(report, tmp_path):
    write_report(tmp_path, tables(), MANIFEST)
    for path in report.parent.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(report.parent)).read_bytes() == path.read_bytes(), path.name


def test_page_is_closed_to_the_network_and_to_scripts(report):
    page = Page(report.read_text())
    tags = [tag for tag, _ in page.tags]
    (policy,) = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy and "http" not in policy
    assert not {"script", "iframe", "img", "object", "embed", "link", "base", "form", "style"} & set(tags) - {"style"}
    for tag, attrs in page.tags:
        for name, value in attrs.items():
            assert not name.startswith("on"), (tag, name)
            assert not re.match(r"\s*(https?:|//|javascript:|data:)", value or "") or name.startswith("xmlns"), (
                tag,
                value,
            )
    assert not re.search(r"url\((?!#)|@import", report.read_text())


def test_ids_are_unique_and_every_reference_has_its_target(report):
    text = report.read_text()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert used and used <= set(page.ids)


def test_a_hostile_name_is_harmless(report):
    for path in (report, report.with_name("summary.md"), *report.parent.glob("figures/*.svg")):
        assert "<script" not in path.read_text().lower(), path.name
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report.read_text()


def test_figures_are_described_and_verdicts_shown(report):
    page = Page(report.read_text())
    svgs = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(svgs) == 4 and all(attrs["role"] == "img" and attrs["aria-label"] for attrs in svgs)
    assert "more CG helps" in report.read_text() and "more CG helps" in report.with_name("summary.md").read_text()
    assert "tables/cg.csv" in report.read_text()
    assert "inner_lr" in report.read_text()


def test_sections_come_in_the_order_of_the_questions(report):
    found = re.findall(r'<section id="(\w+)"', report.read_text())
    assert found == ["steps", "cg", "surface", "curvature", "manifest"]


@pytest.mark.parametrize("sample", ["empty", "all diverged", "odd names"])
def test_odd_tables_make_a_page(sample, tmp_path):
    table = SAMPLES[sample]()
    assert write_report(tmp_path, {"steps": table, "curvature": table}, {}).read_text().endswith("</html>\n")


def test_no_tables_and_unknown_tables(tmp_path):
    assert "No answers" in write_report(tmp_path, {}, {}).read_text()
    assert "No answers" in write_report(tmp_path, {"unheard of": grid(tasks=1)}, {}).read_text()


def test_answers_are_lines(report):
    lines = answers(tables())
    assert len(lines) == 8 and all("\n" not in line for line in lines)
    assert lines[0].startswith("Q3 steps: made up: ")


def test_nothing_half_written_is_left(tmp_path):
    (tmp_path / "index.html").mkdir()  # so that the page cannot be put in its place
    with pytest.raises(OSError):
        write_report(tmp_path, {"steps": grid(tasks=1)}, {})
    assert not list(tmp_path.rglob("*.part"))


def test_markdown_shows_text_as_it_stands():
    assert as_markdown("a_b*\n# <i>|`") == r"a\_b\* \# &lt;i&gt;\|\`"


def test_figures_and_report_never_load_torch():
    code = (
        "import sys; from figures.section import sections; import figures.report; sections.names(); "
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
