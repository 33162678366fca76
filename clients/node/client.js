// A client of sumd, the gRPC service that adds numbers: see README.md.

import { createInterface } from 'node:readline';
import { pipeline } from 'node:stream/promises';

import grpc from '@grpc/grpc-js';

import { call, connect } from './channel.js';
import { get, increment, uuid7, watch } from './counters.js';
import { details, printError } from './errors.js';
import { parseInt64 } from './protos.js';
import { record } from './record.js';

const USAGE = `Usage:
  node client.js add ADDRESSES VALUE...    print the sum of the values
  node client.js each ADDRESSES            print the sum of each line of standard input
  node client.js load ADDRESSES SECONDS    call Add for that time, and count the failures

  node client.js inc ADDRESSES COUNTER DELTA [REQUEST_ID]    add to a counter, exactly once
  node client.js get ADDRESSES COUNTER...                    print the values of counters
  node client.js watch ADDRESSES PREFIX COUNT                print COUNT lines of state and changes
  node client.js record ADDRESSES SESSION_ID SESSION_TIME_MS
      add each line of standard input, COUNTER DELTA, exactly once; the time is that of the
      session's beginning, or 0 if its id is a UUIDv7

ADDRESSES is a comma-separated list of host:port.
`;

const LOAD_WORKERS = 4;

async function add(client, values) {
  const { sum } = await call(client, 'add', { values: values.map(String) });
  return BigInt(sum);
}

// The pipeline sends while it receives, and reads no further line while flow control stops it.
async function each(client, input) {
  let unreadable;
  await pipeline(
    createInterface({ input }),
    async function* requests(lines) {
      let number = 0;
      for await (const line of lines) {
        number += 1;
        try {
          yield { values: line.split(/\s+/).filter(Boolean).map(parseInt64).map(String) };
        } catch (error) {
          // If it were thrown, the stream would break: the lines before still get their responses.
          unreadable = new Error(`line ${number}: ${error.message}`);
          return;
        }
      }
    },
    client.addEach(),
    async function print(answers) {
      for await (const { result, sum, error } of answers) {
        console.log(
          result === 'sum'
            ? sum
            : `error: ${grpc.status[error.code]} ${error.message} (${details(error).join('; ')})`,
        );
      }
    },
  );
  if (unreadable) throw unreadable;
}

async function load(client, seconds) {
  const end = performance.now() + seconds * 1000;
  const errors = [];
  let calls = 0;

  async function work() {
    for (let n = 0n; performance.now() < end; n += 1n) {
      calls += 1;
      try {
        const sum = await add(client, [n, 1n]);
        if (sum !== n + 1n) throw new Error(`${n} + 1 was answered by ${sum}`);
      } catch (error) {
        errors.push(error);
      }
    }
  }

  await Promise.all(Array.from({ length: LOAD_WORKERS }, work));
  console.log(`calls=${calls} failed=${errors.length}`);
  if (errors.length) throw errors[0];
}

// Returns the command of the arguments, as a function of the clients; false, or an exception, if they
// are invalid.
function parseArguments([command, addresses, ...rest]) {
  if (!addresses) return false;
  switch (command) {
    case 'add': {
      const values = rest.map(parseInt64);
      return rest.length > 0 && (async ({ sums }) => console.log(String(await add(sums, values))));
    }
    case 'each':
      return rest.length === 0 && (({ sums }) => each(sums, process.stdin));
    case 'load': {
      const seconds = Number(rest[0]);
      return rest.length === 1 && Number.isFinite(seconds) && (({ sums }) => load(sums, seconds));
    }
    case 'inc': {
      const [counter, delta, requestId = uuid7()] = rest;
      const value = parseInt64(delta);
      return (
        rest.length <= 3 &&
        requestId &&
        (({ counters }) => increment(counters, counter, value, requestId))
      );
    }
    case 'get':
      return rest.length > 0 && (({ counters }) => get(counters, rest));
    case 'watch': {
      const [prefix, count] = [rest[0], parseInt64(rest[1])];
      return rest.length === 2 && count >= 1n && (({ counters }) => watch(counters, prefix, count));
    }
    case 'record': {
      const [id, beginMs] = [rest[0], Number(parseInt64(rest[1]))];
      return rest.length === 2 && (({ counters }) => record(counters, id, beginMs, process.stdin));
    }
    default:
      return false;
  }
}

let command;
try {
  command = parseArguments(process.argv.slice(2));
} catch {
  // not a number
}
if (!command) {
  process.stderr.write(USAGE);
  process.exit(2);
}
try {
  const clients = await connect(process.argv[3]);
  await command(clients).finally(() => clients.sums.close());
} catch (error) {
  printError(error);
  process.exitCode = 1;
}
