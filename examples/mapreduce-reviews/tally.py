"""What is found in one review, and the agent that counts the findings."""

from typing import Any, Literal

from aixgo import Agent, AgentSpec, Message
from pydantic import BaseModel


class Finding(BaseModel):
    """One review in short."""

    topic: Literal["breakfast", "noise", "staff", "cleanliness", "other"]
    verdict: Literal["good", "bad"]
    quote: str


class Tally(Agent):
    """Takes the findings in the order of the reviews; answers with a line for each topic, the most criticised first."""

    idempotent = True

    def __init__(self, spec: AgentSpec) -> None:
        self.name, self.role = spec.name, "tally"

    async def execute(self, message: Message) -> Message:
        given: Any = message.payload
        findings = [Finding.model_validate(one) for one in given]
        by_topic: dict[str, list[Finding]] = {}
        for finding in findings:
            by_topic.setdefault(finding.topic, []).append(finding)
        topics = sorted(by_topic.items(), key=lambda item: -len(bad(item[1])))
        return Message("\n".join(line(topic, found) for topic, found in topics), {"findings": len(findings)})


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.verdict == "bad"]


def line(topic: str, findings: list[Finding]) -> str:
    shown = (bad(findings) or findings)[0].quote
    return f'{topic}: {len(findings) - len(bad(findings))} good, {len(bad(findings))} bad; "{shown}"'
