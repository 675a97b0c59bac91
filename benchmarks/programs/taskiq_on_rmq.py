"""The jobs, as a taskiq app on RabbitMQ. Runs in taskiq's own virtual environment."""
# pyright: basic, reportMissingImports=false

import os

from taskiq_aio_pika import AioPikaBroker

from benchmarks import gauge
from benchmarks.programs.taskiq_tasks import register

broker = AioPikaBroker(os.environ["JOBQ_BENCH_URL"], qos=110)
tasks = register(broker)
gauge.gate()
