// A bulk session: increments by the thousand, each exactly once.

import { EventEmitter, once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

import grpc from '@grpc/grpc-js';

import { backoff } from './counters.js';
import { reason } from './errors.js';
import { parseInt64 } from './protos.js';

const INCREMENTS_PER_MESSAGE = 100;
// The longest time to retry without progress.
const PATIENCE_MS = 30_000;

const RETRYABLE = [
  grpc.status.UNAVAILABLE, // the stream broke, or the server is stopping
  grpc.status.DEADLINE_EXCEEDED, // the input was silent for too long
  // The server's memory is full, or failures are to be acknowledged first.
  grpc.status.RESOURCE_EXHAUSTED,
];

// Adds each line exactly once. After a crash of the client, the same command with the same input
// finishes the work: acknowledged messages are not sent again.
export async function record(client, id, beginMs, input) {
  const session = new Session(id, beginMs);
  const reading = session.read(input);
  reading.catch(() => {}); // `await reading` throws it at the end
  try {
    await session.run(client);
  } finally {
    input.destroy();
    console.log(`acknowledged=${session.acknowledged} failed=${session.failed}`);
  }
  await reading;
}

// Stops at an invalid line, and leaves out its message. So messages have the same numbers and
// contents when the command runs again with the line fixed.
async function* messages(input) {
  let message = [];
  let number = 0;
  for await (const line of createInterface({ input })) {
    number += 1;
    const space = line.lastIndexOf(' '); // a counter's name may have spaces
    try {
      if (space < 0) throw new Error(`"${line}" is not a counter and a delta`);
      const delta = String(parseInt64(line.slice(space + 1)));
      message.push({ counter: line.slice(0, space), delta });
    } catch (error) {
      throw new Error(`line ${number}: ${error.message}`);
    }
    if (message.length === INCREMENTS_PER_MESSAGE) {
      yield message;
      message = [];
    }
  }
  if (message.length > 0) yield message;
}

// A session outlives its streams: unacknowledged messages are kept, and sent again, unchanged, on
// the next stream.
class Session {
  acknowledged = 0;
  // The increments of the messages acknowledged + 1, acknowledged + 2 and so on.
  unacknowledged = [];
  window = 0; // until the stream's first response
  inputEnded = false;
  failed = 0;
  progress = true; // whether there was progress since this was false
  changes = new EventEmitter(); // of the fields above

  constructor(id, beginMs) {
    this.id = id;
    // A UUIDv7 carries its time.
    this.time = beginMs
      ? { seconds: Math.floor(beginMs / 1e3), nanos: (beginMs % 1e3) * 1e6 }
      : undefined;
  }

  async until(condition) {
    while (!condition()) await once(this.changes, 'change');
  }

  async read(input) {
    let sequence = 0;
    try {
      for await (const increments of messages(input)) {
        sequence += 1;
        await this.until(() => this.unacknowledged.length < this.window);
        if (sequence <= this.acknowledged) continue; // an earlier run has sent it
        this.unacknowledged.push(increments);
        this.changes.emit('change');
      }
    } finally {
      this.inputEnded = true;
      this.changes.emit('change');
    }
  }

  get done() {
    return this.inputEnded && this.unacknowledged.length === 0;
  }

  // Opens one stream after the other until all messages are acknowledged.
  async run(client) {
    let pauses;
    let giveUp;
    for (;;) {
      let problem;
      try {
        await this.stream(client);
        problem = new Error('the server ended the stream early');
      } catch (error) {
        problem = error;
        if (!this.done && !RETRYABLE.includes(error.code)) throw error;
      }
      if (this.done) return;
      if (this.progress) {
        pauses = backoff();
        giveUp = performance.now() + PATIENCE_MS;
        this.progress = false;
      }
      const pause = pauses.next().value;
      if (performance.now() + pause > giveUp) throw problem;
      await sleep(pause);
    }
  }

  // Exchanges messages on one stream.
  async stream(client) {
    const call = client.recordIncrements();
    call.on('drain', () => this.changes.emit('change'));
    call.on('error', () => {}); // the loop below throws it, unless it has ended
    let ended = false;
    this.window = 0;
    const sending = this.send(call, () => ended);
    try {
      for await (const answer of call) this.acknowledge(answer);
    } finally {
      ended = true;
      this.changes.emit('change');
      await sending;
    }
  }

  async send(call, ended) {
    // This names the session. The response has the last acknowledged message, and the window.
    const { id: sessionId, time: sessionTime, acknowledged } = this;
    call.write({ sessionId, sessionTime, acknowledged });
    let sent = 0;
    for (;;) {
      await this.until(
        () => ended() || this.done || (this.maySendAfter(sent) && !call.writableNeedDrain),
      );
      if (ended()) return;
      if (this.done) break;
      sent = Math.max(sent, this.acknowledged) + 1;
      const increments = this.unacknowledged[sent - this.acknowledged - 1];
      call.write({ sequence: sent, acknowledged: this.acknowledged, increments });
    }
    // This lets the server drop the last failures.
    call.write({ acknowledged: this.acknowledged });
    call.end();
  }

  maySendAfter(sent) {
    const sendable = Math.min(this.window, this.unacknowledged.length);
    return Math.max(sent, this.acknowledged) < this.acknowledged + sendable;
  }

  acknowledge({ acknowledged, failures, window }) {
    for (const { sequence, index, error } of failures) {
      if (Number(sequence) <= this.acknowledged) continue; // known from an earlier stream
      this.failed += 1;
      console.log(`failed ${sequence} ${index} ${grpc.status[error.code]} reason=${reason(error)}`);
    }
    const news = Math.max(Number(acknowledged) - this.acknowledged, 0);
    this.unacknowledged.splice(0, news);
    this.acknowledged += news;
    this.window = window;
    // A stream on which nothing was left to do counts as progress, too.
    this.progress ||= news > 0 || this.unacknowledged.length === 0;
    this.changes.emit('change');
  }
}
