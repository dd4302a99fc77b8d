// Calls an aixgo agent: `node client.js call|stream|cancel HOST:PORT AGENT TEXT [SECONDS]`. README.md tells more.
//
// Prints one JSON object a line, and ends with 1 when the call failed.

import { randomBytes } from 'node:crypto';
import { promisify } from 'node:util';
import grpc from '@grpc/grpc-js';
import { AgentService, errorDetails, payload } from './aixgo.js';

const [verb, address, agent, text = '', seconds = '30'] = process.argv.slice(2);
const verbs = { call, stream, cancel };
if (!(verb in verbs) || !agent) {
  console.error('usage: node client.js call|stream|cancel HOST:PORT AGENT TEXT [SECONDS]');
  process.exit(2);
}

const client = new AgentService(address, grpc.credentials.createInsecure());

/** What every call says: the agent, the message, and an id that Cancel can name. */
const request = () => ({ agent, message: { text }, context: { callId: randomBytes(16).toString('hex') } });

/** The trace that the call belongs to, as a W3C header: the environment's, else a new one. */
function headers() {
  const metadata = new grpc.Metadata();
  const fresh = () => `00-${randomBytes(16).toString('hex')}-${randomBytes(8).toString('hex')}-01`;
  metadata.set('traceparent', process.env.TRACEPARENT || fresh());
  return metadata;
}

/** The deadline of the whole call tree, in every process that it reaches. */
const options = () => ({ deadline: Date.now() + Number(seconds) * 1000 });

async function call() {
  const response = await promisify(client.execute.bind(client))(request(), headers(), options());
  print({ reply: payload(response.message), instance: response.instanceId, usage: usage(response.message.usage) });
}

async function stream() {
  let terminal = false;
  for await (const frame of client.executeStream(request(), headers(), options())) {
    if (frame.frame === 'error') continue; // the RPC ends with the same error, which is raised here
    print(described(frame.event));
    terminal = frame.event.kind === 'result';
  }
  if (!terminal) throw new Error('the stream broke off: it ended without a terminal frame');
}

/** Leaves a stream as soon as one member of an orchestrator is done, and asks what was spent. */
async function cancel() {
  const wanted = request();
  const events = client.executeStream(wanted, headers(), options());
  for await (const frame of events) {
    if (frame.event) print(described(frame.event));
    if (frame.event?.kind === 'memberFinished') break;
  }
  events.on('error', () => {}).cancel(); // ends the RPC, which cancels the agent; leaving the loop alone does not
  const asked = { deadline: Date.now() + 1000 };
  const { callId } = wanted.context;
  const answer = await promisify(client.cancel.bind(client))({ callId }, headers(), asked);
  print({ cancelled: answer.found, usage: usage(answer.usage) });
}

function described(event) {
  const line = { event: event.kind.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), path: event.agentPath };
  if (event.kind === 'delta') line.text = event.delta.text;
  if (event.kind === 'result') {
    line.reply = payload(event.result.message);
    line.usage = usage(event.result.message.usage);
  }
  return line;
}

/** An unset usage is none: the call cost nothing. USD stay the decimal text that they are. */
function usage(spent) {
  const { promptTokens = 0, completionTokens = 0, costUsd = '', incomplete = false } = spent ?? {};
  return { tokens: promptTokens + completionTokens, cost_usd: costUsd, incomplete };
}

function failed(failure) {
  if (failure.code === undefined) throw failure;
  const known = errorDetails(failure);
  print({
    error: known?.errorClass ?? null,
    code: grpc.status[failure.code],
    message: known?.message ?? failure.details,
    path: known?.agentPath ?? [],
    usage: usage(known?.usage),
    not_accepted: known?.notAccepted ?? false,
  });
  process.exitCode = 1;
}

function print(line) {
  console.log(JSON.stringify(line));
}

await verbs[verb]().catch(failed);
client.close();
