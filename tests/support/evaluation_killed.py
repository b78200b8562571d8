"""``diffopd.evaluate`` that gets a signal once it has made images; what it started would wait for ever."""

import contextlib
import multiprocessing
import os
import signal
import time

from diffopd.evaluate.__main__ import main
from diffopd.evaluation.records import FolderRecords

add = FolderRecords.add
NUMBER = int(os.environ.get("SIGNAL", int(signal.SIGKILL)))


def add_and_kill(self, *batch):
    add(self, *batch)
    started_by = multiprocessing.parent_process()
    if started_by is None:
        os.kill(os.getpid(), NUMBER)
    with contextlib.suppress(ProcessLookupError):  # another process was first
        os.kill(started_by.pid, NUMBER)
    time.sleep(10_000)


FolderRecords.add = add_and_kill  # in the processes that this one starts, too, as they import this file

if __name__ == "__main__":
    main()
