"""The study as a Prefect flow: a task for each run, on this machine, on Ray, on Dask or on Prefect workers.

Import only after `flows.orchestration.settings.prepare()`. Tasks are handed the study's folder and a run's key; what
they make is in files, so that a study that was stopped goes on, and another process takes what is left.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, tags, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from extractors.errors import ConfigError
from flows.orchestration.dispatch import integration
from flows.orchestration.handed import Handed
from flows.orchestration.server import start_for_runs
from flows.orchestration.settings import TAG, check_server
from flows.study.plan import Run, StudyPlan, read_study
from flows.study.work import Status, StudyWork, work_in_process, work_on

log = logging.getLogger("cuepack")

RUN_DEPLOYMENT = "study-run/study-run"

Told = Callable[[Run, "Status | Exception"], None]


@dataclass(frozen=True, slots=True)
class _Given:
    plan: StudyPlan
    work: StudyWork
    tell: Told
    report: Callable[[StudyPlan], str]


def run_study(plan: StudyPlan, work: StudyWork, tell: Told, report: Callable[[StudyPlan], str]) -> None:
    """Trains what is left of `plan` as a flow run, then has `report` written, whose text becomes an artifact.

    Args:
        plan: written to its folder.
        work: how it is carried out.
        tell: is told what became of each run.
        report: makes the report's page; returns its table in Markdown.

    Raises:
        ConfigError: the Prefect server cannot be used, or the engine needs what is missing here.
        CuepackError: no report could be made.
    """
    check_server()
    if work.engine in ("ray", "dask"):
        integration(work.engine)
    start_for_runs()
    with tags(TAG):
        state: State[Any] = study(
            Path(plan.source).name, str(plan.out), Handed(_Given(plan, work, tell, report)), return_state=True
        )
    state.result(raise_on_failure=True)


@flow(name="study", flow_run_name="study of {source}", validate_parameters=False)
def study(source: str, out: str, given: Handed[_Given]) -> State[Any]:
    """Split, train and evaluate every condition, size and seed, then the report; `source` and `out` name the run."""
    plan, work = given.value.plan, given.value.work
    counts: Counter[str] = Counter()
    for run, status in _carried_out(plan, work):
        given.value.tell(run, status)
        counts["failed" if isinstance(status, Exception) else status] += 1
    text = write_report_task(given)
    create_markdown_artifact(text, "study", "Which cue helps")
    message = ", ".join(f"{count} {name}" for name, count in counts.items()) or "all runs were there"
    return Failed(message=message) if counts["failed"] else Completed(message=message)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def write_report_task(given: Handed[_Given]) -> str:
    """The comparison, probes and the page."""
    return given.value.report(given.value.plan)


@task(name="study-run", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_here(out: str, key: str, name: str, device: str) -> Status:
    """One run in a process of its own on this machine; `name` names it."""
    return work_in_process(Path(out), _run(out, key), device)


@task(name="study-run", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_there(out: str, key: str, name: str, device: str) -> Status:
    """One run in the process that Ray or Dask chose; `name` names it."""
    return work_on(read_study(Path(out)), _run(out, key), device)


@flow(name="study-run", flow_run_name="{name}")
def study_run(out: str, key: str, name: str, device: str = "cpu") -> str:
    """One run of a study that another machine planned; its folder and the packets are mounted here.

    Args:
        out: The study's folder.
        key: The run's key in study.json.
        name: The run in words.
        device: cpu or cuda.
    """
    return work_on(read_study(Path(out)), _run(out, key), device)


def _run(out: str, key: str) -> Run:
    found = next((run for run in read_study(Path(out)).runs if run.key == key), None)
    if found is None:
        raise ConfigError(f"{out} has no run {key}; its study.json was replaced by another study's")
    return found


def _carried_out(plan: StudyPlan, work: StudyWork) -> Iterator[tuple[Run, Status | Exception]]:
    if work.engine == "workers":
        yield from _on_workers(plan, work)
        return
    chosen: Any = run_here if work.engine == "local" else run_there
    with _task_runner(work) as runner:
        # All are submitted at once: a study has tens of runs, an extraction's shards go in windows.
        futures = [
            (
                run,
                runner.submit(chosen, {"out": str(plan.out), "key": run.key, "name": run.name, "device": work.device}),
            )
            for run in plan.todo()
        ]
        for run, future in futures:
            try:
                result = future.result(raise_on_failure=False)
            except Exception as lost:  # Ray and Dask have errors of their own for a process that died
                result = lost
            yield run, result


@contextmanager
def _task_runner(work: StudyWork) -> Iterator[TaskRunner[Any]]:
    if work.engine == "local":
        runner: Any = ThreadPoolTaskRunner(max_workers=work.workers)
    elif work.engine == "ray":
        own: dict[str, Any] = (
            {} if work.address else {"init_kwargs": {"include_dashboard": False, "num_cpus": work.workers}}
        )
        runner = integration("ray").RayTaskRunner(address=work.address, **own)
    else:
        cluster: dict[str, Any] = {"n_workers": work.workers, "threads_per_worker": 1, "dashboard_address": None}
        own = {"address": work.address} if work.address else {"cluster_kwargs": cluster}
        runner = integration("dask").DaskTaskRunner(**own)
    with runner as active:
        yield active


def _on_workers(plan: StudyPlan, work: StudyWork) -> Iterator[tuple[Run, Status | Exception]]:
    def start(run: Run) -> Status | Exception:
        parameters = {"out": str(plan.out), "key": run.key, "name": run.name, "device": work.device}
        try:
            # The key keeps a request whose answer was lost from starting the run twice.
            done: Any = run_deployment(RUN_DEPLOYMENT, parameters=parameters, timeout=None, idempotency_key=run.key)
        except ObjectNotFound as error:
            return ConfigError(
                f"the server has no deployment {RUN_DEPLOYMENT}; `cuepack deploy --pool` registers it: {error}"
            )
        if done.state is None or not done.state.is_completed():
            return RuntimeError(f"{run.name}: {done.state.message if done.state else 'no state'}")
        return "trained"

    todo = plan.todo()
    with ThreadPoolExecutor(max(1, work.workers)) as pool:
        yield from zip(todo, pool.map(start, todo), strict=True)
