// Messages as agents see them: `{ payload, metadata, sessionId }`, the payload a string, a Buffer or a JSON value.
// Below it: contract.js, for the errors. Above it: service.js.

import { randomBytes } from 'node:crypto';
import grpc from '@grpc/grpc-js';
import { AixgoError } from './contract.js';

/** A message from the wire. Throws InvalidMessage for broken JSON, and for metadata that is no object. */
export function decodeMessage(message, context) {
  const metadata = message?.metadata.length ? decodeJson(message.metadata, 'metadata') : {};
  if (metadata === null || typeof metadata !== 'object' || Array.isArray(metadata)) {
    throw invalid('metadata is no JSON object; send an object, or leave it empty');
  }
  return { payload: payload(message), metadata, sessionId: message?.sessionId || context.sessionId };
}

/** The reply of a call for the wire, with what it cost. Throws InvalidReply for what cannot be sent. */
export function encodeReply(reply, call) {
  try {
    const { payload: content, metadata = {}, sessionId = '' } = reply;
    const encoded = { id: randomBytes(16).toString('hex'), sessionId, usage: call.usage };
    if (typeof content === 'string') encoded.text = content;
    else if (Buffer.isBuffer(content)) encoded.data = content;
    else encoded.json = Buffer.from(JSON.stringify(content));
    if (Object.keys(metadata).length) encoded.metadata = Buffer.from(JSON.stringify(metadata));
    return encoded;
  } catch (error) { // no object, or not JSON
    const text = `the reply cannot be sent: ${error.message}`;
    throw call.failure(new AixgoError('InvalidReply', grpc.status.INTERNAL, text));
  }
}

function payload(message) {
  if (message?.payload === 'json') return decodeJson(message.json, 'payload');
  return message?.payload === 'data' ? message.data : message?.text ?? '';
}

function decodeJson(bytes, field) {
  try {
    return JSON.parse(Buffer.from(bytes).toString());
  } catch (error) {
    throw invalid(`${field} is not valid JSON: ${error.message}`);
  }
}

function invalid(message) {
  return new AixgoError('InvalidMessage', grpc.status.INVALID_ARGUMENT, message);
}
