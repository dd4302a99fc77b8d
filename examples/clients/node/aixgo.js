// The contract of aixgo in Node: the generated-at-run-time client of AgentService, and errors with their details.
// Above it: client.js.

import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import { fromJSON } from '@grpc/proto-loader';
import protobuf from 'protobufjs';

const EXAMPLES = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const PLACES = [['aixgo/', join(EXAMPLES, '..', 'proto')], ['google/rpc/', join(EXAMPLES, 'proto')]];
/** Numbers instead of Long, names instead of enum numbers, unset fields as their defaults. */
const PLAIN = { longs: Number, enums: String, defaults: true, arrays: true, oneofs: true };

const root = new protobuf.Root();
root.resolvePath = (_origin, target) => {
  const place = PLACES.find(([prefix]) => target.startsWith(prefix));
  return place ? join(place[1], target) : target; // google/protobuf/* comes with protobufjs
};
root.loadSync(['aixgo/v1/agent.proto', 'google/rpc/status.proto']);

const Status = root.lookupType('google.rpc.Status');
const AixgoError = root.lookupType('aixgo.v1.Error');

/** The client class of aixgo.v1.AgentService, for `new AgentService(address, credentials)`. */
export const { AgentService } = grpc.loadPackageDefinition(fromJSON(root.toJSON(), PLAIN)).aixgo.v1;

/**
 * The aixgo.v1.Error that a failed RPC carries, or null. Null means that no aixgo server answered: the transport, or
 * a proxy, is what failed.
 */
export function errorDetails(failure) {
  const [packed] = failure.metadata?.get('grpc-status-details-bin') ?? [];
  if (!packed) return null;
  const detail = Status.decode(packed).details.find((any) => any.type_url.endsWith('/aixgo.v1.Error'));
  return detail ? AixgoError.toObject(AixgoError.decode(detail.value), PLAIN) : null;
}

/** What a message says: text, a JSON value, or bytes. */
export function payload(message) {
  if (message?.payload === 'json') return JSON.parse(message.json.toString());
  return message?.payload === 'data' ? message.data : message?.text ?? '';
}
