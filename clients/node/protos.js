// The contract in proto/, which the program reads when it starts.

import { fileURLToPath } from 'node:url';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

export const definitions = protoLoader.loadSync(
  ['sum/v1/sum.proto', 'sum/v1/counter.proto', 'error_details.proto'],
  {
    includeDirs: ['../../proto', '.'].map((dir) => fileURLToPath(new URL(dir, import.meta.url))),
    // A JavaScript number is exact only up to 2^53: an int64 comes as a string, for BigInt to parse.
    longs: String,
    defaults: true,
    oneofs: true,
  },
);
export const { SumService, CounterService } = grpc.loadPackageDefinition(definitions).sum.v1;

// protobufjs would silently wrap a value that is out of range.
export function parseInt64(word) {
  if (!/^[+-]?\d+$/.test(word) || BigInt.asIntN(64, BigInt(word)) !== BigInt(word)) {
    throw new RangeError(`"${word}" is not a 64-bit integer`);
  }
  return BigInt(word);
}
