// grpc.health.v1: whether the process and each of its agents serve. The control plane asks for the process ("").
// Below it: nothing of aixgo. Above it: agent.js.

import grpc from '@grpc/grpc-js';

/** What serves, by name, and who watches it. */
export class HealthService {
  #states = new Map();
  #watchers = new Map();

  /** Say whether `name` serves ("" is the process). */
  set(name, serves) {
    this.#states.set(name, serves ? 'SERVING' : 'NOT_SERVING');
    for (const rpc of this.#watchers.get(name) ?? []) rpc.write(this.#answer(name));
  }

  /** Say that nothing serves any more, and end the watches. */
  shutDown() {
    for (const name of this.#states.keys()) this.set(name, false);
    for (const rpc of [...this.#watchers.values()].flatMap((watchers) => [...watchers])) rpc.end();
  }

  /** The service for a grpc.Server. */
  get implementation() {
    return { check: (rpc, respond) => this.#check(rpc, respond), watch: (rpc) => this.#watch(rpc) };
  }

  #check({ request }, respond) {
    if (this.#states.has(request.service)) respond(null, this.#answer(request.service));
    else respond({ code: grpc.status.NOT_FOUND, details: `nothing named '${request.service}' is here` });
  }

  #watch(rpc) {
    const { service } = rpc.request;
    const watchers = this.#watchers.get(service) ?? new Set();
    this.#watchers.set(service, watchers.add(rpc));
    rpc.once('close', () => watchers.delete(rpc)).once('cancelled', () => watchers.delete(rpc));
    rpc.write(this.#answer(service));
  }

  #answer(service) {
    return { status: this.#states.get(service) ?? 'SERVICE_UNKNOWN' };
  }
}
