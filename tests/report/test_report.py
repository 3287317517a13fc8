"""`python -m ksim.report` as its user sees it: the files, the page in a browser, and mistakes."""

import base64
import contextlib
import csv
import io
import json
import re
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import child, chromium

from ksim.errors import KsimError
from ksim.report import __main__ as report
from ksim.report import stats
from ksim.store.status import StatusFile

RATES = (3e-4, 1e-3)
RETURNS = {3e-4: [10.0, 11.0, 15.0], 1e-3: [20.0, 21.0, 22.5]}


@dataclass(frozen=True)
class Reported:
    """A sweep's folder with its report, what was there before, and what was printed."""

    sweep: Path
    before: dict[Path, bytes]
    printed: str

    @property
    def out(self) -> Path:
        return self.sweep / "report"

    @property
    def html(self) -> str:
        return (self.out / "report.html").read_text()


@pytest.fixture(scope="module")
def reported(tmp_path_factory, write_run) -> Reported:
    """Two learning rates with three seeds each, a failed run, one that is damaged, one that died, and hardly one."""
    sweep = tmp_path_factory.mktemp("runs") / "sweeps" / "2026-01-31_12-00-00"
    make_run = partial(write_run, sweep)
    for n, (rate, seed) in enumerate((rate, seed) for rate in RATES for seed in range(3)):
        make_run(
            f"{n}_algo.learning_rate={rate},seed={seed}",
            {"algo.learning_rate": rate},
            seed=seed,
            returns=RETURNS[rate][seed] * (1 - np.exp(-np.arange(1, 30) / 8)),
            final={"return": RETURNS[rate][seed], "falls": 0.01 * seed},
        )
    full = "no <space> left & 'more'"
    make_run("6_failed", {"algo.learning_rate": RATES[1]}, seed=3, state="failed", returns=[1.0], error=full)
    other = {"algo.learning_rate": RATES[0], "task.rewards.upright": None}
    cut = make_run("7_cut", other, state="interrupted", returns=[1.0, 2.0])
    cut.metrics_path.write_bytes(cut.metrics_path.read_bytes()[:-9])
    dead = make_run("8_dead", other, seed=1, state="running", returns=[])
    dead.status_path.write_text(json.dumps(json.loads(dead.status_path.read_text()) | {"pid_started": 1}))
    nothing = make_run("9_nothing", returns=[])
    for path in (nothing.config_path, nothing.status_path, nothing.metrics_path):
        path.unlink()
    before = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        report.main([str(sweep)])
    return Reported(sweep, before, printed.getvalue())


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_it_writes_a_page_plots_and_tables_and_touches_no_run(reported):
    after = {path: path.read_bytes() for path in reported.sweep.rglob("*") if path.is_file()}
    assert {path: after.pop(path) for path in reported.before} == reported.before
    names = ["curves.csv", "curves_cartpole_balance.png", "groups.csv", "report.html", "runs.csv"]
    assert sorted(after) == [reported.out / name for name in names]


def test_it_prints_what_became_of_the_runs(reported):
    assert "10 runs: 6 completed, 1 failed, 1 interrupted, 1 dead, 1 not started" in reported.printed
    assert re.search(r"failed: .*/6_failed: no <space> left & 'more'\n", reported.printed)
    assert "/report/report.html\n" in reported.printed


def test_its_own_files_are_no_runs(reported, tmp_path, capsys):
    report.main([str(reported.sweep), f"out={tmp_path}"])
    assert "10 runs" in capsys.readouterr().out


def test_the_groups_table_has_the_means_of_completed_runs(reported):
    other, low, high = rows(reported.out / "groups.csv")
    assert [row["algo.learning_rate"] for row in (low, high, other)] == ["0.0003", "0.001", "0.0003"]
    assert [row["task.rewards.upright"] == "null" for row in (low, high, other)] == [False, False, True]
    assert [low["runs"], low["seeds"], low["completed"]] == ["3", "3", "3"]
    assert [high["runs"], high["seeds"], high["completed"]] == ["4", "4", "3"]
    for row, rate in ((low, 3e-4), (high, 1e-3)):
        expected = stats.estimate(RETURNS[rate])
        found = [float(row[f"eval/return/{name}"]) for name in ("n", "mean", "low", "high", "iqm")]
        assert found == pytest.approx([3, expected.mean, expected.low, expected.high, expected.iqm])
        assert row["eval/return/iqm_low"] == ""
        assert float(row["eval/falls/mean"]) == pytest.approx(0.01) and float(row["eval/falls/low"]) == 0.0
    assert other["completed"] == "0" and other["eval/return/mean"] == ""


