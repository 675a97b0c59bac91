"""`python -m jobq.worker`."""

from jobq.worker.command import worker

if __name__ == "__main__":
    worker(prog_name="python -m jobq.worker")
