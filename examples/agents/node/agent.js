// An aixgo agent in Node: node agent.js [--listen HOST:PORT] [--advertise HOST:PORT] [--control-plane HOST:PORT ...]
//
// Wiring of its parts: typist.js (the agent), calls.js and service.js (serving it), health.js, registration.js.
// The environment says the same as to every process of aixgo: AIXGO_LISTEN, AIXGO_ADVERTISE_ADDRESS,
// AIXGO_CONTROL_PLANE. It prints one line of JSON when it serves, and drains on SIGTERM and SIGINT.

import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs, promisify } from 'node:util';
import grpc from '@grpc/grpc-js';
import { AgentService, Health } from './contract.js';
import { Calls } from './calls.js';
import { HealthService } from './health.js';
import { Registrar } from './registration.js';
import { agentService } from './service.js';
import { typist } from './typist.js';

const AGENTS = [typist];
const MAX_MESSAGE_BYTES = 4 * 1024 * 1024;
/** Milliseconds that callers get to hear of a drain before calls are refused, and that running calls get to end. */
const DRAIN_PAUSE = 200;
const DRAIN_TIMEOUT = 10_000;

const { values: said } = parseArgs({
  options: {
    listen: { type: 'string', default: process.env.AIXGO_LISTEN ?? '127.0.0.1:0' },
    advertise: { type: 'string', default: process.env.AIXGO_ADVERTISE_ADDRESS },
    'control-plane': { type: 'string', multiple: true, default: fromEnvironment() },
  },
});

const instanceId = randomBytes(16).toString('hex');
const descriptors = AGENTS.map(({ name, role, idempotent }) => ({ name, role, idempotent, ready: true }));
let state = 'INSTANCE_STATE_READY';
let address = '';

const calls = new Calls(AGENTS);
const health = new HealthService();
const server = new grpc.Server({
  'grpc.max_receive_message_length': MAX_MESSAGE_BYTES + 64 * 1024, // the message's wrapping comes on top
  'grpc.max_send_message_length': MAX_MESSAGE_BYTES + 64 * 1024,
});

server.addService(AgentService.service, agentService(calls, () => ({
  instanceId, agents: descriptors, transports: ['plain'], version: 'typist/1', maxMessageBytes: MAX_MESSAGE_BYTES,
})));
server.addService(Health.service, health.implementation);

const port = await promisify(server.bindAsync.bind(server))(said.listen, grpc.ServerCredentials.createInsecure());
address = said.advertise ?? reachable(said.listen, port);
for (const name of ['', ...AGENTS.map((agent) => agent.name)]) health.set(name, true);

const controlPlanes = said['control-plane'];
const registrar = new Registrar(controlPlanes, () => ({
  instanceId,
  address,
  agents: descriptors,
  state,
  transports: ['plain'],
  version: 'typist/1',
  labels: { pid: String(process.pid), host: hostname() },
}));

let draining = false;
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => { if (!draining) drain(); });
if (controlPlanes.length) await registrar.open();
console.log(JSON.stringify({ address, instance_id: instanceId, pid: process.pid }));

/** No call fails: callers hear of the drain, calls that come late are refused so that they go elsewhere, others end. */
async function drain() {
  draining = true;
  state = 'INSTANCE_STATE_DRAINING';
  if (controlPlanes.length) await registrar.announce();
  health.shutDown();
  await sleep(DRAIN_PAUSE);
  await calls.finish(DRAIN_TIMEOUT);
  await registrar.close();
  server.tryShutdown(() => process.exit(0));
  setTimeout(() => process.exit(0), 500).unref(); // a caller that keeps its stream open keeps nobody waiting
}

/** The address that others are told; without a host it stands for the host that the control plane sees. */
function reachable(listen, bound) {
  const host = listen.slice(0, listen.lastIndexOf(':'));
  return ['0.0.0.0', '[::]', ''].includes(host) ? `:${bound}` : `${host}:${bound}`;
}

function fromEnvironment() {
  return (process.env.AIXGO_CONTROL_PLANE ?? '').split(',').map((one) => one.trim()).filter(Boolean);
}
