"""A fleet of agents on this machine sorts support messages: `make run`.

Starts what support-desk.yaml describes as processes of their own (a control plane, the agents, one of them twice, an
orchestrator, and one that serves the embedded model to the others), sends every labelled message of messages.jsonl,
and prints who answered what, where, at what cost, and how much of it was right.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aixgo import AixgoError, DistributedRuntime, MemberFinished
from aixgo.config.load import load
from aixgo.llm.weights import find_weights, pull_weights
from aixgo.runtime.instance import Instance
from aixgo_services.supervisor import Fleet
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).resolve().parent
AT_ONCE = 2
"""Messages on their way at the same time: one for each instance of `team`."""
console = Console(width=max(130, Console().width))


@dataclass
class Answer:
    """What became of one message."""

    label: dict[str, object]
    seconds: float = 0.0
    tokens: int = 0
    said: dict[str, str] = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    priority: str = ""
    error: str = ""

    def right(self, agent: str) -> bool | None:
        """Whether an agent's answer is the label; None where there is nothing to compare."""
        if agent not in self.said or agent not in LABELS:
            return None
        return self.said[agent] == LABELS[agent](self.label)


LABELS = {
    "team": lambda label: label["team"],
    "sentiment": lambda label: label["sentiment"],
    "urgency": lambda label: "urgent" if label["urgent"] else "normal",
}


async def main() -> int:
    """Run the job; the exit code."""
    if not await model_is_there():
        return 2
    file = HERE / "support-desk.yaml"
    labels = [json.loads(line) for line in (HERE / "messages.jsonl").read_text().splitlines()]
    console.print(f"Starting the fleet of [bold]{file.name}[/] ...")
    began = time.perf_counter()
    async with Fleet(load(file), file) as fleet, DistributedRuntime(control_plane=[fleet.control_plane]) as runtime:
        for process in fleet.processes:
            console.print(f"  pid {process.pid:<8} {process.name}")
        console.print(f"up in {time.perf_counter() - began:.1f} s; {len(labels)} messages to sort")
        answers = await sort(runtime, labels)
        instances = await runtime.all_instances()
        pids = {instance.instance_id: instance.labels.get("pid", "?") for instance in instances}
        show(answers, name_instances(instances), pids)
        console.print("Draining the fleet ...")
    console.print("Stopped.")
    return 1 if any(answer.error for answer in answers) else 0


async def model_is_there() -> bool:
    """Fetch the embedded model's weights if need be; say what else there is where it cannot be had."""
    try:
        import xllamacpp  # noqa: F401  # only whether it is installed

        if find_weights() is None:
            columns = (TextColumn("fetching the embedded model"), BarColumn(), DownloadColumn())
            with Progress(*columns, console=console) as progress:
                task = progress.add_task("", total=None)
                await pull_weights(progress=lambda done, total: progress.update(task, completed=done, total=total))
    except (ImportError, AixgoError) as error:
        console.print(f"[bold red]The embedded model cannot be installed here:[/] {error}")
        console.print(
            "What to do instead: set OPENAI_API_KEY and write `model: openai/gpt-4o-mini` into support-desk.yaml,\n"
            "or run Ollama and write `model: ollama/llama3.2`."
        )
        return False
    return True


