// Finds and calls servers.

import { lookup } from 'node:dns/promises';

import grpc from '@grpc/grpc-js';

import { CounterService, SumService } from './protos.js';

const DEADLINE_MS = 5_000;

const RETRY_POLICY = {
  maxAttempts: 4,
  initialBackoff: '0.05s',
  maxBackoff: '1s',
  backoffMultiplier: 2,
  retryableStatusCodes: ['UNAVAILABLE'],
};

// Calls rotate over the servers. Sums have no side effects, so a call that a dying server left
// unanswered is sent again, to the next server. Streams live as long as their input: they have no
// timeout, so they must not wait for a server for ever either.
//
// An increment is sent again, too, but only because each has a request_id here, by which the server
// counts it once. The streams of counters have no policy: they resume after the last response that
// they received.
//
// Two settings have an effect in other languages' gRPC, but not in grpc-js 1.14. healthCheckConfig:
// grpc-js goes on calling a server that reports itself unhealthy, until the server closes the
// connection (GOAWAY). waitForReady: grpc-js reads it only from a call's metadata; `call` sets it.
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
    {
      name: [
        { service: 'sum.v1.CounterService', method: 'IncrementCounter' },
        { service: 'sum.v1.CounterService', method: 'BatchGetCounters' },
      ],
      waitForReady: true,
      timeout: '5s',
      retryPolicy: RETRY_POLICY,
    },
  ],
};

// The clients of the two services, on one channel. Closing one closes both.
export async function connect(addresses) {
  const [first, ...others] = addresses.split(',');
  // If a DNS name has an address for each server, gRPC balances over them. A list must have IP
  // addresses.
  const target = others.length
    ? `ipv4:${(await Promise.all([first, ...others].map(resolve))).join(',')}`
    : first;
  const credentials = grpc.credentials.createInsecure();
  const sums = new SumService(target, credentials, {
    'grpc.service_config': JSON.stringify(SERVICE_CONFIG),
  });
  const counters = new CounterService(target, credentials, { channelOverride: sums.getChannel() });
  return { sums, counters };
}

async function resolve(address) {
  const [host, port] = address.split(/:(?=\d+$)/);
  return `${(await lookup(host, 4)).address}:${port}`;
}

// A unary call, as a promise.
export function call(client, method, request) {
  const metadata = new grpc.Metadata({ waitForReady: true });
  const options = { deadline: Date.now() + DEADLINE_MS };
  return new Promise((resolve, reject) => {
    client[method](request, metadata, options, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}
