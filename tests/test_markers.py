"""What takes minutes, or another program, runs only where `-m` names its marker."""

import pytest

pytest_plugins = "pytester"

TESTS = """
import pytest

def test_plain(): pass
@pytest.mark.slow
def test_slow(): pass
@pytest.mark.training
def test_training(): pass
@pytest.mark.slow
@pytest.mark.slurm
def test_slurm(): pass
@pytest.mark.slow
@pytest.mark.screen
def test_screen(): pass
@pytest.mark.peers
class TestPeers:
    def test_peers(self): pass
"""


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], {"plain", "slow"}),
        (["-m", "not slow"], {"plain"}),
        (["-m", "slow"], {"slow"}),
        (["-m", "training"], {"training"}),
        (["-m", "screen"], {"screen"}),
        (["-m", "slurm or peers"], {"slurm", "peers"}),
        (["-m", "peers and not slow"], {"peers"}),
    ],
)
def test_which_tests_run(words, names, pytester):
    pytester.makepyfile(TESTS)
    passed, _, failed = pytester.inline_run("-p", "support.selection", *words).listoutcomes()
    assert not failed and {report.nodeid.rpartition("test_")[2] for report in passed} == names