def test_the_runs_table_has_every_run_with_its_state(reported):
    found = {Path(row["path"]).name.partition("_")[0]: row for row in rows(reported.out / "runs.csv")}
    assert list(found) == [str(n) for n in range(10)]
    assert [found[n]["state"] for n in "6789"] == ["failed", "interrupted", "dead", "not started"]
    assert found["6"]["reason"] == "no <space> left & 'more'"
    assert found["7"]["remarks"] == "metrics.jsonl: the last line is cut off and left out"
    assert found["9"]["remarks"] == "config.yaml is missing" and found["9"]["task"] == ""
    assert found["0"]["group"] != found["3"]["group"] == found["4"]["group"] == found["6"]["group"]
    assert float(found["3"]["eval/return"]) == 20.0 and float(found["3"]["wall_time_s"]) == 290.0


def test_the_curves_table_is_a_line_a_step(reported):
    found = [row for row in rows(reported.out / "curves.csv") if row["metric"] == "return" and row["group"] == "1"]
    assert [float(row["step"]) for row in found] == [1000.0 * i for i in range(1, 30)]
    expected = np.mean(RETURNS[3e-4]) * (1 - np.exp(-np.arange(1, 30) / 8))
    assert [float(row["mean"]) for row in found] == pytest.approx(list(expected))
    assert {row["n"] for row in found} == {"3"}
    assert all(float(row["low"]) < float(row["mean"]) < float(row["high"]) for row in found)


class Page(HTMLParser):
    """Tags with their attributes, texts, and whether every tag is closed in its turn."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def test_the_page_needs_nothing_but_itself(reported):
    html = reported.html
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    addresses = [a[name] for _, a in page.tags for name in ("src", "href", "srcset", "action", "data") if name in a]
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert "url(" not in html and "@import" not in html and "://" not in html
    (image,) = [a["src"] for tag, a in page.tags if tag == "img"]
    data = base64.b64decode(image.partition("base64,")[2])
    assert data == (reported.out / "curves_cartpole_balance.png").read_bytes()
    assert Image.open(io.BytesIO(data)).size[0] > 2000


def test_the_page_says_what_is_the_matter(reported):
    text = Page(reported.html).text
    for said in (
        "6 completed",
        "1 dead",
        "no <space> left & 'more'",  # escaped, hence read as it was
        "7_cut: metrics.jsonl: the last line is cut off and left out",
        "9_nothing: config.yaml is missing",
        "algo.learning_rate",
        "task.rewards.upright",
        "12",  # the mean of 10, 11 and 15
    ):
        assert said in text


def test_where_the_report_goes(make_run, tmp_path, monkeypatch):
    made = make_run("0_algo.learning_rate=0.0003,seed=0", state="interrupted")
    monkeypatch.chdir(tmp_path)
    report.main([made.path.name, f"out={tmp_path / 'x' / 'y'}"])
    assert len(rows(tmp_path / "x" / "y" / "runs.csv")) == 1
    assert not (made.path / "report").exists()


def test_runs_with_nothing_to_draw(make_run, tmp_path):
    make_run("runs/a/1", returns=[], state="failed", error="early")
    make_run("runs/a/2", {"name": "b/c"}, returns=[None, None], state="interrupted")
    make_run("runs/a/3", {"name": "d"}, returns=[1.0], final={"return": 1.0})
    report.main([str(tmp_path / "runs")])
    pictures = {path.name for path in (tmp_path / "runs/report").glob("*.png")}
    assert pictures == {"curves_cartpole_balance.png", "curves_b_c.png", "curves_d.png"}


def test_many_groups_that_differ_in_much(make_run, tmp_path, capsys):
    for n in range(25):
        names = ("algo.learning_rate", "algo.gamma", "algo.lam", "algo.clip", "algo.value_coef", "algo.max_grad_norm")
        make_run(f"runs/{n}", dict.fromkeys(names, 0.01 * (n + 1)), final={"return": 100.0 + n})
    report.main([str(tmp_path / "runs")])
    assert len(rows(tmp_path / "runs/report/groups.csv")) == 25
    text = Page((tmp_path / "runs/report/report.html").read_text()).text
    assert "What differs" in text and all(name in text for name in names)
    assert "124" in capsys.readouterr().out  # the labels leave room for the numbers


def test_a_dollar_is_no_formula(make_run, tmp_path):
    for n, name in enumerate((r"$\knee$", "^hip$")):
        make_run(f"runs/{n}", {"name": r"a $\b$", "task.rewards.upright.joint": name})
    report.main([str(tmp_path / "runs")])
    assert (tmp_path / "runs/report/curves_a___b_.png").exists()


def test_a_seed_that_does_not_count_is_marked(make_run, tmp_path):
    make_run("runs/1", state="failed", error="early", returns=[1.0])
    make_run("runs/2", final={"return": 1.0})
    report.main([str(tmp_path / "runs")])
    assert [row["counted"] for row in rows(tmp_path / "runs/report/runs.csv")] == ["False", "True"]
    assert Page((tmp_path / "runs/report/report.html").read_text()).text.count("not counted: another run has") == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "which runs? write: python -m ksim.report <folder>"),
        (["runs", "ouput=x"], "ouput: no such option (did you mean 'out'?)"),
        (["runs", "--out"], "--out: is not an option; see --help"),
        (["nowhere"], "nowhere: does not exist"),
        (["empty"], "there is no run in empty"),
        (["runs", "out=runs/run/config.yaml"], "runs/run/config.yaml cannot be written: File exists; choose another"),
    ],
)
def test_each_mistake_is_one_message(make_run, tmp_path, monkeypatch, argv, message):
    make_run("runs/run")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KsimError) as caught:
        report.main(argv)
    assert str(caught.value).startswith(message)
    assert not list(tmp_path.rglob("report*"))


def test_help(capsys):
    report.main(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m ksim.report <folder>...")


def test_as_a_process_it_imports_neither_jax_nor_the_physics(reported, tmp_path):
    code = """
