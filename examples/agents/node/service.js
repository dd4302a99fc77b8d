// AgentService over gRPC: requests in, replies, frames and typed statuses out. It maps and decides nothing.
// Below it: calls.js. Above it: agent.js, which listens.

import { once } from 'node:events';
import grpc from '@grpc/grpc-js';
import { AixgoError } from './contract.js';
import { Call, cancelled } from './calls.js';
import { decodeMessage, encodeReply } from './messages.js';

const { status } = grpc;

/** The implementation of AgentService for `calls`; `describe()` says what lives here at the moment. */
export function agentService(calls, describe) {
  const { instanceId } = describe();

  async function execute(rpc, respond) {
    try {
      const { agent, message, call } = open(calls, rpc);
      const reply = await calls.run(agent, message, call, () => {});
      respond(null, { message: encodeReply(reply, call), instanceId });
    } catch (thrown) {
      respond(typed(thrown).toStatus());
    }
  }

  async function executeStream(rpc) {
    let first = instanceId; // the first frame says which instance answers
    const send = (content) => {
      const room = rpc.cancelled || rpc.write({ ...content, instanceId: first });
      first = '';
      return room;
    };
    try {
      const { agent, message, call } = open(calls, rpc);
      const [agentPath, { signal }] = [call.path, call];
      const reply = await calls.run(agent, message, call, async (text) => {
        // A reader that is slow slows the agent down.
        if (!send({ event: { agentPath, delta: { text } } })) await once(rpc, 'drain', { signal });
      });
      send({ event: { agentPath, result: { message: encodeReply(reply, call) } } });
      rpc.end();
    } catch (thrown) {
      const error = typed(thrown);
      send({ error: error.toMessage() });
      rpc.emit('error', error.toStatus()); // ends the RPC with the same code as the frame
    }
  }

  return {
    describe: (_rpc, respond) => respond(null, describe()),
    execute,
    executeStream,
    deliver: (_rpc, respond) => respond(unsupported('this agent has no mailbox; use Execute').toStatus()),
    cancel: async (rpc, respond) => {
      const { callId } = rpc.request;
      if (callId) respond(null, await calls.cancel(callId));
      else respond(invalid('call_id is empty; send CallContext.call_id of the call').toStatus());
    },
    session: (rpc) => rpc.emit('error', unsupported('sessions are not offered; use Execute').toStatus()),
  };
}

/** Admit a call; the end of its RPC cancels it. */
function open(calls, rpc) {
  const agent = calls.admit(rpc.request.agent);
  const context = rpc.request.context ?? { agentPath: [], depth: 0, timeoutMs: 0, callId: '', sessionId: '' };
  const message = decodeMessage(rpc.request.message, context);
  const [header = ''] = rpc.metadata.get('traceparent');
  const call = new Call(agent.name, context, rpc.getDeadline(), context.traceparent || header);
  rpc.once('cancelled', () => call.stop(cancelled()));
  return { agent, message, call };
}

function typed(thrown) {
  return thrown instanceof AixgoError ? thrown : new AixgoError('InternalError', status.INTERNAL, 'the server failed');
}

function unsupported(message) {
  return new AixgoError('NotSupported', status.UNIMPLEMENTED, message);
}

function invalid(message) {
  return new AixgoError('InvalidInput', status.INVALID_ARGUMENT, message);
}
