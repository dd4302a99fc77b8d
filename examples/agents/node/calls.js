// Calls that run here: admission, deadline, depth, cancellation and what they spend. Knows nothing of RPCs.
// Below it: contract.js, for the errors. Above it: service.js, which maps RPCs to calls.

import grpc from '@grpc/grpc-js';
import { AixgoError } from './contract.js';

const { status } = grpc;

const DEFAULT_TIMEOUT_MS = 300_000;
/** What setTimeout can hold: 24 days. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/** The server's own deadline ends this much, at most a tenth, before the caller's: its typed error gets there first. */
const MARGIN_MS = 50;
const MAX_DEPTH = 10;
const MAX_CALLS = 1000;
/** How long Cancel waits for the call to end; its caller waits 100 ms. */
const CANCEL_WAIT_MS = 80;
/** Calls whose usage is kept for a Cancel that comes after they were cancelled. */
const REMEMBERED = 1000;

/** One call, from admission to its end. Agents get it as their second argument. */
export class Call {
  #stop = new AbortController();
  #usage = { promptTokens: 0, completionTokens: 0, llmCalls: 0, unpricedCalls: 0 };

  constructor(agent, context, deadline, traceparent) {
    this.id = context.callId;
    this.path = [...context.agentPath, agent];
    this.depth = context.depth + 1;
    this.sessionId = context.sessionId;
    /** The trace that the call belongs to: whatever the agent calls gets it as a header of the same name. */
    this.traceparent = traceparent;
    /** The tokens that may be spent; Infinity: no limit from above. */
    this.tokens = context.grant?._tokens ? context.grant.tokens : Infinity;
    const said = context.timeoutMs > 0 ? context.timeoutMs : DEFAULT_TIMEOUT_MS;
    const left = Math.min(deadline - Date.now(), said, LONGEST_TIMER_MS);
    this.ended = new Promise((resolve) => { this.end = resolve; });
    this.timer = setTimeout(() => this.stop(pastDeadline()), Math.max(0, left - Math.min(MARGIN_MS, left / 10)));
  }

  /** Aborts when the deadline passes, or when the call is cancelled: pass it to everything that waits. */
  get signal() {
    return this.#stop.signal;
  }

  /** What was spent so far, or null: nothing. */
  get usage() {
    return this.#usage.llmCalls ? { ...this.#usage } : null;
  }

  /** Stop the agent; `reason` is what the caller gets. */
  stop(reason) {
    this.#stop.abort(reason);
  }

  /** Count what one call of an LLM spent; its price is not known. */
  spend({ promptTokens = 0, completionTokens = 0 }) {
    this.#usage.promptTokens += promptTokens;
    this.#usage.completionTokens += completionTokens;
    this.#usage.llmCalls += 1;
    this.#usage.unpricedCalls += 1;
  }

  /** Throw BudgetExceeded when fewer than `tokens` are left of the budget: to be asked before they are spent. */
  afford(tokens) {
    const left = this.tokens - this.#usage.promptTokens - this.#usage.completionTokens;
    if (tokens > left) {
      throw new AixgoError('BudgetExceeded', status.RESOURCE_EXHAUSTED,
        `${tokens} tokens are needed and ${left} are left of the budget; raise max_tokens, or ask for less`);
    }
  }

  /** What went wrong, as the error that the caller gets: typed, with the path and with what was spent. */
  failure(thrown) {
    const cause = this.signal.aborted ? this.signal.reason : thrown;
    const error = cause instanceof AixgoError ? cause : agentFailed(cause);
    error.path = error.path.length ? error.path : this.path;
    error.usage = this.usage;
    return error;
  }
}

/** The calls of one process, at most MAX_CALLS at once. */
export class Calls {
  #agents;
  #running = new Map();
  #spent = new Map();
  #unnamed = 0;
  draining = false;

  constructor(agents) {
    this.#agents = new Map(agents.map((agent) => [agent.name, agent]));
  }

  /** How many run now. */
  get count() {
    return this.#running.size;
  }

