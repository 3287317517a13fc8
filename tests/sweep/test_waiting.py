"""What is told of a sweep that waits for a cluster, and which waiting is in vain."""

import json
import logging
import time

import pytest
from submitit.core.utils import DelayedSubmission

from ksim.errors import KsimError
from ksim.store.run_dir import RunDir
from ksim.store.status import StatusFile
from ksim.sweep import waiting
from ksim.sweep.packed import PackedJobs
from ksim.sweep.plan import Planned
from ksim.sweep.slurm import QueuedJob
from ksim.sweep.waiting import Waiting, is_hopeless

RUNNING = QueuedJob("RUNNING", "None")
SETTINGS = {"cpus_per_task": 4, "mem_gb": 8, "gpus_per_node": None, "partition": None}


def pending(reason: str) -> QueuedJob:
    return QueuedJob("PENDING", reason)


@pytest.fixture
def jobs(tmp_path, cartpole_cfg) -> dict[str, Planned]:
    """Five jobs, the first two of which have begun."""
    made = {f"7_{i}": Planned((), RunDir(tmp_path / str(i)), cartpole_cfg, True, {}) for i in range(5)}
    for number, step in (("7_0", 1_204_224), ("7_1", 98_304)):
        made[number].run.path.mkdir()
        StatusFile(made[number].run.status_path).update(step)
    return made


@pytest.fixture
def lines(caplog):
    """What was logged."""
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records if record.name == waiting.log.name]


def test_how_many_wait_and_why_and_how_far_the_others_are(jobs, lines):
    with Waiting(jobs, SETTINGS) as line:
        queue = {
            "7_0": RUNNING,
            "7_1": RUNNING,
            "7_2": pending("Priority"),
            "7_3": pending("Resources"),
            "9_9": RUNNING,
        }
        line.show(queue)
        line.show(queue)  # nothing new: no line
        line.show({"7_1": RUNNING})
    assert lines() == [
        "2 wait (Priority, Resources); 2 run, at 98,304 to 1,204,224 steps; 1 ended",
        "1 run, at 98,304 steps; 4 ended",
    ]


def test_without_a_change_a_line_now_and_then(jobs, lines, monkeypatch):
    monkeypatch.setattr(waiting, "_LINE_EVERY_S", 0.0)
    with Waiting(jobs, SETTINGS) as line:
        for _ in range(3):
            line.show({"7_0": RUNNING})
    assert len(lines()) == 3


@pytest.mark.parametrize(
    ("reason", "key"),
    [
        ("PartitionConfig", "cpus_per_task (now 4)"),
        ("PartitionNodeLimit", "gpus_per_node"),
        ("PartitionTimeLimit", "timeout_min"),
        ("BadConstraints", "constraint"),
        ("InvalidAccount", "account"),
        ("InvalidQOS", "qos"),
        ("QOSMaxWallDurationPerJobLimit", "timeout_min"),
        ("AssocMaxWallDurationPerJobLimit", "timeout_min"),
        ("AssocMaxCpuMinutesPerJobLimit", "timeout_min"),
        ("QOSMaxCpuPerJobLimit", "cpus_per_task"),
        ("QOSMaxCpuPerNode", "cpus_per_task"),
        ("AssocMaxGRESPerJob", "gpus_per_node"),
        ("QOSMaxMemoryPerJob", "mem_gb"),
        ("MaxMemPerLimit", "mem_gb"),
        ("QOSMinCpuNotSatisfied", "cpus_per_task"),
        ("QOSMinGRES", "gpus_per_node"),
    ],
)
def test_a_reason_that_waiting_cannot_cure_names_the_setting(jobs, reason, key, monkeypatch):
    assert is_hopeless(pending(reason)) and not is_hopeless(QueuedJob("RUNNING", reason))
    monkeypatch.setattr(waiting, "_PATIENCE_S", 0.0)
    with Waiting(jobs, SETTINGS) as line, pytest.raises(KsimError) as ended:
        line.show({"7_2": pending(reason), "7_3": pending(reason)})
    assert f"hydra.launcher.{key}" in str(ended.value) and reason in str(ended.value)
    assert "will not start 2 of the jobs" in str(ended.value) and "\n" not in str(ended.value)


