// The agent itself: what this process adds to a mesh. It knows nothing of gRPC. Put your own in its place.

import { setTimeout as sleep } from 'node:timers/promises';
import grpc from '@grpc/grpc-js';
import { AixgoError } from './contract.js';

/**
 * Types a text word by word and answers with all of it in title case. It stands in for a model: every word that it
 * types is one token of unknown price, and `pace_ms` of the message's metadata is how long it takes over each.
 */
export const typist = {
  name: 'typist',
  role: 'writer',
  /** Calling it twice does no more than calling it once: a call that broke off may be tried on another instance. */
  idempotent: true,

  /** Yields pieces of text as they are known, and returns the reply. */
  async *run(message, call) {
    if (typeof message.payload !== 'string' || !message.payload.trim()) {
      throw new AixgoError('InvalidInput', grpc.status.INVALID_ARGUMENT, 'payload is no text; send words to type');
    }
    const words = message.payload.trim().split(/\s+/).map((word) => word[0].toUpperCase() + word.slice(1));
    const pace = Number(message.metadata.pace_ms ?? 0);
    for (const [index, word] of words.entries()) {
      call.afford(1);
      await sleep(pace, undefined, { signal: call.signal });
      call.spend({ completionTokens: 1 });
      yield index ? ` ${word}` : word;
    }
    return { payload: words.join(' '), metadata: { words: words.length }, sessionId: message.sessionId };
  },
};
