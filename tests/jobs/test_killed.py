"""kill -9 at random moments of a job on a cluster: the rows are those of an unbroken one."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import killing, tiny


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_a_job_that_is_killed_at_random_moments(tmp_path: Path) -> None:
    model = tiny.save("bert", tmp_path / "model")
    seen = killing.kill_often(model, tmp_path, 10)
    assert seen["kills"] == 10
    assert seen["with rows"] >= 1
