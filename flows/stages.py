"""A stage of a flow as a Prefect task: tried again, later each time, where that can help."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from schemas.errors import TapstateError

T = TypeVar("T")


def _words_alone(record: logging.LogRecord) -> bool:
    """Our errors say what is wrong and what mends it; where in the code they were raised helps nobody who reads a night's log."""
    if record.exc_info and isinstance(record.exc_info[1], TapstateError):
        record.exc_info = record.exc_text = None
    return True


for name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(name).addFilter(_words_alone)


def _worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """An error that we raised ourselves will not go away by trying again."""
    return not isinstance(state.result(raise_on_failure=False), TapstateError)


def stage_task(name: str, work: Callable[[], T]) -> Task[[], T]:
    """One stage as a task. It takes no arguments, so that Prefect neither hashes nor stores what stages hand on."""
    return task(
        name=name,
        retries=2,
        retry_delay_seconds=exponential_backoff(2),
        retry_condition_fn=_worth_retrying,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(work)


def stage(name: str, work: Callable[[], T]) -> T:
    """Run one stage."""
    return stage_task(name, work)()
