"""The promises that the conformance suite holds: one sentence each, and the tests that carry its id.

`test_requirements.py` fails for a promise without a test, and for a test here without a promise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

TestT = TypeVar("TestT", bound=Callable[..., object])

PROMISES: dict[str, str] = {
    # calls
    "call.reply": "A call ends with the reply of the agent that was named.",
    "call.payloads": "Text, bytes and JSON values arrive as they were sent, metadata and session with them.",
    "call.session": "A session is inherited by all calls below, unless a message has one of its own.",
    "call.unknown": "A name that was never seen ends with AgentNotFound.",
    "call.unready": "A known name without a ready instance ends with AgentUnavailable after about 2 s.",
    "call.wait_for_ready": "With wait_for_ready the call waits for an instance until its deadline.",
    "call.too_large": "A message over the size limit ends with MessageTooLarge.",
    "call.invalid_reply": "What an agent returns that is no message ends with InvalidReply.",
    "call.depth": "At most 10 calls lie inside one another; a circle of agents ends with DepthExceeded.",
    # limits
    "limits.queue": "Calls beyond what an agent takes at once wait their turn; beyond its queue they are refused.",
    "limits.deadline": "A call that could not end in time, as long as calls take, is refused instead of waiting.",
    "limits.elsewhere": "What one instance has no room for is taken by another, idempotent or not.",
    "limits.rate": "Each caller may call a process so often; what is too much was not accepted, and may go elsewhere.",
    # errors
    "errors.class": "A caller catches the class that the agent raised, with its fields, wherever the agent lives.",
    "errors.foreign": "An exception that is none of aixgo's arrives as AgentFailed that names it.",
    "errors.path": "An error names the agents from the root of the call tree down to the one that failed.",
    "errors.usage": "An error carries what the failed call has spent.",
    "errors.not_retried": "An error that an agent raised is not retried, not even for an idempotent agent.",
    "errors.own_cancellation": "An agent that awaits something cancelled fails with CallCancelled; its caller goes on.",
    # streams
    "stream.order": "Events come in the order in which they were yielded, the Result last.",
    "stream.terminal": "A stream has exactly one terminal outcome; without a Result it is an error.",
    "stream.errors": "An error is raised after the events that came before it.",
    "stream.path": "Every event says which agents it comes from.",
    "stream.members": "The events of an orchestrator's members come up between MemberStarted and MemberFinished.",
    "stream.default": "An agent without a stream of its own streams its reply as one Result.",
    "stream.bounded": "An agent waits for a reader that is slower, so that no stream fills the memory.",
    "stream.alone": "A reader that stands still holds up its own stream only.",
    "stream.leave": "Leaving a stream early stops the agent.",
    # cancellation and deadlines
    "cancel.stops": "Cancelling a call stops the agent that works on it.",
    "cancel.alone": "Cancelling one call leaves the others alone.",
    "cancel.cascades": "Cancelling a call stops the whole tree below it, over processes.",
    "deadline.inherited": "The deadline is inherited over all hops.",
    "deadline.shortened": "A deadline can only be shortened.",
    "deadline.default": "A call that inherits no deadline has 300 s.",
    "deadline.stops": "When the deadline passes the caller gets DeadlineExceeded, and the agent is cancelled.",
    "deadline.stubborn": "An agent that ignores its cancellation does not hold up its caller.",
    "deadline.stream": "A stream ends with DeadlineExceeded when its deadline passes.",
    # several calls
    "parallel.ordered": "call_parallel returns ordered outcomes, results and errors, and raises for no agent.",
    "parallel.by_name": "Outcomes can be looked up by name.",
    "parallel.concurrency": "call_parallel runs all calls at once, or as many as `concurrency` says.",
    # usage and budgets
    "usage.reply": "A reply carries the usage of all LLM calls below it, each counted once.",
    "usage.left": "What a call has spent that was left early, or came too late, is counted or marked incomplete.",
    "usage.stripped": "Usage that a caller writes on a request is removed.",
    "budget.refused": "An LLM call that its budget cannot pay is refused with BudgetExceeded.",
    "budget.inherited": "A budget is inherited; a sequential member gets what is left.",
    "budget.shares": "Parallel members get equal shares of a budget.",
    # messages
    "messages.delivered": "A sent message reaches the mailbox of the agent, in order.",
    "messages.new_tree": "A delivery begins a new call tree that knows its sender.",
    "messages.session": "A message that is sent inside a call belongs to the call's session.",
    "messages.again": "A delivery that fails comes again, with its attempt counted.",
    "messages.bounded": "A full mailbox refuses with MailboxFull.",
    "messages.unknown": "A message to an unknown agent is refused with AgentNotFound.",
    "messages.outputs": "A reactive agent sends its replies to its outputs.",
    "messages.restart": "A reactive agent whose start fails is started again.",
    "messages.broadcast": "broadcast reaches every name it can, and says which it could not and why.",
    "messages.recv": "recv gives the messages of a named agent of this process.",
    # agents
    "agents.names": "list_agents has every name that can be called, sorted, without unnamed members.",
    "agents.proxy": "get_agent returns an agent that answers, with its role and idempotence; unknown ones raise.",
    "agents.register": "An agent registered with a runtime can be called, until it is unregistered.",
    "agents.invalid": "Duplicate and unusable names, and what is no agent, are refused, typed.",
    "agents.connect": "connect and disconnect work on fixed addresses, or are refused, typed.",
    # state
    "state.health": "health asks every agent of this process.",
    "state.metrics": "metrics count agents, calls by outcome, messages, and latencies.",
    # patterns
    "patterns.sequential": "Sequential hands each output on; an error names its step.",
    "patterns.parallel": "Parallel merges what succeeded, and fails only if none did.",
    "patterns.router": "Router calls the agent of the category; the fallback where there is none.",
    "patterns.nested": "Patterns nest.",
    "patterns.idempotent": "An orchestrator is idempotent when all its members are, wherever they live.",
    "patterns.metadata": "A pattern's reply says pattern, agents, tokens and cost.",
    # only processes
    "fleet.replicas": "Calls are spread over the instances of a name.",
    "fleet.first_call": "Whom an agent is known to call is found though all control planes died before the first call.",
    "fleet.hedged": "A hedged call has the reply of whichever instance answers first; the other ends.",
    "fleet.hedged_usage": "What the loser of a hedged call has spent is counted once, or the usage is incomplete.",
    "fleet.hedged_idempotent": "A call of an agent that is not idempotent is never hedged.",
    "fleet.ejected": "An instance that refuses connections gets no calls until it is healthy; then it has some again.",
    "fleet.rests": "An instance that refuses calls of one agent is left alone with those, and has calls of the others.",
    "fleet.least_loaded": "Calls go to the instance that says that it runs fewer, whoever made those.",
    "fleet.retry_budget": "Retries add a fifth to the calls at most, after the first 200.",
    "fleet.killed": "Killing one of two instances fails no call to an idempotent agent.",
    "fleet.frozen": "An instance that stands still fails no idempotent call, and has calls again when it moves on.",
    "fleet.control_plane": "Killing the control plane fails no call; when it is back all are listed within one lease.",
    "fleet.lost": "A name whose only instance was killed ends with AgentUnavailable within bounds.",
    "fleet.refused": "A call that an instance refuses is taken by another one, idempotent or not.",
    "fleet.two_control_planes": "With two control planes either may die, and new instances are still found.",
    "fleet.registry": "Without any control plane a name ends with RegistryUnavailable within bounds.",
    "fleet.not_repeated": "A call that broke off is not repeated when its agent is not idempotent.",
    "fleet.repeated": "A call that broke off is repeated on another instance when its agent is idempotent.",
    "fleet.drain": "Draining one of two instances fails no call, idempotent or not.",
    "fleet.broken_stream": "A stream that breaks off ends with one typed error.",
    "fleet.overloaded": "An instance with as many calls as it may have refuses more with Overloaded.",
    "wire.grpcurl": "A foreign client lists the services by reflection, calls Execute and gets typed errors.",
    "wire.cancel": "Cancel stops a call by its id and says what it has spent.",
    "wire.deliver": "A foreign client can put a message into a mailbox.",
    "wire.deadline": "The gRPC deadline of a foreign client is the call's.",
    "wire.hostile": "Bytes that are no gRPC, and requests that are no calls, do not hurt a server.",
    "wire.too_large": "What is too large only as JSON, or as a reply, ends with MessageTooLarge.",
    "wire.port": "A port in use is a typed error that names the fix.",
    "wire.health": "A server answers health checks for itself and each agent.",
    "wire.trace": "The trace of a caller goes on in the callee, and links to what a message starts.",
}


def promise(*ids: str) -> Callable[[TestT], TestT]:
    """Say which promises a test holds; raises KeyError for one that is not in PROMISES."""
    for one in ids:
        PROMISES[one]

    def mark(test: TestT) -> TestT:
        setattr(test, "promises", ids)  # noqa: B010  # a type checker knows no attributes of functions
        return test

    return mark
