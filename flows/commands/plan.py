"""`cuepack plan`: what a run would take, before it begins."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from flows.commands.options import FINISHED, FilePath, OutputPath, assignments, print_json

if TYPE_CHECKING:
    from flows.output.directory import OutputDirectory
    from flows.run.forecast import Figure, Forecast

DEVICE_NAMES = ("a100", "h100", "h200", "l4", "rtx4090", "cpu")
"""Those of `flows.models.service_times.DEVICES`, and "cpu", listed here too so that the command line's help loads no
configuration; a test compares both lists."""


@click.command()
@click.argument("source")
@click.option("--device", type=click.Choice(DEVICE_NAMES), help="Where networks run [default: cpu, or a100 with gpu].")
@click.option("--profile", type=click.Choice(["auto", "cpu", "gpu", "gpu-open"]), help="As of `extract`.")
@click.option("--like", type=OutputPath(), help="Output directory of a run on this machine; else the sample is timed.")
@click.option("--reading", type=click.FloatRange(min=0.1), help="Speed of reading SOURCE, MB/s [default: 200].")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many episodes.")
@click.option("--workers", type=click.IntRange(min=1), help="Episodes worked on at once [default: CPU cores].")
@click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; repeat.")
@click.option("--config", "config_file", type=FilePath(), help="Settings in a YAML file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def plan(source: str, like: OutputDirectory | None, as_json: bool, **options: Any) -> None:
    """Say what a run over SOURCE would take: hours, gigabytes, the bottleneck, and how many workers.

    SOURCE is listed and not opened. Each number says whether it was counted, published, measured or assumed. Without
    --like, one episode of the bundled sample is worked on, which takes half a minute.
    """
    from flows.config import load_config
    from flows.run.forecast import Question, forecast

    config = load_config(options["config_file"], assignments(options))
    question = Question(
        source,
        config,
        device=options["device"],
        like=like,
        limit=options["limit"],
        reading_mb_s=options["reading"],
    )
    answer = forecast(question)
    if as_json:
        counts = {"episodes": int(answer.extent.episodes.value), "filtered": answer.extent.filtered}
        print_json("plan", FINISHED, counts=counts, plan=asdict(answer))
        return
    print("\n".join(_lines(answer)))


def _lines(answer: Forecast) -> list[str]:
    extent = answer.extent
    lines = [
        f"source      {answer.kind} {answer.location}",
        f"device      {answer.device}, profile {answer.profile}, {answer.workers} workers",
        f"episodes    {_figure(extent.episodes, ',.0f')}, {extent.filtered} filtered",
        f"frames      {_figure(extent.frames, ',.0f')}",
        f"to read     {_figure(extent.source_gb, '.3g', ' GB')}",
        f"packets     {_figure(answer.packets_gb, '.3g', ' GB')}",
        f"in .work    {_figure(answer.work_gb, '.3g', ' GB')} at most at once",
        "",
        f"hours       {_figure(answer.hours_overlapped, '.3g')} where device, CPU and reading overlap, "
        f"{answer.hours_in_turn.value:.3g} where they do not",
        f"  CPU       {_figure(answer.cpu_hours, '.3g')}",
        f"  reading   {_figure(answer.reading_hours, '.3g')}: {answer.reading_hours.source}",
    ]
    if answer.workers_for_device is not None:
        lines.append(f"  device    {_figure(answer.device_hours, '.3g')}")
        lines.append(f"workers     {_figure(answer.workers_for_device, '.0f')} keep the device busy")
    lines += [f"bottleneck  {answer.bottleneck}", "", *_stage_lines(answer), "", "where the numbers are from"]
    return lines + [f"  {line}" for line in sorted(_sources(answer))]


def _stage_lines(answer: Forecast) -> list[str]:
    frames = answer.extent.frames.value
    lines = ["stage        device ms/frame  CPU ms/frame"]
    for share in answer.stages:
        device, cpu = (1e3 * part.value / frames for part in (share.device, share.cpu))
        lines.append(f"{share.stage:<12} {device:>15.2f} {cpu:>13.2f}")
    return lines


def _sources(answer: Forecast) -> set[str]:
    parts = [share.cpu for share in answer.stages] + [answer.packets_gb, answer.work_gb, answer.extent.source_gb]
    said = {f"{part.origin}: {part.source}" for part in parts}
    networks = [share.network for share in answer.stages if share.network is not None]
    return said | {f"{network.origin}: {1e3 * network.value:.1f} ms a frame, {network.source}" for network in networks}


def _figure(figure: Figure, shape: str, unit: str = "") -> str:
    return f"{format(figure.value, shape)}{unit} ({figure.origin})"
