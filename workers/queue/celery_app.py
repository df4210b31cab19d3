"""Celery, set up so that a message can be lost, doubled or late and nothing is wrong.

A message only wakes a worker up: it takes whatever the database says is next. So messages are
acknowledged when they arrive, results are not kept, and no message waits for a time to come.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu.entity import Queue

from sandbox.core.errors import RequestError
from workers.settings import ServiceSettings

SERVICE_QUEUE = "service"
ENOUGH = 8  # messages in a host's queue: more would wake no further worker
# No rehearsal's deadlines add up to this. A message that is not acknowledged by then comes again.
SOFT_LIMIT, HARD_LIMIT, VISIBILITY = 12 * 3600, 12 * 3600 + 900, 14 * 3600


def queue_of(host: str) -> str:
    return f"host.{host}"


def make_app(settings: ServiceSettings) -> Celery:
    """The Celery app; nothing is connected yet."""
    broker = settings.broker
    if urlsplit(broker).scheme not in ("redis", "rediss", "redis+socket"):
        raise RequestError(
            "the broker is no Redis", "redis://HOST:6379/0, rediss://… or redis+socket:///PATH"
        )
    app = Celery("sandbox", broker=broker)
    app.conf.update(**_CONFIGURATION)
    return app


def backlog(app: Celery, queue: str) -> int:
    """How many messages wait in a queue, because no worker takes them or all are busy."""
    with app.pool.acquire(block=True) as connection:
        return int(connection.default_channel.client.llen(queue))


def announce(app: Celery, host: str, count: int = 1) -> None:
    """Wake a host's workers. Should the message be lost, the next tick sends another.

    What is said is in the database by now, so a message that still waits will do as well.
    """
    queue = queue_of(host)
    for _ in range(min(count, ENOUGH - backlog(app, queue))):
        app.send_task("sandbox.wake", (host,), queue=queue, ignore_result=True)


_TRANSPORT: dict[str, Any] = {
    "visibility_timeout": VISIBILITY,
    # A connection that a firewall dropped silently is noticed.
    "socket_keepalive": True,
    "socket_connect_timeout": 10,
    "health_check_interval": 25,
    "retry_on_timeout": True,
}
_CONFIGURATION: dict[str, Any] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "task_ignore_result": True,
    "task_default_queue": SERVICE_QUEUE,
    "task_queues": [Queue(SERVICE_QUEUE)],
    "task_create_missing_queues": True,
    "task_acks_late": False,
    "task_soft_time_limit": SOFT_LIMIT,
    "task_time_limit": HARD_LIMIT,
    "worker_prefetch_multiplier": 1,
    # What libvirt and lxml lose in memory is given back now and then. A child of its own for each
    # message would cost more than what most messages ask for.
    "worker_max_tasks_per_child": 50,
    "worker_max_memory_per_child": 400_000,  # KiB
    # A child that a busy machine starts slowly is not killed for it: 4 s are Celery's.
    "worker_proc_alive_timeout": 120.0,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_transport_options": _TRANSPORT,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # A Redis that is full, of memory or of disk, refuses to be told anything (a channel's error to
    # Celery, of which a worker would die with all that it is doing): as good as away.
    "broker_channel_error_retry": True,
    "broker_pool_limit": 4,
    "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0.2, "interval_max": 1.0},
    "timezone": "UTC",
}
