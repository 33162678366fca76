// A client of sumd, the gRPC service that sums integers: see README.md.

import { lookup } from 'node:dns/promises';
import { createInterface } from 'node:readline';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const USAGE = `Usage:
  node client.js add ADDRESSES VALUE...    print the sum of the values
  node client.js each ADDRESSES            print the sum of each line of standard input
  node client.js load ADDRESSES SECONDS    call Add for so long, and count the failures

ADDRESSES is a comma-separated list of host:port.
`;

const ADD_DEADLINE_MS = 5_000;
const LOAD_WORKERS = 4;

const RETRY_POLICY = {
  maxAttempts: 4,
  initialBackoff: '0.05s',
  maxBackoff: '1s',
  backoffMultiplier: 2,
  retryableStatusCodes: ['UNAVAILABLE'],
};

// Calls go round the servers. Sums have no side effects, so a call that a dying server left
// unanswered is simply sent again, to the next one. Streams live as long as their input: they have
// no timeout, and so must not wait for ever for a server either.
//
// Two settings have an effect in other languages' gRPC, but not in grpc-js 1.14. healthCheckConfig:
// it goes on calling a server that reports itself unhealthy, until that one closes the connection
// (GOAWAY). waitForReady: it heeds a call's metadata alone, where `add` sets it.
const SERVICE_CONFIG = {
  loadBalancingConfig: [{ round_robin: {} }],
  healthCheckConfig: { serviceName: 'sum.v1.SumService' },
  methodConfig: [
    {
      name: [{ service: 'sum.v1.SumService', method: 'Add' }],
      waitForReady: true,
      timeout: '5s',
      retryPolicy: RETRY_POLICY,
    },
    { name: [{ service: 'sum.v1.SumService' }], retryPolicy: RETRY_POLICY },
  ],
};

const definitions = protoLoader.loadSync(['sum/v1/sum.proto', 'error_details.proto'], {
  includeDirs: ['../../proto', '.'].map((dir) => fileURLToPath(new URL(dir, import.meta.url))),
  // A JavaScript number is exact up to 2^53 only: an int64 comes as a string, to make a BigInt of.
  longs: String,
  defaults: true,
  oneofs: true,
});
const { SumService } = grpc.loadPackageDefinition(definitions).sum.v1;

async function connect(addresses) {
  const [first, ...others] = addresses.split(',');
  // A DNS name with an address for each server is balanced over as it is; a list has to be one of
  // IP addresses.
  const target = others.length
    ? `ipv4:${(await Promise.all([first, ...others].map(resolve))).join(',')}`
    : first;
  return new SumService(target, grpc.credentials.createInsecure(), {
    'grpc.service_config': JSON.stringify(SERVICE_CONFIG),
  });
}

async function resolve(address) {
  const [host, port] = address.split(/:(?=\d+$)/);
  return `${(await lookup(host, 4)).address}:${port}`;
}

function add(client, values) {
  const metadata = new grpc.Metadata({ waitForReady: true });
  const options = { deadline: Date.now() + ADD_DEADLINE_MS };
  return new Promise((resolve, reject) => {
    client.add({ values: values.map(String) }, metadata, options, (error, response) =>
      error ? reject(error) : resolve(BigInt(response.sum)),
    );
  });
}

// The pipeline sends while it receives, and reads no further line while flow control has it wait.
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
          // Thrown, it would break off the stream: the lines before it still get their answers.
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

// protobufjs would wrap a value out of range without a word.
function parseInt64(word) {
  if (!/^[+-]?\d+$/.test(word) || BigInt.asIntN(64, BigInt(word)) !== BigInt(word)) {
    throw new RangeError(`"${word}" is not a 64-bit integer`);
  }
  return BigInt(word);
}

// What programs go by: the message of a status is for people, and may change.
function details(status) {
  return status.details.map(({ type_url: url, value }) => {
    const type = url.slice(url.lastIndexOf('/') + 1);
    const detail = definitions[type]?.deserialize(value);
    switch (type) {
      case 'google.rpc.ErrorInfo': {
        const { reason, domain, metadata } = detail;
        const pairs = Object.entries(metadata).sort();
        return [['reason', reason], ['domain', domain], ...pairs]
          .map((pair) => pair.join('='))
          .join(', ');
      }
      case 'google.rpc.RetryInfo':
        return `retry_delay=${Number(detail.retryDelay.seconds) + detail.retryDelay.nanos / 1e9}s`;
      default:
        return url;
    }
  });
}

function printError(error) {
  if (!(error.metadata instanceof grpc.Metadata)) {
    console.error(`error: ${error.message}`); // not from a call
    return;
  }
  console.error(`error: ${grpc.status[error.code]}: ${error.details}`);
  for (const status of error.metadata.get('grpc-status-details-bin')) {
    for (const detail of details(definitions['google.rpc.Status'].deserialize(status))) {
      console.error(`  ${detail}`);
    }
  }
}

// What the arguments ask for, as a function of a client; undefined where they are wrong.
function parseArguments([command, addresses, ...rest]) {
  if (command === 'add' && addresses && rest.length > 0) {
    try {
      const values = rest.map(parseInt64);
      return async (client) => console.log(String(await add(client, values)));
    } catch {
      return undefined;
    }
  }
  if (command === 'each' && addresses && rest.length === 0) {
    return (client) => each(client, process.stdin);
  }
  if (command === 'load' && addresses && rest.length === 1 && Number.isFinite(Number(rest[0]))) {
    return (client) => load(client, Number(rest[0]));
  }
  return undefined;
}

const command = parseArguments(process.argv.slice(2));
if (!command) {
  process.stderr.write(USAGE);
  process.exit(2);
}
try {
  const client = await connect(process.argv[3]);
  await command(client).finally(() => client.close());
} catch (error) {
  printError(error);
  process.exitCode = 1;
}
