"""Commands that judge models end with whoever asked for them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil


def test_a_command_and_what_it_started_end_with_whoever_is_killed(tmp_path: Path) -> None:
    started = "import os,subprocess,sys,time; "
    started += "child=subprocess.Popen([sys.executable,'-c','import time; time.sleep(60)']); "
    started += "open(sys.argv[1]+'/ids','w').write(f'{os.getpid()} {child.pid}\\n'); time.sleep(60)"
    script = (
        "import sys; from pathlib import Path; from graftwork.merge.sweep.evaluation import Command; "
        "folder, program = Path(sys.argv[1]), sys.argv[2]; "
        "Command((sys.executable, '-c', program, '{model}'), 60).measure(folder, folder / 'log')"
    )
    starter = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), started])
    try:
        ids = tmp_path / "ids"
        while not (ids.exists() and ids.read_text().endswith("\n")):
            assert starter.poll() is None
            time.sleep(0.02)
        running = [psutil.Process(int(number)) for number in ids.read_text().split()]
    finally:
        starter.kill()
        starter.wait()
    _, alive = psutil.wait_procs(running, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