  /** The agent to call; throws a refusal, which lets the caller try another instance. */
  admit(name) {
    if (!name) throw new AixgoError('InvalidInput', status.INVALID_ARGUMENT, 'agent is empty; name the agent to call');
    if (this.draining) throw refused('InstanceDraining', status.UNAVAILABLE, 'this instance is draining');
    if (this.count >= MAX_CALLS) {
      throw refused('Overloaded', status.RESOURCE_EXHAUSTED, `${MAX_CALLS} calls run here, as many as may`, 100);
    }
    const agent = this.#agents.get(name);
    if (!agent) {
      const here = [...this.#agents.keys()].join(', ');
      throw refused('AgentNotFound', status.NOT_FOUND, `no agent named '${name}' lives here; here: ${here}`);
    }
    return agent;
  }

  /** Run an agent: `onDelta` gets each piece of text it yields. The reply that it returns, or a typed error. */
  async run(agent, message, call, onDelta) {
    const key = call.id && !this.#running.has(call.id) ? call.id : `#${(this.#unnamed += 1)}`;
    this.#running.set(key, call);
    let steps = null;
    try {
      checkDepth(call);
      steps = agent.run(message, call);
      for (let step = await this.#next(steps, call); ; step = await this.#next(steps, call)) {
        if (step.done) return step.value;
        await onDelta(step.value);
      }
    } catch (thrown) {
      throw call.failure(thrown);
    } finally {
      steps?.return().catch(() => {}); // lets an agent that was stopped clean up
      clearTimeout(call.timer);
      this.#running.delete(key);
      if (call.signal.aborted) this.#remember(key, call.usage);
      call.end();
    }
  }

  /** Cancel a call and say what it spent: `{ found, usage }` of CancelResponse. */
  async cancel(id) {
    const call = this.#running.get(id);
    if (call) {
      call.stop(cancelled());
      const late = await Promise.race([call.ended, pause(CANCEL_WAIT_MS)]);
      if (late) return { found: true, usage: { ...call.usage, incomplete: true } };
    }
    const found = this.#spent.has(id);
    const usage = this.#spent.get(id) ?? null;
    this.#spent.delete(id);
    return { found, usage };
  }

  /** Refuse new calls and wait for those that run; after `milliseconds` cancel them. */
  async finish(milliseconds) {
    this.draining = true;
    const all = Promise.all([...this.#running.values()].map((call) => call.ended));
    if (await Promise.race([all, pause(milliseconds)]) === LATE) {
      for (const call of this.#running.values()) call.stop(cancelled());
      await Promise.race([all, pause(CANCEL_WAIT_MS)]);
    }
  }

  /** The agent's next step, or the end of the call, whatever comes first: an agent that ignores it holds up nobody. */
  #next(steps, call) {
    return new Promise((resolve, reject) => {
      const stopped = () => reject(call.signal.reason);
      if (call.signal.aborted) stopped();
      call.signal.addEventListener('abort', stopped, { once: true });
      steps.next().then(resolve, reject).finally(() => call.signal.removeEventListener('abort', stopped));
    });
  }

  #remember(id, usage) {
    this.#spent.set(id, usage);
    if (this.#spent.size > REMEMBERED) this.#spent.delete(this.#spent.keys().next().value);
  }
}

const LATE = Symbol('late');

function pause(milliseconds) {
  return new Promise((resolve) => { setTimeout(resolve, milliseconds, LATE).unref(); });
}

function checkDepth(call) {
  if (call.depth > MAX_DEPTH) {
    throw new AixgoError('DepthExceeded', status.RESOURCE_EXHAUSTED,
      `${call.depth} calls inside one another, and ${MAX_DEPTH} are allowed: ${call.path.join(' > ')}`);
  }
}

function refused(errorClass, code, message, retryAfterMs = 0) {
  return new AixgoError(errorClass, code, message, { accepted: false, retryAfterMs });
}

function pastDeadline() {
  return new AixgoError('DeadlineExceeded', status.DEADLINE_EXCEEDED, 'the deadline passed');
}

/** The error of a call that was cancelled from this side, or whose caller has gone. */
export function cancelled() {
  return new AixgoError('CallCancelled', status.CANCELLED, 'the call was cancelled where it ran');
}

function agentFailed(thrown) {
  const exception = thrown?.constructor?.name ?? typeof thrown;
  const message = `${exception}: ${thrown?.message ?? thrown}`;
  return new AixgoError('AgentFailed', status.UNKNOWN, message, { fields: { exception } });
}
