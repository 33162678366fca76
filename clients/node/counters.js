// Counters: a call each for inc and get, and for watch a stream that resumes.

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

import grpc from '@grpc/grpc-js';

import { call } from './channel.js';

// All attempts of the service config have the same request id. If they fail with the outcome
// UNKNOWN, or without an outcome, the same id may be sent again to find out.
export async function increment(client, counter, delta, requestId) {
  const request = { counter, delta: String(delta), requestId };
  const { value, applied, revision, replayed } = await call(client, 'incrementCounter', request);
  console.log(`${value} applied=${applied} revision=${revision} replayed=${replayed}`);
}

// An id that carries its time.
export function uuid7() {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

export async function get(client, names) {
  const { counters } = await call(client, 'batchGetCounters', { counters: names });
  for (const counter of counters) console.log(describe(counter));
}

function describe({ name, value, revision }) {
  return `${name} ${value} ${revision}`;
}

// After a broken stream, opens another one, from the last revision on.
export async function watch(client, prefix, count) {
  let fromRevision = '0';
  let begun = false;
  let pauses = backoff();
  for (;;) {
    const answers = client.watchCounters({ prefix, fromRevision });
    try {
      for await (const answer of answers) {
        for (const line of changes(answer, begun)) {
          console.log(line);
          count -= 1n;
          if (count === 0n) return;
        }
        fromRevision = answer.revision;
        begun = true;
        pauses = backoff();
      }
    } catch (error) {
      if (error.code !== grpc.status.UNAVAILABLE) throw error;
    } finally {
      answers.cancel();
    }
    await sleep(pauses.next().value);
  }
}

function* changes({ counters, deleted, revision, restarted, synced }, begun) {
  // Deletions in between are unknown: the whole state follows.
  if (restarted && begun) yield 'restarted';
  yield* counters.map(describe);
  yield* deleted.map((name) => `${name} deleted`);
  if (synced) yield `synced ${revision}`;
}

// Pauses between attempts, in ms: each twice the last, up to a second, with jitter, so that the
// clients of a server that died do not all come to the next one together.
export function* backoff() {
  for (let delay = 50; ; delay = Math.min(2 * delay, 1_000)) {
    yield delay * (0.8 + 0.4 * Math.random());
  }
}