@pytest.mark.parametrize(
    "reason",
    """
    Priority Resources Dependency BeginTime JobHeldUser JobHeldAdmin ReqNodeNotAvail,_UnavailableNodes:a Licenses
    PartitionDown PartitionInactive JobArrayTaskLimit QOSGrpCpuLimit QOSMaxJobsPerUserLimit QOSMaxCpuPerUserLimit
    AssocGrpCpuLimit AssocMaxJobsLimit AssocGrpMemLimit MaxCpuPerAccount MaxJobsPerAccount NodeDown None Reservation
    QOSMaxGRESPerUser AssocGrpCPUMinutesLimit QOSJobLimit QOSUsageThreshold Cleaning
    """.split(),
)
def test_what_passes_is_waited_for(jobs, reason, monkeypatch):
    monkeypatch.setattr(waiting, "_PATIENCE_S", 0.0)
    with Waiting(jobs, SETTINGS) as line:
        line.show({"7_2": pending(reason.replace(",_", ", "))})


def test_a_reason_must_last(jobs, monkeypatch):
    """Slurm gives some also while a node is down for a moment."""
    now = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    with Waiting(jobs, SETTINGS) as line:
        for t, reason in ((0, "PartitionConfig"), (29, "PartitionConfig"), (31, "Resources"), (32, "PartitionConfig")):
            now[0] = t
            line.show({"7_2": pending(reason)})
        now[0] = 63
        with pytest.raises(KsimError):
            line.show({"7_2": pending("PartitionConfig")})


def test_while_others_run_it_is_a_warning_and_once(jobs, lines, monkeypatch):
    monkeypatch.setattr(waiting, "_PATIENCE_S", 0.0)
    with Waiting(jobs, SETTINGS) as line:
        for _ in range(2):
            line.show({"7_0": RUNNING, "7_2": pending("PartitionConfig")})
        assert sum("will not start 1 of the jobs" in text for text in lines()) == 1
        with pytest.raises(KsimError, match="will not start 1"):
            line.show({"7_2": pending("PartitionConfig")})


# A whole launcher, with a Slurm of four small programs. ---------------------------------------------------------------

SBATCH = """#!/bin/sh
[ -e hold-sbatch ] && touch sbatch-is-called && while [ -e hold-sbatch ]; do sleep 0.05; done
[ -e refuse-$USER_OF_TEST ] && { echo "sbatch: error: no" >&2; exit 1; }
number=$(($(cat number 2>/dev/null || echo 6) + 1)); echo $number >number
cp "$1" script-$number
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for i in $(seq 0 $last); do echo "${number}_$i|PENDING|$(cat reason)|$1" >>queue; done
echo "Submitted batch job $number"
"""
SQUEUE = """#!/bin/sh
cat queue 2>/dev/null || true
"""
SCANCEL = """#!/bin/sh
echo "$@" >>cancelled
: >queue
"""
MAIN = """
from ksim.sweep import slurm, waiting
slurm._SHORTEST_S, waiting._PATIENCE_S = 0.1, 1.0
from ksim.run import main
main()
"""
SWEEP = ("-m", "task=cartpole_balance", "launcher=slurm", "hydra.sweep.dir=s", "seed=1,2")


@pytest.fixture
def slurm(cwd, monkeypatch):
    """The working directory, with a Slurm in it."""
    (cwd.path / "bin").mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "srun": "#!/bin/sh\n"}.items():
        (cwd.path / "bin" / name).write_text(text)
        (cwd.path / "bin" / name).chmod(0o755)
    (cwd.path / "reason").write_text("PartitionConfig")
    monkeypatch.setenv("PATH", f"{cwd.path / 'bin'}:/usr/bin:/bin")
    return cwd


