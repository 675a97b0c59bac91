"""An app for the tests of the command line. It imports nothing of theirs: they copy it into a directory of its own."""

import asyncio
import logging
import os
import signal
import time
from pathlib import Path

from jobq import App, Retry, current

app = App()
other = App()


def note(*words: object) -> None:
    """Append a line to the file that the test reads."""
    out = os.open(os.environ.get("OUT", "out"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(out, (" ".join(map(str, words)) + "\n").encode())
    os.close(out)


@app.task
async def ping(number: int) -> None:
    note("ping", number)


@app.task(queue="mail")
async def mail(number: int) -> None:
    note("mail", number)


@app.task
async def gate(name: str) -> None:
    """Wait until the test makes the file `name`."""
    note("gate", os.getpid())
    while not Path(name).exists():
        await asyncio.sleep(0.02)
    note("through", name)


@app.task
async def forever() -> None:
    note("forever", os.getpid(), current().attempt)
    await asyncio.Event().wait()


@app.task
async def environment() -> None:
    note("environment", *(name for name in os.environ if name.startswith("JOBQ")))


@app.task
async def loop() -> None:
    note("loop", type(asyncio.get_running_loop()).__module__.partition(".")[0])


@app.task
async def say(level: int) -> None:
    """Log something at this level."""
    logging.getLogger("sample").log(level, "said at %d", level)


@app.task
def stuck() -> None:
    note("stuck", os.getpid())
    time.sleep(3600)


@app.task
async def blocked() -> None:
    note("blocked", os.getpid())
    time.sleep(3600)


@app.task
async def die_once(name: str) -> None:
    """Kill the worker in the first run."""
    note("die_once", os.getpid())
    if not Path(name).exists():
        Path(name).touch()
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(retry=Retry(max_retries=0))
async def evil() -> None:
    raise ValueError("one\ntwo \x1b[2J \x9b31m")
