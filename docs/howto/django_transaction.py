"""Enqueue a job in Django's `transaction.atomic()`.

A user is stored together with the job that welcomes them, or neither is. It makes the table `howto_users`, and for jobq
the schema `howto`; each run adds to them. It needs the extra `postgres`, Django and psycopg, but no project:

    python docs/howto/django_transaction.py postgresql://user:password@localhost/app
"""

import asyncio
import sys
from contextlib import suppress

import django
from django.conf import settings
from django.db import connection, models, transaction
from psycopg.conninfo import conninfo_to_dict

from jobq import App, SyncClient
from jobq.worker import Worker

URL = sys.argv[1]
BROKER = f"{URL}?schema=howto"
OPTIONS = conninfo_to_dict(URL)
DATABASE = {"ENGINE": "django.db.backends.postgresql", "NAME": OPTIONS.pop("dbname"), "OPTIONS": OPTIONS}
settings.configure(DATABASES={"default": DATABASE})
django.setup()
app = App()


class User(models.Model):
    name = models.TextField()

    class Meta:
        app_label = "howto"
        db_table = "howto_users"


@app.task
def send_welcome(user_id: int, name: str) -> None:
    print(f"welcome, {name} (user {user_id})")


def sign_up(client: SyncClient, name: str) -> None:
    with transaction.atomic():
        user = User.objects.create(name=name)
        client.within(connection).perform_async(send_welcome, user.pk, name)
        if not name.isalpha():
            raise ValueError(f"{name} is no name")  # takes the user and the job along


if __name__ == "__main__":
    with connection.cursor() as cursor:  # what a migration does in a project
        cursor.execute("CREATE TABLE IF NOT EXISTS howto_users (id serial PRIMARY KEY, name text NOT NULL)")
    with SyncClient(BROKER) as client:
        sign_up(client, "Ada")
        with suppress(ValueError):
            sign_up(client, "R2-D2")
    asyncio.run(Worker(app, BROKER, burst=True).run())  # all jobs that are ready
    print("users:", *User.objects.values_list("name", flat=True).distinct().order_by("name"))
    connection.close()