def test_a_sweep_that_can_never_start_ends_with_the_setting_to_change(slurm):
    code, printed = slurm.run(*SWEEP, code=MAIN)
    assert code == 1 and "2 wait (PartitionConfig); 0 ended" in printed, printed
    assert "error: Slurm will not start 2 of the jobs" in printed and "Traceback" not in printed
    assert "hydra.launcher.cpus_per_task (now 4)" in printed
    assert not (slurm.path / "cancelled").exists() and len(slurm.jobs("s")) == 2

    (slurm.path / "reason").write_text("Priority")
    process = slurm.start(*SWEEP, "hydra.launcher.cpus_per_task=2", code=MAIN)
    wait_for(lambda: (slurm.path / "script-8").exists() and (slurm.path / "queue").read_text().count("8_") == 2)
    assert (slurm.path / "cancelled").read_text().split()[-2:] == ["7_0", "7_1"]
    assert "--state=PENDING" in (slurm.path / "cancelled").read_text()
    assert "--cpus-per-task=2" in (slurm.path / "script-8").read_text()
    (slurm.path / "queue").write_text("")
    printed, _ = process.communicate(timeout=60)
    assert "2 in the queue could never start: taken back, and sent anew" in printed
    assert "2 of 2 jobs did not complete" in printed  # these were killed


@pytest.mark.slow
def test_two_launchers_at_once_on_a_new_folder(slurm):
    """The first one's jobs are refused while the second one, which another group's rights let in, waits its turn."""
    (slurm.path / "hold-sbatch").touch()
    (slurm.path / "refuse-first").touch()
    (slurm.path / "reason").write_text("Priority")
    first = slurm.start(*SWEEP, code=MAIN, USER_OF_TEST="first")
    wait_for((slurm.path / "sbatch-is-called").exists)
    second = slurm.start(*SWEEP, code=MAIN, USER_OF_TEST="second")
    log = slurm.path / "s"
    deadline = time.monotonic() + 12  # long enough for the second to do whatever it would do
    while time.monotonic() < deadline and second.poll() is None:
        time.sleep(0.1)
    (slurm.path / "hold-sbatch").unlink()
    printed, _ = first.communicate(timeout=60)
    assert first.returncode == 1 and "Slurm did not take the sweep" in printed
    wait_for(lambda: all((path / "slurm.json").exists() for path in log.glob("[01]_*")) and len(slurm.jobs("s")) == 2)
    assert [path.name for path in log.glob("[01]_*/config.yaml")] == ["config.yaml"] * 2
    (slurm.path / "queue").write_text("")
    printed, _ = second.communicate(timeout=60)
    assert "is in use by process" in printed and "waiting for it" in printed
    assert len(slurm.jobs("s")) == 2 and all((path / "slurm.json").exists() for path in slurm.jobs("s").values())
    assert (slurm.path / "number").read_text() == "7\n"


def test_jobs_in_packs_are_one_job_to_slurm_each(slurm):
    """Of two; what does not fit into one program goes alone, and is said."""
    sweep = (*SWEEP[:-1], "seed=1,2,3", "algo.num_envs=256,128", "hydra.launcher.jobs_per_pack=2")
    code, printed = slurm.run(*sweep, code=MAIN)
    assert code == 1 and "4 wait (PartitionConfig); 0 ended" in printed, printed
    assert "not in one program with the jobs before, because of algo.num_envs: " in printed
    jobs = slurm.jobs("s")
    numbers = {name: json.loads((path / "slurm.json").read_text())["job"] for name, path in jobs.items()}
    assert sorted(numbers.values()) == ["7_0", "7_0", "7_1", "7_1", "7_2", "7_3"]
    sent = {
        path.name.partition("_submitted")[0]: path for path in (slurm.path / "s" / ".submitit").rglob("*_submitted.pkl")
    }
    assert len(sent) == 4
    for number, path in sent.items():
        job = DelayedSubmission.load(path).function
        paths = job.paths if isinstance(job, PackedJobs) else (job.path,)
        assert [path.name for path in paths] == [name for name in jobs if numbers[name] == number]
        assert len({name.name.partition("num_envs=")[2][:3] for name in paths}) == 1


def test_what_was_there_before_stays_where_nothing_is_sent(slurm):
    notes = slurm.path / "s" / "0_seed=1" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    (slurm.path / "refuse-first").touch()
    code, printed = slurm.run(*SWEEP, code=MAIN, USER_OF_TEST="first")
    assert code == 1 and "Slurm did not take the sweep" in printed
    assert notes.read_text() == "mine" and [p.name for p in notes.parent.iterdir()] == ["notes.txt"]
    assert not (slurm.path / "s" / "1_seed=2").exists()


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
