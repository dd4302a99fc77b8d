"""Programs that are started while uvloop runs: nothing is collected between fork and exec."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, os, sys, types
fake = types.ModuleType("uvloop")
import asyncio
fake.new_event_loop = asyncio.new_event_loop
sys.modules["uvloop"] = fake
from aixgo.launch import run_async

async def main():
    child = os.fork()
    if child == 0:
        os._exit(int(gc.isenabled()))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), gc.isenabled()

print(run_async(main()), run_async(main()))
gc.disable()
print(run_async(main()))
"""


def test_where_uvloop_is_used_a_fork_collects_nothing_and_its_parent_goes_on_as_before() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["(0, True) (0, True)", "(0, False)"]