async def sort(runtime: DistributedRuntime, labels: list[dict[str, object]]) -> list[Answer]:
    """Send every message to the orchestrator, a few at a time."""
    slots = asyncio.Semaphore(AT_ONCE)
    columns = (TextColumn("sorting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(labels))

        async def one(label: dict[str, object]) -> Answer:
            async with slots:
                answer = await ask(runtime, label)
                progress.advance(task)
                return answer

        return await asyncio.gather(*(one(label) for label in labels))


async def ask(runtime: DistributedRuntime, label: dict[str, object]) -> Answer:
    """Send one message and note what every member of the orchestration answers."""
    answer, began = Answer(label), time.perf_counter()
    try:
        async with runtime.stream("triage", str(label["text"]), timeout=120) as events:
            async for event in events:
                if isinstance(event, MemberFinished) and event.message is not None:
                    member = event.path[-1]
                    answer.by[member] = event.instance_id
                    answer.spent[member] = event.message.usage.total_tokens
                    if member == "ticket":
                        answer.priority = event.message.payload["priority"]
                    else:
                        answer.said[member] = event.message.text
            answer.tokens = events.result.usage.total_tokens
    except AixgoError as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.seconds = time.perf_counter() - began
    return answer


def name_instances(instances: Sequence[Instance]) -> dict[str, str]:
    """Instances by the name of their agent and a number: team-1, team-2."""
    names: dict[str, str] = {}
    count: Counter[str] = Counter()
    for instance in sorted(instances, key=lambda i: i.address):
        agent = instance.agents[0].name
        count[agent] += 1
        names[instance.instance_id] = f"{agent}-{count[agent]}"
    return names


def show(answers: list[Answer], names: dict[str, str], pids: dict[str, str]) -> None:
    """Print a row for every message, then a row for every instance."""
    table = Table(title="What was answered; where the model was wrong, the label stands behind it")
    table.add_column("message", no_wrap=True, overflow="ellipsis", max_width=42)
    for title, width in (("team", 20), ("by", 6), ("sentiment", 22), ("urgency", 18), ("ticket", 6)):
        table.add_column(title, no_wrap=True, min_width=width)
    for title in ("tokens", "s"):
        table.add_column(title, no_wrap=True, min_width=4, justify="right")
    for answer in answers:
        cells = [marked(answer, agent) for agent in LABELS]
        table.add_row(
            str(answer.label["text"]),
            cells[0],
            names.get(answer.by.get("team", ""), "-"),
            *cells[1:],
            answer.priority or f"[red]{answer.error}[/]",
            str(answer.tokens),
            f"{answer.seconds:.1f}",
        )
    console.print(table)
    console.print(summary(answers, names, pids))
    seconds = sorted(answer.seconds for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    console.print(f"{len(answers)} messages, {tokens} tokens, {seconds[len(seconds) // 2]:.1f} s a message (median)")
    console.print(
        "[dim]A model of 135 million parameters on one thread. A person labelled the messages; the prompts were chosen"
        " with them at hand, so expect somewhat less on others.[/]"
    )


def marked(answer: Answer, agent: str) -> str:
    """An agent's answer, green when it is the label; else struck out in red, before the label."""
    if agent not in answer.said:
        return "-"
    said = answer.said[agent]
    if answer.right(agent):
        return f"[green]{said}[/]"
    wrong = f"[red strike]{said}[/]" if console.is_terminal else f"not {said},"
    return f"{wrong} {LABELS[agent](answer.label)}"


def summary(answers: list[Answer], names: dict[str, str], pids: dict[str, str]) -> Table:
    """What each instance did."""
    table = Table("instance", "process", "answers", "tokens", "right", title="Who did it")
    done: dict[str, list[tuple[str, Answer]]] = defaultdict(list)
    for answer in answers:
        for agent, instance_id in answer.by.items():
            done[instance_id].append((agent, answer))
    for instance_id, each in sorted(done.items(), key=lambda item: names.get(item[0], "")):
        judged = [verdict for agent, answer in each if (verdict := answer.right(agent)) is not None]
        share = f"{sum(judged)} of {len(judged)} ({sum(judged) / len(judged):.0%})" if judged else "rules, no model"
        tokens = sum(answer.spent[agent] for agent, answer in each)
        table.add_row(names.get(instance_id, "?"), pids.get(instance_id, "?"), str(len(each)), str(tokens), share)
    for agent in LABELS:
        judged = [verdict for answer in answers if (verdict := answer.right(agent)) is not None]
        if judged:
            table.add_row(
                f"[bold]{agent}[/]", "", str(len(judged)), "", f"[bold]{sum(judged) / len(judged):.0%} right[/]"
            )
    return table


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        sys.exit(asyncio.run(main()))
    except AixgoError as error:
        console.print(f"[bold red]{type(error).__name__}:[/] {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
