// The contract of aixgo in Node: its services, and errors with their details in both directions.
// Above it lie all other files of this folder.

import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import { fromJSON } from '@grpc/proto-loader';
import protobuf from 'protobufjs';

const EXAMPLES = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const PLACES = [
  ['aixgo/', join(EXAMPLES, '..', 'proto')],
  ['google/rpc/', join(EXAMPLES, 'proto')],
  ['grpc/health/', join(EXAMPLES, 'proto')],
];
/** Numbers instead of Long, names instead of enum numbers, unset fields as their defaults. */
const PLAIN = { longs: Number, enums: String, defaults: true, arrays: true, oneofs: true };

const root = new protobuf.Root();
root.resolvePath = (_origin, target) => {
  const place = PLACES.find(([prefix]) => target.startsWith(prefix));
  return place ? join(place[1], target) : target; // google/protobuf/* comes with protobufjs
};
root.loadSync([
  'aixgo/v1/agent.proto', 'aixgo/v1/registry.proto', 'google/rpc/status.proto', 'grpc/health/v1/health.proto',
]);

const loaded = grpc.loadPackageDefinition(fromJSON(root.toJSON(), PLAIN));
const Status = root.lookupType('google.rpc.Status');
const ErrorMessage = root.lookupType('aixgo.v1.Error');
const DETAILS = 'grpc-status-details-bin';

export const { AgentService, RegistryService } = loaded.aixgo.v1;
export const { Health } = loaded.grpc.health.v1;

/** Bytes of an error's text, in the status and in the details: both travel in HTTP/2 headers of limited size. */
const MAX_STATUS_TEXT = 256;
const MAX_ERROR_TEXT = 2048;

/**
 * An error that crosses the wire: `errorClass` is a class of aixgo (docs/PROTOCOL.md lists them) and `code` its gRPC
 * status. `accepted: false` says that no agent saw the call, so that the caller may try another instance.
 */
export class AixgoError extends Error {
  constructor(errorClass, code, message, { accepted = true, retryAfterMs = 0, fields = {} } = {}) {
    super(message);
    Object.assign(this, { errorClass, code, accepted, retryAfterMs, fields });
    this.path = [];
    this.usage = null;
  }

  /** The error as aixgo.v1.Error. */
  toMessage() {
    return {
      code: this.code,
      message: cut(this.message, MAX_ERROR_TEXT),
      errorClass: this.errorClass,
      agentPath: this.path,
      usage: this.usage,
      notAccepted: !this.accepted,
      retryAfterMs: this.retryAfterMs,
      fields: Object.keys(this.fields).length ? Buffer.from(JSON.stringify(this.fields)) : Buffer.alloc(0),
    };
  }

  /** The error as what grpc-js ends an RPC with: a google.rpc.Status goes along as a trailer. */
  toStatus() {
    const text = cut(this.message, MAX_STATUS_TEXT);
    const value = ErrorMessage.encode(ErrorMessage.fromObject(this.toMessage())).finish();
    const detail = { type_url: 'type.googleapis.com/aixgo.v1.Error', value };
    const metadata = new grpc.Metadata();
    metadata.set(DETAILS, Buffer.from(Status.encode({ code: this.code, message: text, details: [detail] }).finish()));
    return { code: this.code, details: text, metadata };
  }
}

/** The aixgo.v1.Error that a failed RPC carries, its fields decoded; null: the transport is what failed. */
export function errorDetails(failure) {
  const [packed] = failure.metadata?.get(DETAILS) ?? [];
  if (!packed) return null;
  const detail = Status.decode(packed).details.find((any) => any.type_url.endsWith('/aixgo.v1.Error'));
  if (!detail) return null;
  const error = ErrorMessage.toObject(ErrorMessage.decode(detail.value), PLAIN);
  return { ...error, fields: error.fields.length ? JSON.parse(Buffer.from(error.fields).toString()) : {} };
}

function cut(text, bytes) {
  const encoded = Buffer.from(text);
  if (encoded.length <= bytes) return text;
  return `${encoded.subarray(0, bytes - 4).toString().replace(/\uFFFD+$/, '')}…`;
}