import runpy, sys
sys.argv[0] = "ksim.report"
runpy.run_module("ksim.report", run_name="__main__", alter_sys=True)
print(sorted({"jax", "mujoco", "hydra", "equinox", "wandb"} & set(sys.modules)))
"""
    assert child.output(code, str(reported.sweep), f"out={tmp_path}").splitlines()[-1] == "[]"
    result = child.python("import runpy; runpy.run_module('ksim.report', run_name='__main__')")
    assert (
        result.returncode == 2 and result.stderr.startswith("error: which runs?") and "Traceback" not in result.stderr
    )


needs_chromium = pytest.mark.skipif(chromium.executable() is None, reason="apt-get install chromium")


@needs_chromium
def test_the_page_opens_in_chromium_without_an_error(reported, tmp_path):
    page = reported.out / "report.html"
    facts = """({
        widths: [...document.images].map(image => image.complete ? image.naturalWidth : 0),
        tables: document.querySelectorAll("table").length,
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    })"""
    seen = chromium.visit(page, tmp_path / "profile", facts)
    assert seen.errors == []
    assert [url for url in seen.requests if not url.startswith("data:")] == [page.as_uri()[:80]]
    assert seen.value["widths"] == [2400] and seen.value["tables"] == 3 and seen.value["overflow"] == 0


@needs_chromium
def test_chromium_tells_of_errors(tmp_path):
    """The test before this one can fail."""
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><img src='missing.png'><script>console.error('said');</script><script>nothing.at.all</script>"
    )
    seen = chromium.visit(page, tmp_path / "profile")
    assert len(seen.errors) == 3 and len(seen.requests) == 2
    for part in ("ERR_FILE_NOT_FOUND", "said", "nothing is not defined"):
        assert any(part in error for error in seen.errors)


def test_the_share_of_seeds_that_pass_the_gate_is_shown(make_run, tmp_path, capsys):
    for seed in range(3):
        run = make_run(f"runs/{seed}", seed=seed, final={"return": 3.0})
        gate = {"created_at": "2026-01-01", "engine": {"engine": "auto"}, "step": 3000, "overrides": []}
        (run.eval / "final" / "gate.json").write_text(json.dumps(gate | {"passed": seed > 0}))
        with StatusFile(run.status_path) as status:
            if seed == 2:
                status.passed(3000, 12.0)
    report.main([str(tmp_path / "runs")])
    printed = capsys.readouterr().out
    assert "pass the gate" in printed and re.search(r"2 of 3\s*│\s*$", printed, re.MULTILINE)
    html = (tmp_path / "runs" / "report" / "report.html").read_text()
    assert "Pass the gate" in html and "2 of 3" in html
    assert re.search(r'Env steps to the gate.*<td class="n">3,000</td><td class="n">12</td>', html, re.DOTALL)
