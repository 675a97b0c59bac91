"""The jobs, as a taskiq app on its Redis stream broker. Runs in taskiq's own virtual environment."""
# pyright: basic, reportMissingImports=false

import os

from taskiq_redis import RedisStreamBroker

from benchmarks import gauge
from benchmarks.programs.taskiq_tasks import register

broker = RedisStreamBroker(os.environ["JOBQ_BENCH_URL"], xread_count=100)
tasks = register(broker)
gauge.gate()
