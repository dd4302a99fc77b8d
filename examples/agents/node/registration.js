// Keeping this process listed: one lease at each control plane, renewed for as long as the process lives.
// Owns the instance's `seq`. Below it: contract.js. Above it: agent.js, which says what the instance is.

import { once } from 'node:events';
import { promisify } from 'node:util';
import grpc from '@grpc/grpc-js';
import { RegistryService, errorDetails } from './contract.js';

/** Milliseconds that a control plane may take to answer. */
const TIMEOUT = 2000;
/** Milliseconds between attempts to register: doubled each time, and half of it random. */
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 1000;
/** The channel itself tries to connect no less often than that. */
const CHANNEL = {
  'grpc.initial_reconnect_backoff_ms': FIRST_PAUSE,
  'grpc.max_reconnect_backoff_ms': LONGEST_PAUSE,
};

/** Registers what `describe()` says at each control plane. No control plane can take the process down. */
export class Registrar {
  #describe;
  #seq = 1;
  #leases;

  constructor(controlPlanes, describe) {
    this.#describe = describe;
    this.#leases = controlPlanes.map((address) => new Lease(address, this));
  }

  /** What is announced: the instance as it is now, under the present `seq`. */
  get instance() {
    return { ...this.#describe(), seq: this.#seq };
  }

  /** Register everywhere, and stay registered. Resolves when one control plane lists the instance. */
  async open() {
    for (const lease of this.#leases) lease.keep();
    await Promise.any(this.#leases.map((lease) => lease.listed()));
  }

  /** Tell every control plane that the instance has changed. Resolves when they know, or after TIMEOUT. */
  async announce() {
    this.#seq += 1;
    for (const lease of this.#leases) lease.wake();
    await atMost(TIMEOUT, Promise.all(this.#leases.map((lease) => lease.listed())));
  }

  /** A control plane knows a higher `seq` of this instance: announce one above it. For the leases. */
  outbid(seq) {
    this.#seq = Math.max(this.#seq, seq) + 1;
    for (const lease of this.#leases) lease.wake();
  }

  /** Deregister everywhere, for TIMEOUT at most. */
  async close() {
    this.#seq += 1;
    await atMost(TIMEOUT, Promise.all(this.#leases.map((lease) => lease.end())));
  }
}

/** One instance at one control plane: registered, renewed, registered again. */
class Lease {
  #stub;
  #owner;
  #address;
  #listedSeq = 0;
  #closing = false;
  #woken = false;
  #wake = () => {};
  #waiting = [];

  constructor(address, owner) {
    this.#stub = new RegistryService(address, grpc.credentials.createInsecure(), CHANNEL);
    this.#address = address;
    this.#owner = owner;
  }

  /** Look again now: something has changed. */
  wake() {
    this.#woken = true;
    this.#wake();
  }

  /** Resolves when the control plane lists the instance as it is now. */
  listed() {
    if (this.#listedSeq === this.#owner.instance.seq) return Promise.resolve();
    return new Promise((resolve) => { this.#waiting.push(resolve); });
  }

  /** Stay registered until `end`. */
  async keep() {
    let pause = FIRST_PAUSE;
    while (!this.#closing) {
      try {
        const lease = await this.#register();
        pause = FIRST_PAUSE;
        await this.#renew(lease);
      } catch (failure) {
        if (this.#closing) return;
        console.error(`control plane ${this.#address}: ${failure.details || failure.message}; registering again`);
        this.#outbidBy(failure);
      }
      this.#listedSeq = 0;
      await this.#sleep(pause * (0.5 + Math.random() / 2));
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }

  /** Deregister and hang up. */
  async end() {
    this.#closing = true;
    const { instanceId, seq } = this.#owner.instance;
    await this.#call('deregister', { instanceId, seq }).catch(() => {}); // else the lease expires
    this.wake();
    this.#stub.close();
  }

  /** Register what is announced; resolves to the milliseconds that the lease lasts. */
  async #register() {
    const { instance } = this.#owner;
    const granted = await this.#call('register', { instance });
    this.#listedSeq = instance.seq;
    if (this.#listedSeq === this.#owner.instance.seq) this.#waiting.splice(0).forEach((resolve) => resolve());
    return granted.leaseMs;
  }

  /** Renew every third of the lease, and register anew when the instance has changed or the lease is not known. */
  async #renew(lease) {
    let left = lease;
    const renewals = this.#stub.renew();
    let broken = null;
    renewals.on('error', (failure) => { broken = failure; this.wake(); });
    renewals.on('end', () => { broken ??= new Error('it ended the renewals'); this.wake(); });
    try {
      for (;;) {
        await this.#sleep(left / 3);
        if (broken || this.#closing) throw broken ?? new Error('closing');
        const { instanceId, seq } = this.#owner.instance;
        if (this.#listedSeq === seq) {
          renewals.write({ instanceId, seq });
          const [answer] = await once(renewals, 'data', { signal: AbortSignal.timeout(TIMEOUT) });
          if (answer.known) continue;
        }
        left = await this.#register();
      }
    } finally {
      renewals.cancel();
    }
  }

  #outbidBy(failure) {
    const known = failure.code === grpc.status.FAILED_PRECONDITION ? errorDetails(failure) : null;
    if (Number.isInteger(known?.fields.seq)) this.#owner.outbid(known.fields.seq);
  }

  #call(method, request) {
    return promisify(this.#stub[method].bind(this.#stub))(request, { deadline: Date.now() + TIMEOUT });
  }

  /** Wait for `milliseconds`, or until `wake`. */
  async #sleep(milliseconds) {
    if (!this.#woken) {
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, milliseconds);
        this.#wake = () => { clearTimeout(timer); resolve(); };
      });
    }
    this.#woken = false;
  }
}

function atMost(milliseconds, promise) {
  let timer;
  const late = new Promise((resolve) => { timer = setTimeout(resolve, milliseconds); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
